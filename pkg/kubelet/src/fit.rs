//! Whether a pod that is bound to this node fits it. Pure. Entry point: [`check`].
//!
//! The scheduler has looked already; but a pod may name its node itself, and the node may have changed since.

use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_scheduler::{
    plugins::{node_affinity, taint_toleration},
    pod::{HostPort, PodInfo},
    resources::Resources,
};

use crate::spec;

/// Why a pod cannot run here: reason and message of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu`, `NodeAffinity`, `NodePorts`, ...
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn predicate(name: &str, detail: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {detail}"))
    }

    /// Whether fresher labels of the node may lift it.
    pub fn is_affinity(&self) -> bool {
        self.reason == "NodeAffinity"
    }
}

/// What one pod takes of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    requests: Resources,
    ports: Vec<HostPort>,
}

impl Claim {
    /// What the pod takes.
    pub fn of(pod: &Pod) -> Self {
        let info = PodInfo::new(pod);
        Self { requests: info.requests, ports: info.ports }
    }
}

/// What the other pods take.
#[derive(Debug, Clone, Default)]
pub struct Used {
    pods: i64,
    requests: Resources,
    ports: Vec<HostPort>,
}

impl Used {
    /// Adds a pod.
    pub fn add(&mut self, claim: &Claim) {
        self.pods += 1;
        self.requests.add(&claim.requests);
        self.ports.extend(claim.ports.iter().cloned());
    }
}

fn room(node: &Node) -> Resources {
    Resources::of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()))
}

/// The first reason why the pod does not fit beside the others.
pub fn check(pod: &Pod, claim: &Claim, used: &Used, node: &Node) -> Result<(), Refusal> {
    platform(pod, node)?;
    if let Some(missing) = shortage(claim, used, &room(node)) {
        return Err(missing);
    }
    if !node_affinity::fits(pod, node) {
        return Err(Refusal::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if claim.ports.iter().any(|own| used.ports.iter().any(|other| own.conflicts(other))) {
        let detail = "node(s) didn't have free ports for the requested pod ports";
        return Err(Refusal::predicate("NodePorts", detail));
    }
    let spec = spec::spec(pod);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    // Of taints only those that drive pods out count here.
    let mut driving = taints.filter(|t| t.effect == "NoExecute");
    if driving.any(|t| !taint_toleration::tolerates(tolerations, t)) {
        let detail = "node(s) had taints that the pod didn't tolerate";
        return Err(Refusal::predicate("TaintToleration", detail));
    }
    Ok(())
}

/// What no other pod's end would change.
fn platform(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    const OS: &str = "kubernetes.io/os";
    let label = |labels: &Option<std::collections::BTreeMap<String, String>>| {
        labels.as_ref().and_then(|l| l.get(OS)).cloned()
    };
    let wanted = label(&pod.metadata.labels);
    if wanted.is_some_and(|os| os != "linux") {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(Refusal::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let spec = spec::spec(pod);
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Refusal::new("PodOSNotSupported", message));
    }
    let policy = spec.security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref());
    let features = node.status.as_ref().and_then(|s| s.features.as_ref());
    if policy == Some("Strict") && features.and_then(|f| f.supplemental_groups_policy) != Some(true) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(Refusal::new("SupplementalGroupsPolicyNotSupported", message));
    }
    Ok(())
}

fn shortage(claim: &Claim, used: &Used, room: &Resources) -> Option<Refusal> {
    let short = |name: &str, wanted: i64, used: i64, capacity: i64| {
        (wanted > 0 && wanted > capacity - used).then(|| {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            Refusal::new(format!("OutOf{name}"), message)
        })
    };
    let (own, taken) = (&claim.requests, &used.requests);
    short("pods", 1, used.pods, room.pods)
        .or_else(|| short("cpu", own.milli_cpu, taken.milli_cpu, room.milli_cpu))
        .or_else(|| short("memory", own.memory, taken.memory, room.memory))
        .or_else(|| {
            short("ephemeral-storage", own.ephemeral_storage, taken.ephemeral_storage, room.ephemeral_storage)
        })
        .or_else(|| {
            own.scalar.iter().find_map(|(name, wanted)| {
                let of = |r: &Resources| r.scalar.get(name).copied();
                match of(room) {
                    // A resource that the node does not know may be of the cluster.
                    None if name.contains('/') => None,
                    capacity => {
                        short(name, *wanted, of(taken).unwrap_or_default(), capacity.unwrap_or_default())
                    }
                }
            })
        })
}

/// Why a resized pod would not even fit the empty node.
pub fn infeasible(claim: &Claim, node: &Node) -> Option<String> {
    let (own, room) = (&claim.requests, room(node));
    let what = if own.memory > room.memory {
        format!("memory, requested: {}, capacity: {}", own.memory, room.memory)
    } else if own.milli_cpu > room.milli_cpu {
        format!("cpu, requested: {}, capacity: {}", own.milli_cpu, room.milli_cpu)
    } else {
        return None;
    };
    Some(format!("Node didn't have enough capacity: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(more: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2", "example.com/gpu": "1"}},
        });
        if let Some(taints) = more.get("taints") {
            node["spec"] = json!({"taints": taints});
        }
        serde_json::from_value(node).unwrap()
    }

    fn pod(requests: Value, ports: Value, more: Value) -> Pod {
        let mut spec =
            json!({"containers": [{"name": "c", "resources": {"requests": requests}, "ports": ports}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    /// The refusal of a pod beside others, as `reason: message`.
    fn judged(pod: &Pod, others: &[Pod], node: &Node) -> String {
        let mut used = Used::default();
        others.iter().for_each(|o| used.add(&Claim::of(o)));
        match check(pod, &Claim::of(pod), &used, node) {
            Ok(()) => "fits".to_owned(),
            Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let small = || pod(json!({"cpu": "500m"}), json!([]), json!({}));
        let port = |ip: &str| json!([{"containerPort": 80, "hostPort": 8080, "hostIP": ip}]);
        let taint = |effect: &str| node(json!({"taints": [{"key": "k", "effect": effect}]}));
        let tolerant = || pod(json!({}), json!([]), json!({"tolerations": [{"operator": "Exists"}]}));
        for (pod, others, node, want) in [
            (small(), vec![small()], node(json!({})), "fits"),
            (
                small(),
                vec![small(), small()],
                node(json!({})),
                "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
            ),
            (
                pod(json!({"cpu": "1600m"}), json!([]), json!({})),
                vec![small()],
                node(json!({})),
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000",
            ),
            (
                pod(json!({"memory": "2Gi"}), json!([]), json!({})),
                vec![],
                node(json!({})),
                "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
            ),
            (
                pod(json!({"example.com/gpu": "2"}), json!([]), json!({})),
                vec![],
                node(json!({})),
                "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 2, used: 0, capacity: 1",
            ),
            (pod(json!({"example.com/other": "2"}), json!([]), json!({})), vec![], node(json!({})), "fits"),
            (
                pod(json!({}), json!([]), json!({"nodeSelector": {"zone": "b"}})),
                vec![],
                node(json!({})),
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            (
                pod(json!({}), port(""), json!({})),
                vec![pod(json!({}), port("10.0.0.1"), json!({}))],
                node(json!({})),
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ),
            (
                pod(json!({}), port("10.0.0.2"), json!({})),
                vec![pod(json!({}), port("10.0.0.1"), json!({}))],
                node(json!({})),
                "fits",
            ),
            (small(), vec![], taint("NoSchedule"), "fits"),
            (
                small(),
                vec![],
                taint("NoExecute"),
                "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
            ),
            (tolerant(), vec![], taint("NoExecute"), "fits"),
            (
                pod(json!({}), json!([]), json!({"os": {"name": "windows"}})),
                vec![],
                node(json!({})),
                "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
            ),
        ] {
            assert_eq!(judged(&pod, &others, &node), want);
        }
    }

    #[test]
    fn what_can_never_fit() {
        let claim = |requests: Value| Claim::of(&pod(requests, json!([]), json!({})));
        let node = node(json!({}));
        assert_eq!(infeasible(&claim(json!({"cpu": "2", "memory": "1Gi"})), &node), None);
        assert_eq!(
            infeasible(&claim(json!({"cpu": "2001m"})), &node).unwrap(),
            "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000"
        );
    }
}
