//! Counts every terminated pod once. Pure.
//!
//! A terminated pod goes through three states: finished with the finalizer; its uid in
//! `status.uncountedTerminatedPods`; finalizer gone and uid moved into the counters. A crash between two steps loses
//! and doubles nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::policy::{self, Verdict};
use super::{FINALIZER, INDEX, indexes};
use crate::pods;

/// Pods whose uids are noted in one status at most; the rest waits for the next.
const MAX_UNCOUNTED: usize = 500;

/// Whether the job's pods have indexes.
pub fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()) == Some("Indexed")
}

/// Number of completions of an indexed job.
pub fn completions(job: &Job) -> i32 {
    job.spec.as_ref().and_then(|s| s.completions).unwrap_or(0)
}

/// The index of a pod, if it is one of the job's.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// Whether the pod still waits to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Whether only pods that have failed, and not those that are being deleted, are replaced.
pub fn replaces_failed_only(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.pod_replacement_policy.as_deref()) == Some("Failed")
}

/// Whether the pod counts as failed.
pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // A deleted pod may never get to tell how it ended.
        _ => pod.metadata.deletion_timestamp.is_some() && !replaces_failed_only(job),
    }
}

/// What terminated pods add to a status.
#[derive(Debug, Default)]
pub struct Account {
    /// The status with the pods noted that are to be counted.
    pub noted: JobStatus,
    /// Pods whose finalizer can go once the status is written.
    pub release: Vec<Arc<Pod>>,
    /// Whether there were more than fit.
    pub more: bool,
    /// Succeeded pods (indexes, if indexed), counted and noted.
    pub succeeded: i32,
    /// Failed pods, counted and noted.
    pub failed: i32,
    /// Completed indexes.
    pub completed: BTreeSet<i32>,
    /// Indexes that have failed for good.
    pub failed_indexes: BTreeSet<i32>,
}

/// Looks at the job's pods. `ended` when the job is over, so that what still runs counts as failed, too.
pub fn account(job: &Job, pods: &[Arc<Pod>], ended: bool) -> Account {
    let mut status = job.status.clone().unwrap_or_default();
    let indexed = is_indexed(job);
    let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked: HashSet<&str> =
        pods.iter().filter(|p| is_tracked(p)).filter_map(|p| p.metadata.uid.as_deref()).collect();
    let mut completed =
        indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions(job));
    // Noted pods that have lost their finalizer are counted now.
    let (mut noted_succeeded, done) = moved(uncounted.succeeded, &tracked);
    let (mut noted_failed, failed) = moved(uncounted.failed, &tracked);
    let mut succeeded_total = status.succeeded.unwrap_or(0) + done;
    let failed_total = status.failed.unwrap_or(0) + failed;
    let mut out = Account::default();
    let known: HashSet<String> = noted_succeeded.iter().chain(&noted_failed).cloned().collect();
    let failed_indexes = failed_for_good(job, pods, status.failed_indexes.as_deref(), &completed);
    for pod in pods.iter().filter(|p| is_tracked(p)) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let needed = !ended && has_failed(job, pod) && policy::is_needed(job, pods, &failed_indexes, pod);
        let finished = pods::is_finished(pod) || has_failed(job, pod) || (ended && !pods::is_active(pod));
        if !finished {
            continue;
        }
        if known.contains(&uid) || policy::verdict(job, pod) == Verdict::Ignore {
            out.release.extend((!needed).then(|| pod.clone()));
            continue;
        }
        if noted_succeeded.len() + noted_failed.len() >= MAX_UNCOUNTED {
            out.more = true;
            break;
        }
        out.release.extend((!needed).then(|| pod.clone()));
        if pods::phase(pod) == "Succeeded" {
            match index_of(pod) {
                // The list of indexes counts for itself, and an index counts once.
                Some(index) if indexed && index < completions(job) => {
                    completed.insert(index);
                }
                _ if indexed => {}
                _ => noted_succeeded.push(uid),
            }
        } else {
            noted_failed.push(uid);
        }
    }
    if indexed {
        succeeded_total = number(completed.len());
        status.completed_indexes = Some(indexes::format(&completed)).filter(|t| !t.is_empty());
    }
    out.succeeded = succeeded_total + number(noted_succeeded.len());
    out.failed = failed_total + number(noted_failed.len());
    status.succeeded = Some(succeeded_total).filter(|n| *n != 0);
    status.failed = Some(failed_total).filter(|n| *n != 0);
    let some = |v: Vec<String>| Some(v).filter(|v| !v.is_empty());
    status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: some(noted_succeeded), failed: some(noted_failed) });
    if policy::per_index(job).is_some() {
        status.failed_indexes = Some(indexes::format(&failed_indexes));
    }
    out.completed = completed;
    out.failed_indexes = failed_indexes;
    out.noted = status;
    out
}

/// Noted pods that still have their finalizer, and the number of those that have lost it.
fn moved(noted: Option<Vec<String>>, tracked: &HashSet<&str>) -> (Vec<String>, i32) {
    let (still, gone): (Vec<_>, Vec<_>) =
        noted.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
    (still, number(gone.len()))
}

/// The indexes that will not be tried again.
fn failed_for_good(
    job: &Job,
    pods: &[Arc<Pod>],
    noted: Option<&str>,
    completed: &BTreeSet<i32>,
) -> BTreeSet<i32> {
    let mut all = indexes::parse(noted.unwrap_or_default(), completions(job));
    let failing = pods.iter().filter(|p| has_failed(job, p) && policy::fails_index(job, p));
    all.extend(failing.filter_map(|p| index_of(p)).filter(|i| !completed.contains(i)));
    all
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::json;

    fn job(mode: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "j"},
            "spec": {"completions": 5, "parallelism": 2, "completionMode": mode, "template": {}},
        }))
        .unwrap()
    }

    fn finished(name: &str, phase: &str, index: Option<i32>, tracked: bool) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "uid": name}, "status": {"phase": phase}});
        if tracked {
            value["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        if let Some(index) = index {
            value["metadata"]["annotations"] = json!({INDEX: index.to_string()});
        }
        Arc::new(pod(value))
    }

    #[test]
    fn a_pod_is_counted_once() {
        let mut j = job("NonIndexed");
        let first = account(
            &j,
            &[finished("a", "Succeeded", None, true), finished("b", "Failed", None, true)],
            false,
        );
        assert_eq!((first.succeeded, first.failed, first.release.len()), (1, 1, 2));
        assert_eq!(first.noted.succeeded, None, "noted, not counted yet");
        j.status = Some(first.noted);
        // A crash before the finalizers went: nothing is counted twice.
        let again = account(
            &j,
            &[finished("a", "Succeeded", None, true), finished("b", "Failed", None, true)],
            false,
        );
        assert_eq!((again.succeeded, again.failed, again.release.len()), (1, 1, 2));
        // The finalizers are gone, one pod with them.
        let then = account(&j, &[finished("a", "Succeeded", None, false)], false);
        assert_eq!((then.succeeded, then.failed, then.release.len()), (1, 1, 0));
        assert_eq!((then.noted.succeeded, then.noted.failed), (Some(1), Some(1)));
        j.status = Some(then.noted);
        let end = account(&j, &[finished("a", "Succeeded", None, false)], false);
        assert_eq!((end.succeeded, end.failed), (1, 1));
    }

    #[test]
    fn indexes_count_once() {
        let mut j = job("Indexed");
        let pods = [
            finished("a", "Succeeded", Some(1), true),
            finished("b", "Succeeded", Some(1), true),
            finished("c", "Succeeded", Some(9), true),
        ];
        let got = account(&j, &pods, false);
        assert_eq!(
            (got.succeeded, got.noted.completed_indexes.as_deref(), got.release.len()),
            (1, Some("1"), 3)
        );
        j.status = Some(got.noted);
        assert_eq!(account(&j, &[], false).succeeded, 1);
    }
}
