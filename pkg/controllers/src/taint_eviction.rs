//! Deletes pods that do not tolerate a NoExecute taint of their node, at once or when their patience ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::pods::node_name;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "taint-eviction-controller",
    account: "node-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Leave,
    LeaveIn(Duration),
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match text(&toleration.operator).as_str() {
            "Exists" => true,
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            _ => false,
        }
}

/// `seen` is when the controller first met the pod under a taint: taints that people add bear no time of their own.
fn decide(tolerations: &[Toleration], taints: &[&Taint], seen: Timestamp, now: Timestamp) -> Verdict {
    if taints.is_empty() {
        return Verdict::Stay;
    }
    let mut deadline: Option<i64> = None;
    for taint in taints {
        let used: Vec<_> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if used.is_empty() {
            return Verdict::Leave;
        }
        // Several tolerations of one taint: the shortest patience counts; one without a limit adds none.
        let since = taint.time_added.as_ref().map_or(seen, |t| t.0).as_millisecond();
        for seconds in used.iter().filter_map(|t| t.toleration_seconds) {
            let until = since + seconds.max(0) * 1000;
            deadline = Some(deadline.map_or(until, |d| d.min(until)));
        }
    }
    match deadline.map(|d| u64::try_from(d - now.as_millisecond()).unwrap_or(0)) {
        None => Verdict::Stay,
        Some(0) => Verdict::Leave,
        Some(left) => Verdict::LeaveIn(Duration::from_millis(left)),
    }
}

fn no_execute(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    taints.into_iter().flatten().filter(|t| t.effect == "NoExecute").collect()
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<(String, String)>::new(ctx.shutdown.clone());
    let nodes = ctx.store::<Node>();
    {
        let (queue, pods) = (queue.clone(), ctx.pods.clone());
        nodes.on_event(move |event| {
            if let Event::Applied { new, old } = event
                && old.as_ref().map_or(!no_execute(new).is_empty(), |o| no_execute(o) != no_execute(new))
            {
                for pod in pods.get(&format!("node:{}", new.name_any())) {
                    queue.add((pod.namespace().unwrap_or_default(), pod.name_any()));
                }
            }
        });
    }
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        ctx.store::<Pod>().on_event(move |event| {
            if let Event::Applied { new, old } = event
                && let Some(node) = node_name(new)
                && old.as_ref().is_none_or(|o| o.spec != new.spec)
                && nodes.get("", node).is_some_and(|n| !no_execute(&n).is_empty())
            {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    nodes.synced().await;
    ctx.store::<Pod>().synced().await;
    let run = ctx.clone();
    let seen = Arc::new(Seen::default());
    work(ctx, queue, 8, move |key| {
        let (ctx, nodes, seen) = (run.clone(), nodes.clone(), seen.clone());
        async move { reconcile(&ctx, &nodes, &seen, &key.0, &key.1).await }
    })
    .await;
    Ok(())
}

/// When a pod (by uid) was first met under a taint; by namespace and name.
#[derive(Default)]
struct Seen(Mutex<HashMap<(String, String), (String, Timestamp)>>);

impl Seen {
    fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn since(&self, namespace: &str, name: &str, uid: &str, now: Timestamp) -> Timestamp {
        let mut all = self.lock();
        let entry =
            all.entry((namespace.to_owned(), name.to_owned())).or_insert_with(|| (uid.to_owned(), now));
        if entry.0 != uid {
            *entry = (uid.to_owned(), now);
        }
        entry.1
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (String, Timestamp)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn reconcile(
    ctx: &Ctx,
    nodes: &Store<Node>,
    seen: &Seen,
    namespace: &str,
    name: &str,
) -> Result<Action, Error> {
    let Some(pod) =
        ctx.store::<Pod>().get(namespace, name).filter(|p| p.metadata.deletion_timestamp.is_none())
    else {
        seen.forget(namespace, name);
        return Ok(Action::Done);
    };
    let Some(node) = node_name(&pod).and_then(|n| nodes.get("", n)) else { return Ok(Action::Done) };
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let taints = no_execute(&node);
    if taints.is_empty() {
        seen.forget(namespace, name);
        return Ok(Action::Done);
    }
    let now = Timestamp::now();
    let since = seen.since(namespace, name, pod.metadata.uid.as_deref().unwrap_or_default(), now);
    match decide(tolerations, &taints, since, now) {
        Verdict::Stay => {
            seen.forget(namespace, name);
            Ok(Action::Done)
        }
        Verdict::LeaveIn(left) => Ok(Action::After(left)),
        Verdict::Leave => evict(ctx, &pod, namespace, name).await.map(|()| Action::Done),
    }
}

async fn evict(ctx: &Ctx, pod: &Pod, namespace: &str, name: &str) -> Result<(), Error> {
    let about = reference("v1", "Pod", &pod.metadata);
    let note = format!("Marking for deletion Pod {namespace}/{name}");
    ctx.event(&about, EventType::Normal, "TaintManagerEviction", &note);
    let api = ctx.api::<Pod>(namespace);
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    });
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.during(
        "patch status of",
        "Pod",
        namespace,
        name,
    ) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await.during("delete", "Pod", namespace, name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |key: &str| {
            serde_json::from_value::<Taint>(
                json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}),
            )
            .unwrap()
        };
        let tolerate = |value: serde_json::Value| serde_json::from_value::<Vec<Toleration>>(value).unwrap();
        let (a, b) = (taint("a"), taint("b"));
        assert_eq!(decide(&[], &[], now, now), Verdict::Stay);
        assert_eq!(decide(&[], &[&a], now, now), Verdict::Leave);
        let forever = tolerate(json!([{"operator": "Exists"}]));
        assert_eq!(decide(&forever, &[&a, &b], now, now), Verdict::Stay);
        let some = tolerate(json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 300}]));
        assert_eq!(decide(&some, &[&a], now, now), Verdict::LeaveIn(Duration::from_secs(240)));
        assert_eq!(decide(&some, &[&a, &b], now, now), Verdict::Leave);
        let short = tolerate(json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 30}]));
        assert_eq!(decide(&short, &[&a], now, now), Verdict::Leave);
        let untimed: Taint = serde_json::from_value(json!({"key": "a", "effect": "NoExecute"})).unwrap();
        let seen: Timestamp = "2026-01-01T00:00:50Z".parse().unwrap();
        assert_eq!(decide(&short, &[&untimed], seen, now), Verdict::LeaveIn(Duration::from_secs(20)));
        let seen: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        assert_eq!(decide(&short, &[&untimed], seen, now), Verdict::Leave);
    }
}
