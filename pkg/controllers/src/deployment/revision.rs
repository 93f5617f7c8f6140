//! Revision annotations and the history of sets. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::rollout::{created, max_total, size, wanted};
use crate::template::same;

/// Revision of a set or deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a set that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the deployment when the set was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Desired replicas and surge at that time.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations of a deployment that its sets do not inherit.
const NOT_INHERITED: &[&str] = &[
    "deprecated.deployment.rollback.to",
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    REVISION,
    REVISION_HISTORY,
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// Longest revision history kept in an annotation, in characters.
const HISTORY_LENGTH: usize = 2000;

type Annotations = BTreeMap<String, String>;

fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a String> {
    set.metadata.annotations.as_ref()?.get(key)
}

/// The revision of a set, 0 when it has none.
pub fn revision_of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The desired replicas that a set was sized for.
pub fn desired_of(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED_REPLICAS)?.parse().ok()
}

/// The most replicas that a set was sized for.
pub fn max_of(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX_REPLICAS)?.parse().ok()
}

/// Whether an active set was sized for another number of replicas than the deployment wants now.
pub fn is_scaled(d: &Deployment, sets: &[&ReplicaSet]) -> bool {
    sets.iter().any(|s| size(s) > 0 && desired_of(s).is_some_and(|n| n != wanted(d)))
}

/// The set of the present template: the oldest one when there are several.
pub fn find_new<'a>(d: &Deployment, sets: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    let template = &d.spec.template;
    let fits = |s: &&&ReplicaSet| s.spec.template.as_ref().is_some_and(|t| same(t, template));
    sets.iter().filter(fits).min_by_key(|s| (created(s), s.metadata.name.clone())).copied()
}

/// The revision that the new set must carry: one more than any other set.
pub fn next_revision(old: &[&ReplicaSet]) -> i64 {
    old.iter().map(|s| revision_of(s)).max().unwrap_or(0) + 1
}

/// The annotations that the new set should have: those of the deployment, and its revision.
/// `present` are those it has, when it exists.
pub fn annotations(d: &Deployment, present: Option<&Annotations>, revision: i64) -> Annotations {
    let exists = present.is_some();
    let mut next = present.cloned().unwrap_or_default();
    for (key, value) in d.metadata.annotations.iter().flatten() {
        if !NOT_INHERITED.contains(&key.as_str()) {
            next.insert(key.clone(), value.clone());
        }
    }
    let old = next.get(REVISION).cloned();
    let old_number = old.as_deref().and_then(|v| v.parse::<i64>().ok()).unwrap_or(0);
    if old_number < revision {
        next.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old.filter(|o| !o.is_empty()) {
            let mut history: Vec<String> = next
                .get(REVISION_HISTORY)
                .map(|h| h.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.retain(|h| !h.is_empty());
            history.push(old);
            while history.len() > 1 && history.iter().map(|h| h.len() + 1).sum::<usize>() > HISTORY_LENGTH {
                history.remove(0);
            }
            next.insert(REVISION_HISTORY.to_owned(), history.join(","));
        }
    }
    if !exists {
        set_sizes(d, &mut next);
    }
    next
}

/// Notes the sizes that the deployment wants now.
pub fn set_sizes(d: &Deployment, annotations: &mut Annotations) {
    annotations.insert(DESIRED_REPLICAS.to_owned(), wanted(d).to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), max_total(d).to_string());
}

/// Old sets beyond the history limit that can go.
pub fn outdated<'a>(d: &Deployment, old: &[&'a ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let Some(limit) = d.spec.revision_history_limit else { return Vec::new() };
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let mut live: Vec<_> = old.iter().copied().filter(|s| s.metadata.deletion_timestamp.is_none()).collect();
    let excess = live.len().saturating_sub(limit);
    live.sort_by_key(|s| (revision_of(s), created(s)));
    live.truncate(excess);
    live.retain(|s| {
        let status = s.status.clone().unwrap_or_default();
        status.replicas == 0
            && size(s) == 0
            && s.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
    });
    live
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(name: &str, revision: i64, image: &str) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {REVISION: revision.to_string()}},
            "spec": {"replicas": 0, "selector": {}, "template": {"metadata": {"labels": {"app": "a", "pod-template-hash": name}}, "spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
        .unwrap()
    }

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "annotations": {"note": "x", REVISION: "2", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"replicas": 4, "revisionHistoryLimit": 1, "selector": {}, "strategy": {"type": "RollingUpdate"},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "two"}]}}},
        }))
        .unwrap()
    }

    #[test]
    fn new_set_and_revision() {
        let (one, two) = (set("one", 1, "one"), set("two", 2, "two"));
        let sets = [&one, &two];
        let new = find_new(&deployment(), &sets).unwrap();
        assert_eq!(new.metadata.name.as_deref(), Some("two"));
        assert_eq!(next_revision(&[&one, &two]), 3);
        assert_eq!(next_revision(&[]), 1);
    }

    #[test]
    fn annotations_of_the_new_set() {
        let d = deployment();
        let fresh = annotations(&d, None, 3);
        assert_eq!(fresh.get("note").map(String::as_str), Some("x"));
        assert_eq!(fresh.get(REVISION).map(String::as_str), Some("3"));
        assert_eq!(fresh.get(DESIRED_REPLICAS).map(String::as_str), Some("4"));
        assert_eq!(fresh.get(MAX_REPLICAS).map(String::as_str), Some("5"));
        assert!(!fresh.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
        let back = annotations(&d, Some(&fresh), 7);
        assert_eq!(back.get(REVISION).map(String::as_str), Some("7"));
        assert_eq!(back.get(REVISION_HISTORY).map(String::as_str), Some("3"));
        assert_eq!(annotations(&d, Some(&back), 7), back);
    }

    #[test]
    fn history_limit() {
        let (one, two, three) = (set("one", 1, "1"), set("two", 2, "2"), set("three", 3, "3"));
        let gone = outdated(&deployment(), &[&three, &one, &two]);
        let names: Vec<_> = gone.iter().map(|s| s.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["one", "two"]);
    }
}
