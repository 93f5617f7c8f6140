//! How many pods there should be, and whether the job has ended. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::account::{Account, completions, has_failed, index_of, is_indexed, replaces_failed_only};
use super::policy;
use crate::pods;

/// First wait before a failed pod is replaced, doubled with each failure in a row.
const BACKOFF: i64 = 10;
/// Longest wait.
const MAX_BACKOFF: i64 = 600;

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Whether it failed.
    pub failed: bool,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl End {
    /// It is complete.
    pub fn complete(reason: &str, message: &str) -> Self {
        Self { failed: false, reason: reason.to_owned(), message: message.to_owned() }
    }

    /// It failed.
    pub fn failed(reason: &str, message: &str) -> Self {
        Self { failed: true, reason: reason.to_owned(), message: message.to_owned() }
    }
}

/// Reason and message when all completions are there.
const REACHED: (&str, &str) = ("CompletionsReached", "Reached expected number of succeeded pods");

/// A condition by type that is True.
pub fn is_true(status: Option<&JobStatus>, kind: &str) -> bool {
    conditions(status).iter().any(|c| c.type_ == kind && c.status == "True")
}

fn conditions(status: Option<&JobStatus>) -> &[JobCondition] {
    status.and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// Whether the job is over.
pub fn is_finished(job: &Job) -> bool {
    let status = job.status.as_ref();
    is_true(status, "Complete") || is_true(status, "Failed")
}

/// Sets a condition. True when that is news.
pub fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let all = status.conditions.get_or_insert_with(Vec::new);
    let known = all.iter().position(|c| c.type_ == kind);
    if let Some(at) = known {
        let old = &all[at];
        if old.status == value
            && old.reason.as_deref() == Some(reason)
            && old.message.as_deref() == Some(message)
        {
            return false;
        }
    } else if value == "False" {
        return false;
    }
    let next = JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match known {
        Some(at) => all[at] = next,
        None => all.push(next),
    }
    true
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let all = [
        status.and_then(|s| s.container_statuses.as_ref()),
        status.and_then(|s| s.init_container_statuses.as_ref()),
    ];
    all.into_iter().flatten().flatten().map(|c| c.restart_count).sum()
}

/// Whether the job has ended by these counts.
pub fn end(job: &Job, pods: &[Arc<Pod>], sums: &Account, now: Timestamp) -> Option<End> {
    let spec = job.spec.as_ref()?;
    let (succeeded, failed) = (sums.succeeded, sums.failed);
    if let Some(end) = policy::job_failure(job, pods) {
        return Some(end);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let on_failure =
        spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) == Some("OnFailure");
    let running = || pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let restarted: i32 = if on_failure { running().map(|p| restarts(p)).sum() } else { 0 };
    let too_many_restarts = on_failure && restarted > 0 && (limit == 0 || restarted >= limit);
    if failed > limit || too_many_restarts {
        return Some(End::failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline_in(job, now).is_some_and(|left| left.is_zero()) {
        return Some(End::failed("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let by_index = policy::index_failure(job, &sums.completed, &sums.failed_indexes);
    if let Some(end) = by_index.or_else(|| policy::success(job, &sums.completed)) {
        return Some(end);
    }
    let active = pods.iter().filter(|p| pods::is_active(p)).count();
    let complete = match spec.completions {
        // A work queue: one success means that the others will end by themselves.
        None => succeeded > 0 && active == 0,
        Some(wanted) => succeeded >= wanted,
    };
    complete.then(|| End::complete(REACHED.0, REACHED.1))
}

/// Time until the active deadline; zero when it has passed.
pub fn deadline_in(job: &Job, now: Timestamp) -> Option<Duration> {
    let spec = job.spec.as_ref()?;
    if spec.suspend == Some(true) {
        return None;
    }
    let start = job.status.as_ref()?.start_time.as_ref()?.0;
    let left = start.as_millisecond() + spec.active_deadline_seconds? * 1000 - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

/// When a pod ended.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    let times =
        statuses.filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0));
    times
        .max()
        .or(pod.metadata.deletion_timestamp.as_ref().map(|t| t.0))
        .or_else(|| pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref().map(|t| t.0)))
}

/// What is left of the wait after so many failures, the last one then.
pub fn wait_after(last: Timestamp, failures: usize, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(1)?).unwrap_or(u32::MAX).min(10);
    let wait = (BACKOFF << doublings).min(MAX_BACKOFF);
    let left = last.as_millisecond() + wait * 1000 - now.as_millisecond();
    u64::try_from(left).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

/// Time until a replacement may be made: failures in a row since the last success put it off.
pub fn backoff_in(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let last_success =
        pods.iter().filter(|p| pods::phase(p) == "Succeeded").filter_map(|p| ended_at(p)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|p| has_failed(job, p))
        .filter_map(|p| ended_at(p))
        .filter(|t| last_success.is_none_or(|s| *t > s))
        .collect();
    wait_after(*failures.iter().max()?, failures.len(), now)
}

/// Pods to make and to delete.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// One entry a pod; the index if the job is indexed.
    pub create: Vec<Option<i32>>,
    /// Names and uids.
    pub delete: Vec<Arc<Pod>>,
}

/// Compares the active pods with what the job wants. No pod is made for the indexes of `resting`.
pub fn decide(job: &Job, pods: &[Arc<Pod>], sums: &Account, resting: &BTreeSet<i32>) -> Plan {
    let Some(spec) = job.spec.as_ref() else { return Plan::default() };
    let succeeded = sums.succeeded;
    let done: BTreeSet<i32> = sums.completed.union(&sums.failed_indexes).copied().collect();
    let given_up = i32::try_from(sums.failed_indexes.len()).unwrap_or(i32::MAX);
    let mut active: Vec<_> = pods.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let terminating = pods.iter().filter(|p| pods::is_terminating(p)).count();
    let suspended = spec.suspend == Some(true);
    let parallelism = if suspended { 0 } else { spec.parallelism.unwrap_or(1).max(0) };
    let indexed = is_indexed(job);
    let mut delete = Vec::new();
    if indexed {
        // Two pods of one index, or a pod of an index that is done: the younger one goes.
        active.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let mut seen = done.clone();
        let (keep, extra): (Vec<_>, Vec<_>) = active
            .into_iter()
            .partition(|p| index_of(p).is_some_and(|i| i < completions(job) && seen.insert(i)));
        active = keep;
        delete = extra;
    }
    let running = i32::try_from(active.len()).unwrap_or(i32::MAX);
    let wanted = match spec.completions {
        None if succeeded > 0 => running.min(parallelism),
        None => parallelism,
        Some(all) => (all - succeeded - given_up).max(0).min(parallelism),
    };
    if running > wanted {
        active.sort_by(|a, b| pods::deletion_order((a, 0), (b, 0), Timestamp::UNIX_EPOCH));
        let excess = usize::try_from(running - wanted).unwrap_or(0);
        delete.extend(active.drain(..excess));
        return Plan { create: Vec::new(), delete };
    }
    let mut missing = usize::try_from(wanted - running).unwrap_or(0);
    if replaces_failed_only(job) {
        missing = missing.saturating_sub(terminating);
    }
    let create = if indexed {
        let mut taken: BTreeSet<i32> = active.iter().filter_map(|p| index_of(p)).collect();
        if replaces_failed_only(job) {
            taken.extend(pods.iter().filter(|p| pods::is_terminating(p)).filter_map(|p| index_of(p)));
        }
        let closed = |i: &i32| taken.contains(i) || done.contains(i) || resting.contains(i);
        let free = (0..completions(job)).filter(|i| !closed(i));
        free.take(missing).map(Some).collect()
    } else {
        vec![None; missing]
    };
    Plan { create, delete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::INDEX;
    use crate::pods::tests::pod;
    use serde_json::json;

    fn job(spec: serde_json::Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({});
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec})).unwrap()
    }

    fn sums(succeeded: i32, failed: i32, completed: &[i32]) -> Account {
        Account { succeeded, failed, completed: completed.iter().copied().collect(), ..Account::default() }
    }

    fn running(name: &str, index: Option<i32>) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "uid": name}, "status": {"phase": "Running"}});
        if let Some(index) = index {
            value["metadata"]["annotations"] = json!({INDEX: index.to_string()});
        }
        Arc::new(pod(value))
    }

    #[test]
    fn numbers() {
        // (completions, parallelism, suspend, active, succeeded) -> (create, delete)
        for (completions, parallelism, suspend, active, succeeded, create, delete) in [
            (Some(5), 2, false, 0, 0, 2, 0),
            (Some(5), 2, false, 2, 3, 0, 0),
            (Some(5), 2, false, 1, 4, 0, 0),
            (Some(5), 3, false, 0, 4, 1, 0),
            (Some(5), 2, true, 2, 0, 0, 2),
            (Some(5), 1, false, 3, 0, 0, 2),
            (None, 3, false, 0, 0, 3, 0),
            (None, 3, false, 2, 1, 0, 0),
        ] {
            let job =
                job(json!({"completions": completions, "parallelism": parallelism, "suspend": suspend}));
            let pods: Vec<_> = (0..active).map(|i| running(&format!("p{i}"), None)).collect();
            let plan = decide(&job, &pods, &sums(succeeded, 0, &[]), &BTreeSet::new());
            assert_eq!(
                (plan.create.len(), plan.delete.len()),
                (create, delete),
                "{completions:?} {parallelism} {active}"
            );
        }
    }

    #[test]
    fn indexes_are_filled_and_doubles_go() {
        let job = job(json!({"completions": 5, "parallelism": 4, "completionMode": "Indexed"}));
        let pods = [running("a", Some(1)), running("b", Some(1)), running("c", Some(7))];
        let plan = decide(&job, &pods, &sums(1, 0, &[0]), &BTreeSet::new());
        assert_eq!(plan.create, [Some(2), Some(3), Some(4)]);
        assert_eq!(plan.delete.len(), 2);
    }

    #[test]
    fn ends() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let three = job(json!({"completions": 3, "parallelism": 1, "backoffLimit": 1}));
        let reason = |j: &Job, pods: &[Arc<Pod>], succeeded, failed| {
            end(j, pods, &sums(succeeded, failed, &[]), now).map(|e| e.reason)
        };
        assert_eq!(reason(&three, &[], 2, 1), None);
        assert_eq!(reason(&three, &[], 3, 1).as_deref(), Some("CompletionsReached"));
        assert_eq!(reason(&three, &[], 0, 2).as_deref(), Some("BackoffLimitExceeded"));
        let queue = job(json!({"parallelism": 2}));
        assert_eq!(reason(&queue, &[running("a", None)], 1, 0), None);
        assert_eq!(reason(&queue, &[], 1, 0).as_deref(), Some("CompletionsReached"));
        let mut late = job(json!({"completions": 1, "activeDeadlineSeconds": 30}));
        late.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap();
        assert_eq!(reason(&late, &[], 0, 0).as_deref(), Some("DeadlineExceeded"));
    }

    #[test]
    fn backoff_grows() {
        let now: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
        let failed = |name: &str| {
            Arc::new(pod(
                json!({"metadata": {"name": name, "uid": name}, "status": {"phase": "Failed", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]}}),
            ))
        };
        let j = job(json!({}));
        assert_eq!(backoff_in(&j, &[], now), None);
        assert_eq!(backoff_in(&j, &[failed("a")], now), Some(Duration::from_secs(5)));
        assert_eq!(backoff_in(&j, &[failed("a"), failed("b")], now), Some(Duration::from_secs(15)));
    }
}
