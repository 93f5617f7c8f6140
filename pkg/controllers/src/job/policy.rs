//! Failure policies, limits per index, success policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::account::index_of;
use super::indexes;
use super::plan::{End, ended_at, wait_after};
use crate::pods;

/// How often a pod of this index has failed before, by the pod's annotation.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// What the failure policy says of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts as any failure.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The job has failed, with this message.
    FailJob(String),
}

/// The verdict over a failed pod: of the first rule that matches it.
pub fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let rules = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref()).map(|p| p.rules.as_slice());
    if pods::phase(pod) != "Failed" {
        return Verdict::Count;
    }
    for (at, rule) in rules.unwrap_or_default().iter().enumerate() {
        let Some(what) = matches(rule, pod) else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" if per_index(job).is_some() => return Verdict::FailIndex,
            "FailIndex" => {}
            "FailJob" => return Verdict::FailJob(format!("{what} matching FailJob rule at index {at}")),
            _ => return Verdict::Count,
        }
    }
    Verdict::Count
}

/// What in the pod matches a rule.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(wanted) = &rule.on_exit_codes {
        let (container, code) = exit_code(wanted, pod)?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let has = |kind: &str, status: &str| pods::condition(pod, kind).is_some_and(|c| c.status == status);
    let patterns = rule.on_pod_conditions.iter().flatten();
    let found = patterns.into_iter().find(|p| has(&p.type_, p.status.as_deref().unwrap_or("True")))?;
    Some(format!("Pod {name} has condition {}", found.type_))
}

fn exit_code(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let code = |c: &ContainerStatus| Some(c.state.as_ref()?.terminated.as_ref()?.exit_code);
    let fits = |code: i32| match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    };
    all.filter(|c| wanted.container_name.as_ref().is_none_or(|n| *n == c.name))
        .filter_map(|c| Some((c.name.clone(), code(c)?)))
        .find(|(_, code)| *code != 0 && fits(*code))
}

/// The limit of failures for each index, if there is one.
pub fn per_index(job: &Job) -> Option<i32> {
    job.spec.as_ref()?.backoff_limit_per_index
}

fn failures(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(FAILURES));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The failures of an index that a failed pod of it leaves behind.
fn failures_after(job: &Job, pod: &Pod) -> i32 {
    failures(pod).saturating_add(i32::from(verdict(job, pod) != Verdict::Ignore))
}

/// The number for the annotation of the next pod of an index.
pub fn failures_of(job: &Job, pods: &[Arc<Pod>], index: i32) -> i32 {
    let of = pods.iter().filter(|p| index_of(p) == Some(index) && super::account::has_failed(job, p));
    of.map(|p| failures_after(job, p)).max().unwrap_or(0)
}

/// Whether a failed pod is the end of its index.
pub fn fails_index(job: &Job, pod: &Pod) -> bool {
    per_index(job)
        .is_some_and(|limit| verdict(job, pod) == Verdict::FailIndex || failures_after(job, pod) > limit)
}

/// Whether a failed pod must stay until another one carries its count on.
pub fn is_needed(job: &Job, pods: &[Arc<Pod>], failed: &BTreeSet<i32>, pod: &Pod) -> bool {
    let Some(index) = index_of(pod).filter(|_| per_index(job).is_some()) else { return false };
    let after = failures_after(job, pod);
    let carried =
        |p: &Pod| index_of(p) == Some(index) && p.metadata.uid != pod.metadata.uid && failures(p) >= after;
    !failed.contains(&index) && !pods.iter().any(|p| carried(p))
}

/// Indexes whose last failure is too recent for a new pod, and when the first of them is free.
pub fn resting(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> (BTreeSet<i32>, Option<Duration>) {
    let mut last: BTreeMap<i32, (Timestamp, i32)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| super::account::has_failed(job, p)) {
        let (Some(index), Some(at)) = (index_of(pod), ended_at(pod)) else { continue };
        let entry = last.entry(index).or_insert((at, 0));
        *entry = (entry.0.max(at), entry.1.max(failures_after(job, pod)));
    }
    let mut all = BTreeSet::new();
    let mut first = None;
    for (index, (at, count)) in last {
        let left = wait_after(at, usize::try_from(count).unwrap_or(0), now);
        if let Some(left) = left {
            all.insert(index);
            first = Some(first.map_or(left, |f: Duration| f.min(left)));
        }
    }
    (all, first)
}

/// The message of a pod that fails the whole job.
pub fn job_failure(job: &Job, pods: &[Arc<Pod>]) -> Option<End> {
    pods.iter().find_map(|p| match verdict(job, p) {
        Verdict::FailJob(message) => Some(End::failed("PodFailurePolicy", &message)),
        _ => None,
    })
}

/// The end that failed indexes make.
pub fn index_failure(job: &Job, completed: &BTreeSet<i32>, failed: &BTreeSet<i32>) -> Option<End> {
    per_index(job)?;
    let spec = job.spec.as_ref()?;
    let count = i32::try_from(failed.len()).unwrap_or(i32::MAX);
    if spec.max_failed_indexes.is_some_and(|most| count > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(End::failed("MaxFailedIndexesExceeded", message));
    }
    let over = i32::try_from(completed.len()).unwrap_or(i32::MAX).saturating_add(count);
    (count > 0 && over >= spec.completions.unwrap_or(0))
        .then(|| End::failed("FailedIndexes", "Job has failed indexes"))
}

/// The end that the success policy makes.
pub fn success(job: &Job, completed: &BTreeSet<i32>) -> Option<End> {
    let spec = job.spec.as_ref()?;
    let rules = &spec.success_policy.as_ref()?.rules;
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let at = rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(text), count) => {
            let wanted = indexes::parse(text, spec.completions.unwrap_or(0));
            let there = number(wanted.intersection(completed).count());
            there >= count.unwrap_or_else(|| number(wanted.len()))
        }
        (None, Some(count)) => number(completed.len()) >= count,
        (None, None) => false,
    })?;
    Some(End::complete("SuccessPolicy", &format!("Matched rules at index {at}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::INDEX;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    fn job(more: Value) -> Job {
        let mut spec = json!({"template": {}, "completions": 4, "completionMode": "Indexed"});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": spec})).unwrap()
    }

    fn failed(index: i32, before: i32, code: i32) -> Arc<Pod> {
        Arc::new(pod(json!({
            "metadata": {"name": format!("p{index}-{before}"), "namespace": "ns", "uid": format!("{index}-{before}"),
                         "annotations": {INDEX: index.to_string(), FAILURES: before.to_string()}},
            "status": {"phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": if code == 137 { "True" } else { "False" }}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:00Z"}}}]},
        })))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let codes = |action: &str, operator: &str, values: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let disrupted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]});
        let check = |rules: Value, code: i32, expected: Verdict| {
            let j = job(json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": rules}}));
            assert_eq!(verdict(&j, &failed(0, 0, code)), expected, "{rules}");
        };
        check(json!([codes("Ignore", "In", json!([1]))]), 1, Verdict::Ignore);
        check(json!([codes("Ignore", "In", json!([1]))]), 2, Verdict::Count);
        check(json!([disrupted, codes("FailIndex", "In", json!([137]))]), 137, Verdict::Ignore);
        check(json!([codes("FailIndex", "NotIn", json!([2]))]), 1, Verdict::FailIndex);
        check(
            json!([codes("Count", "In", json!([1])), codes("Ignore", "In", json!([1]))]),
            1,
            Verdict::Count,
        );
        let message = "Container c for pod ns/p0-0 failed with exit code 1 matching FailJob rule at index 0";
        check(json!([codes("FailJob", "In", json!([1]))]), 1, Verdict::FailJob(message.into()));
    }

    #[test]
    fn an_index_fails_beyond_its_limit() {
        let j = job(json!({"backoffLimitPerIndex": 1}));
        assert!(!fails_index(&j, &failed(1, 0, 1)));
        assert!(fails_index(&j, &failed(1, 1, 1)));
        assert_eq!(failures_of(&j, &[failed(1, 0, 1), failed(2, 3, 1)], 1), 1);
        let none = BTreeSet::new();
        assert!(is_needed(&j, &[failed(1, 0, 1)], &none, &failed(1, 0, 1)));
        assert!(!is_needed(&j, &[failed(1, 0, 1), failed(1, 1, 1)], &none, &failed(1, 0, 1)));
        assert!(!is_needed(&j, &[failed(1, 1, 1)], &BTreeSet::from([1]), &failed(1, 1, 1)));
        let (rest, left) = resting(&j, &[failed(1, 0, 1)], "2026-01-01T00:00:04Z".parse().unwrap());
        assert_eq!((rest, left), (BTreeSet::from([1]), Some(Duration::from_secs(6))));
    }

    #[test]
    fn ends_by_index() {
        let set = |of: &[i32]| of.iter().copied().collect::<BTreeSet<i32>>();
        let limited = job(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1}));
        assert_eq!(index_failure(&limited, &set(&[0]), &set(&[1])), None);
        let reason = |end: Option<End>| end.map(|e| e.reason);
        assert_eq!(
            reason(index_failure(&limited, &set(&[0, 2, 3]), &set(&[1]))).as_deref(),
            Some("FailedIndexes")
        );
        let most = index_failure(&limited, &set(&[]), &set(&[1, 2]));
        assert_eq!(reason(most).as_deref(), Some("MaxFailedIndexesExceeded"));
        let rules = |rules: Value| job(json!({"successPolicy": {"rules": rules}}));
        assert_eq!(success(&rules(json!([{"succeededIndexes": "0,2"}])), &set(&[0])), None);
        assert!(success(&rules(json!([{"succeededIndexes": "0,2"}])), &set(&[0, 2])).is_some());
        assert!(
            success(&rules(json!([{"succeededIndexes": "0-2", "succeededCount": 1}])), &set(&[2])).is_some()
        );
        assert_eq!(success(&rules(json!([{"succeededCount": 2}])), &set(&[3])), None);
    }
}
