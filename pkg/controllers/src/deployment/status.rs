//! Counts and conditions of a deployment. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::rollout::{max_unavailable, wanted};

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A condition of a type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_.as_deref() == Some(kind))
}

/// A condition that changes now.
pub fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Sets a condition; nothing changes while status and reason stay.
pub fn set_condition(status: &mut DeploymentStatus, mut next: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_with(Vec::new);
    if let Some(old) = conditions.iter().find(|c| c.type_ == next.type_) {
        if old.status == next.status && old.reason == next.reason {
            return;
        }
        if old.status == next.status {
            next.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|c| c.type_ != next.type_);
    conditions.push(next);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|c| c.type_.as_deref() != Some(kind));
    }
}

/// The progress deadline, unless it is off.
pub fn deadline(d: &Deployment) -> Option<i64> {
    d.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX).map(i64::from)
}

/// Counts over all sets, and whether the deployment is available.
pub fn counts(
    d: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = d.status.clone().unwrap_or_default();
    let sum = |f: &dyn Fn(&ReplicaSet) -> i32| all.iter().map(|s| f(s)).sum::<i32>();
    let of = |s: &ReplicaSet| s.status.clone().unwrap_or_default();
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let available = sum(&|s| of(s).available_replicas.unwrap_or(0));
    let total = sum(&|s| of(s).replicas);
    let mut status = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(total),
        updated_replicas: some(new.map_or(0, |s| of(s).replicas)),
        ready_replicas: some(sum(&|s| of(s).ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((total - available).max(0)),
        terminating_replicas: Some(sum(&|s| of(s).terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let next = if available >= wanted(d) - max_unavailable(d) {
        new_condition(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
            now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        new_condition("Available", "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, next);
    status
}

/// Whether the rollout has ended.
pub fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let all = Some(wanted(d));
    let number = |n: Option<i32>| Some(n.unwrap_or(0));
    number(status.updated_replicas) == all
        && number(status.replicas) == all
        && number(status.available_replicas) == all
        && status.observed_generation.unwrap_or(0) >= d.metadata.generation.unwrap_or(0)
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_timed_out(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(progress)) = (deadline(d), condition(status, "Progressing")) else {
        return false;
    };
    match progress.reason.as_deref() {
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => progress.last_update_time.as_ref().is_some_and(|t| now.as_second() > t.0.as_second() + deadline),
    }
}

/// The whole status during a rollout, with `Progressing` and `ReplicaFailure`.
pub fn rollout(
    d: &Deployment,
    all: &[&ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = d.status.clone().unwrap_or_default();
    let mut status = counts(d, all, new, now);
    if deadline(d).is_none() {
        remove_condition(&mut status, "Progressing");
    } else {
        let current = condition(&old, "Progressing").cloned();
        let ended = status.replicas == status.updated_replicas
            && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
        if !ended {
            progress(d, &old, &mut status, current, new, now);
        }
    }
    match failure(all, new) {
        Some(failure) => set_condition(&mut status, failure),
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    status
}

fn progress(
    d: &Deployment,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    current: Option<DeploymentCondition>,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let subject = match new.and_then(|s| s.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", d.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(d, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, new_condition("Progressing", "True", NEW_SET_AVAILABLE, &message, now));
    } else if is_progressing(old, status) {
        let message = format!("{subject} is progressing.");
        let mut next = new_condition("Progressing", "True", "ReplicaSetUpdated", &message, now);
        // The update time is the start of the deadline, so it moves with every step.
        if let Some(current) = current {
            if current.status.as_deref() == Some("True") {
                next.last_transition_time = current.last_transition_time;
            }
            remove_condition(status, "Progressing");
        }
        set_condition(status, next);
    } else if has_timed_out(d, status, now) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, new_condition("Progressing", "False", TIMED_OUT, &message, now));
    }
}

fn failure(all: &[&ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure")).cloned()
    };
    let found = new.and_then(of).or_else(|| all.iter().find_map(|s| of(s)))?;
    Some(DeploymentCondition {
        type_: found.type_,
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time,
    })
}

/// When the deadline must be looked at, if nothing happens before.
pub fn look_again(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(d)?;
    let progress = condition(status, "Progressing")?;
    if is_complete(d, status) || progress.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let from = progress.last_update_time.as_ref()?.0.as_second();
    let left = from + deadline - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1))
}

/// `Progressing` when the deployment is paused or resumed, if that is news.
pub fn pause(d: &Deployment, now: Timestamp) -> Option<DeploymentCondition> {
    deadline(d)?;
    let current = d.status.as_ref().and_then(|s| condition(s, "Progressing"));
    let reason = current.and_then(|c| c.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return None;
    }
    let paused = d.spec.paused.unwrap_or(false);
    match (paused, reason == Some("DeploymentPaused")) {
        (true, false) => {
            Some(new_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now))
        }
        (false, true) => {
            Some(new_condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "generation": 1},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 60, "selector": {}, "template": {"spec": {"containers": []}}},
        }))
        .unwrap()
    }

    fn set(replicas: i32, available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d-x"}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available},
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_from_start_to_end() {
        let mut d = deployment();
        let step = |d: &mut Deployment, set: &ReplicaSet, second: i64| {
            let status = rollout(d, &[set], Some(set), at(second));
            d.status = Some(status.clone());
            let progress = condition(&status, "Progressing")
                .map(|c| (c.reason.clone().unwrap(), c.status.clone().unwrap()));
            let available = condition(&status, "Available").unwrap().status.clone().unwrap();
            (progress, available)
        };
        let told = |reason: &str, status: &str| Some((reason.to_owned(), status.to_owned()));
        assert_eq!(step(&mut d, &set(2, 0), 0), (told("ReplicaSetUpdated", "True"), "False".into()));
        assert_eq!(look_again(&d, d.status.as_ref().unwrap(), at(10)), Some(Duration::from_secs(51)));
        assert_eq!(step(&mut d, &set(2, 0), 61), (told(TIMED_OUT, "False"), "False".into()));
        assert_eq!(step(&mut d, &set(2, 1), 70), (told("ReplicaSetUpdated", "True"), "False".into()));
        assert_eq!(step(&mut d, &set(2, 2), 80), (told(NEW_SET_AVAILABLE, "True"), "True".into()));
        assert_eq!(look_again(&d, d.status.as_ref().unwrap(), at(90)), None);
        let same = rollout(&d, &[&set(2, 2)], Some(&set(2, 2)), at(500));
        assert_eq!(Some(same), d.status, "an unchanged status is not written");
    }

    #[test]
    fn pausing() {
        let mut d = deployment();
        assert!(pause(&d, at(0)).is_none());
        d.spec.paused = Some(true);
        let paused = pause(&d, at(0)).unwrap();
        assert_eq!(paused.reason.as_deref(), Some("DeploymentPaused"));
        let mut status = DeploymentStatus::default();
        set_condition(&mut status, paused);
        d.status = Some(status);
        assert!(pause(&d, at(1)).is_none());
        d.spec.paused = None;
        assert_eq!(pause(&d, at(2)).unwrap().reason.as_deref(), Some("DeploymentResumed"));
    }
}
