//! Watches that nodes live: a node whose lease is old gets Unknown conditions, and taints follow the conditions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::pods;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "node-lifecycle-controller",
    account: "node-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions that the kubelet keeps up to date.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// (condition, status, taint): taints with effect NoSchedule.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn condition<'a>(conditions: &'a [NodeCondition], kind: &str) -> Option<&'a NodeCondition> {
    conditions.iter().find(|c| c.type_ == kind)
}

fn conditions_of(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// The conditions of a node that has stopped reporting; `None` when they say so already.
fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let present = conditions_of(node);
    let mut next = present.to_vec();
    let mut changed = false;
    for kind in REPORTED {
        match next.iter_mut().find(|c| c.type_ == *kind) {
            Some(c) if c.status == "Unknown" => {}
            Some(c) => {
                c.status = "Unknown".to_owned();
                c.reason = Some("NodeStatusUnknown".to_owned());
                c.message = Some("Kubelet stopped posting node status.".to_owned());
                c.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                next.push(NodeCondition {
                    type_: (*kind).to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(next)
}

/// The taints that a node should have; `None` when it has them.
fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let conditions = conditions_of(node);
    let spec = node.spec.clone().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = BY_CONDITION
        .iter()
        .filter(|(kind, status, _)| condition(conditions, kind).is_some_and(|c| c.status == *status))
        .map(|(_, _, taint)| (*taint, "NoSchedule"))
        .collect();
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    match condition(conditions, "Ready").map(|c| c.status.as_str()) {
        Some("False") => wanted.push((NOT_READY, "NoExecute")),
        Some("True") => {}
        Some(_) => wanted.push((UNREACHABLE, "NoExecute")),
        // Nothing was reported yet: the node keeps what it registered with.
        None => return None,
    }
    let managed = |t: &Taint| match t.effect.as_str() {
        "NoSchedule" => BY_CONDITION.iter().any(|(_, _, k)| *k == t.key) || t.key == UNSCHEDULABLE,
        "NoExecute" => t.key == NOT_READY || t.key == UNREACHABLE,
        _ => false,
    };
    let present = spec.taints.unwrap_or_default();
    let mut next: Vec<Taint> = present
        .iter()
        .filter(|t| !managed(t) || wanted.iter().any(|(k, e)| *k == t.key && *e == t.effect))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !next.iter().any(|t| t.key == key && t.effect == effect) {
            next.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (next != present).then_some(next)
}

struct Lifecycle {
    ctx: Arc<Ctx>,
    nodes: Arc<Store<Node>>,
    /// When each node last gave a sign of life, by our own clock.
    seen: Arc<Mutex<HashMap<String, Instant>>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let nodes = ctx.store::<Node>();
    let seen = Arc::new(Mutex::new(HashMap::<String, Instant>::new()));
    {
        let seen = seen.clone();
        ctx.store::<Lease>().on_event(move |event| {
            if let Event::Applied { new, old } = event
                && new.metadata.namespace.as_deref() == Some(LEASES)
                && old.as_ref().is_none_or(|o| renewed(o) != renewed(new))
            {
                seen.lock().insert(new.name_any(), Instant::now());
            }
        });
    }
    {
        let (queue, seen) = (queue.clone(), seen.clone());
        nodes.on_event(move |event| match event {
            Event::Applied { new, old } => {
                let heartbeat = |n: &Node| {
                    condition(conditions_of(n), "Ready").and_then(|c| c.last_heartbeat_time.clone())
                };
                if old.as_ref().is_none_or(|o| heartbeat(o) != heartbeat(new)) {
                    seen.lock().insert(new.name_any(), Instant::now());
                }
                queue.add(new.name_any());
            }
            Event::Deleted(old) => {
                seen.lock().remove(&old.name_any());
            }
        });
    }
    ctx.store::<Lease>().synced().await;
    nodes.synced().await;
    let lifecycle = Arc::new(Lifecycle { ctx: ctx.clone(), nodes, seen });
    work(ctx, queue, 4, move |name| {
        let lifecycle = lifecycle.clone();
        async move { lifecycle.reconcile(&name).await }
    })
    .await;
    Ok(())
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|t| t.0)
}

impl Lifecycle {
    async fn reconcile(&self, name: &str) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", name) else { return Ok(Action::Done) };
        let mut node = Node::clone(&node);
        let last = *self.seen.lock().entry(name.to_owned()).or_insert_with(Instant::now);
        let left = self.ctx.config.node_monitor_grace.checked_sub(last.elapsed()).filter(|d| !d.is_zero());
        let now = Timestamp::now();
        if left.is_none()
            && let Some(conditions) = silenced(&node, now)
        {
            let was_ready = condition(conditions_of(&node), "Ready").is_some_and(|c| c.status == "True");
            node.status.get_or_insert_default().conditions = Some(conditions);
            let api = self.ctx.api_all::<Node>();
            let result = api.replace_status(name, &PostParams::default(), &node).await;
            node = result.during("update status of", "Node", "", name)?;
            if was_ready {
                let about = reference("v1", "Node", &node.metadata);
                let note = format!("Node {name} status is now: NodeNotReady");
                self.ctx.event(&about, EventType::Normal, "NodeNotReady", &note);
            }
        }
        if let Some(taints) = taints(&node, now) {
            let patch = json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            let api = self.ctx.api_all::<Node>();
            let result = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match result.during("patch", "Node", "", name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        if condition(conditions_of(&node), "Ready").is_some_and(|c| c.status != "True") {
            self.unready_pods(name).await?;
        }
        // A sign of life is not an event for us; the timer asks when it would have to have come.
        Ok(left.map_or(Action::Done, |left| Action::After(left + Duration::from_millis(10))))
    }

    /// Pods on a node that is not ready are not ready either, so that services leave them out.
    async fn unready_pods(&self, node: &str) -> Result<(), Error> {
        let mut errors = Vec::new();
        for pod in self.ctx.pods.get(&format!("node:{node}")) {
            if !pods::is_ready(&pod) {
                continue;
            }
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let patch = json!({
                "metadata": {"uid": pod.metadata.uid},
                "status": {"conditions": [{
                    "type": "Ready", "status": "False",
                    "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                }]},
            });
            let api = self.ctx.api::<Pod>(&namespace);
            let result = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            match result.during("patch status of", "Pod", &namespace, &name) {
                Ok(_) => {
                    let about = reference("v1", "Pod", &pod.metadata);
                    self.ctx.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => errors.push(error),
            }
        }
        Error::join(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: Option<&str>, cordoned: bool, present: serde_json::Value) -> Node {
        let conditions = ready.map(|s| json!([{"type": "Ready", "status": s}])).unwrap_or(json!([]));
        serde_json::from_value(json!({
            "metadata": {"name": "n"}, "spec": {"unschedulable": cordoned, "taints": present},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn keys(node: &Node) -> Option<Vec<String>> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Some(
            taints(node, now)?
                .iter()
                .map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap(), t.effect))
                .collect(),
        )
    }

    #[test]
    fn taints_follow_conditions() {
        let own = json!([{"key": "mine", "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoSchedule"}]);
        let list = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(keys(&node(Some("True"), false, json!([]))), None);
        assert_eq!(keys(&node(Some("True"), false, own.clone())), list(&["mine:NoExecute"]));
        assert_eq!(
            keys(&node(Some("False"), true, own.clone())),
            list(&[
                "mine:NoExecute",
                "not-ready:NoSchedule",
                "unschedulable:NoSchedule",
                "not-ready:NoExecute"
            ])
        );
        assert_eq!(
            keys(&node(Some("Unknown"), false, own.clone())),
            list(&["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"])
        );
        assert_eq!(keys(&node(None, false, own)), None);
    }

    #[test]
    fn pressure_taints() {
        let pressed = |kind: &str, status: &str| {
            let conditions = json!([{"type": "Ready", "status": "True"}, {"type": kind, "status": status}]);
            let node = json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}});
            keys(&serde_json::from_value(node).unwrap())
        };
        for (kind, taint) in [
            ("MemoryPressure", "memory-pressure:NoSchedule"),
            ("DiskPressure", "disk-pressure:NoSchedule"),
            ("PIDPressure", "pid-pressure:NoSchedule"),
        ] {
            assert_eq!(pressed(kind, "True"), Some(vec![taint.to_owned()]));
            assert_eq!(pressed(kind, "False"), None);
        }
    }

    #[test]
    fn silence() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut n = node(Some("True"), false, json!([]));
        let next = silenced(&n, now).unwrap();
        assert_eq!(next.len(), 4);
        assert_eq!(next[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(next[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        n.status.as_mut().unwrap().conditions = Some(next);
        assert!(silenced(&n, now).is_none());
    }
}
