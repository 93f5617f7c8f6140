//! Facts about pods that several controllers need. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

/// The reference to the managing owner.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|r| r.controller == Some(true))
}

/// Keys of the shared pod index: `uid:<controller>`, or `orphan:<namespace>`; `node:<name>` when bound;
/// `tracked:<namespace>/<job>` while a Job's finalizer holds it.
pub fn index_keys(pod: &Pod) -> Vec<String> {
    let mut keys = Vec::with_capacity(2);
    match controller_of(&pod.metadata) {
        Some(owner) => {
            keys.push(format!("uid:{}", owner.uid));
            if owner.kind == "Job"
                && pod.metadata.finalizers.iter().flatten().any(|f| f == crate::job::FINALIZER)
            {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                keys.push(format!("tracked:{namespace}/{}", owner.name));
            }
        }
        None => keys.push(format!("orphan:{}", pod.metadata.namespace.as_deref().unwrap_or_default())),
    }
    if let Some(node) = node_name(pod) {
        keys.push(format!("node:{node}"));
    }
    keys
}

/// The node the pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

/// `status.phase`, "" when not told.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or Failed.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted and not finished yet.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// A condition by type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Whether the Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when the pod is ready.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// Whether the pod has been ready for this many seconds.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds <= 0
            || ready_since(pod)
                .is_some_and(|since| now.as_second() - since.as_second() >= i64::from(min_ready_seconds)))
}

/// When a ready pod will count as available, if it does not yet.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let left = since.as_millisecond() + i64::from(min_ready_seconds) * 1000 - now.as_millisecond();
    u64::try_from(left).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

/// Age in powers of two, so that pods of about the same age are told apart by uid and not by seconds.
fn age_class(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    let age = now.as_second() - since?.as_second();
    Some(u64::try_from(age.max(0)).unwrap_or(0).saturating_add(1).ilog2())
}

/// Younger before older by age class; unknown first.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    age_class(a, now).cmp(&age_class(b, now))
}

/// Which of two pods should go first when there are too many; `rank` counts the active pods of the same owner on
/// the pod's node.
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    node_name(a)
        .is_some()
        .cmp(&node_name(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| {
            if is_ready(a) { younger_first(ready_since(a), ready_since(b), now) } else { Ordering::Equal }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn ready_at(name: &str, node: &str, phase: &str, since: &str) -> Pod {
        pod(json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": since},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]},
        }))
    }

    #[test]
    fn availability() {
        let p = ready_at("a", "n", "Running", "2026-01-01T00:00:00Z");
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        assert!(is_available(&p, 0, at("2026-01-01T00:00:00Z")));
        assert!(!is_available(&p, 10, at("2026-01-01T00:00:09Z")));
        assert!(is_available(&p, 10, at("2026-01-01T00:00:10Z")));
        assert_eq!(available_in(&p, 10, at("2026-01-01T00:00:04Z")), Some(Duration::from_secs(6)));
        assert_eq!(available_in(&p, 10, at("2026-01-01T00:00:10Z")), None);
    }

    #[test]
    fn order_of_deletion() {
        let now = "2026-01-02T00:00:00Z".parse::<Timestamp>().unwrap();
        let unassigned = pod(json!({"metadata": {"name": "u", "uid": "u"}, "status": {"phase": "Pending"}}));
        let pending = pod(
            json!({"metadata": {"name": "p", "uid": "p"}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Pending"}}),
        );
        let old = ready_at("old", "n", "Running", "2026-01-01T00:00:00Z");
        let young = ready_at("young", "n", "Running", "2026-01-01T23:59:50Z");
        let mut cheap = old.clone();
        cheap.metadata.annotations =
            Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned())].into());
        let mut all = [(&old, 1), (&young, 1), (&cheap, 1), (&pending, 1), (&unassigned, 1)];
        all.sort_by(|a, b| deletion_order(*a, *b, now));
        let names: Vec<_> = all.iter().map(|(p, _)| p.metadata.uid.clone().unwrap()).collect();
        assert_eq!(names, ["u", "p", "old", "young", "old"]);
        assert_eq!(
            deletion_order((&young, 1), (&old, 3), now),
            Ordering::Greater,
            "doubled-up pods go first"
        );
    }
}
