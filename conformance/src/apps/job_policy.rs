//! Upstream's job.go: failure policies, limits per index, success policies.

use serde_json::{Value, json};

use super::job::*;
use crate::Result;
use crate::api::{condition, name_of, number, text};
use crate::context::{Context, POD_GONE};
use crate::kinds::{JOBS, PODS};
use crate::pods::phase;

tests! {
    "[sig-apps] Job should allow to use the pod failure policy on exit code to fail the job early" => fails_early,
    "[sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition" => ignores_disruption,
    "[sig-apps] Job should execute all indexes despite some failing when using backoffLimitPerIndex" => limit_per_index,
    "[sig-apps] Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes" => max_failed_indexes,
    "[sig-apps] Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy" => fail_index,
    "[sig-apps] Job with successPolicy should succeeded when all indexes succeeded" => all_indexes,
    "[sig-apps] Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending" => succeeded_indexes,
    "[sig-apps] Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending" => succeeded_count,
}

/// Waits for a condition that is True for that reason.
async fn wait_condition(cx: &Context, name: &str, kind: &str, reason: &str) -> Result<Value> {
    let what = format!("condition {kind} for {reason}");
    let done = |j: Option<&Value>| {
        let Some(j) = j else { return Ok(false) };
        Ok(condition(j, kind)["status"] == "True" && condition(j, kind)["reason"] == reason)
    };
    cx.api(&JOBS).wait(name, LIMIT, &what, done).await
}

/// Waits for the interim condition of a failure, then for the final one.
async fn wait_failed(cx: &Context, name: &str, reason: &str) -> Result<Value> {
    wait_condition(cx, name, "FailureTarget", reason).await?;
    let job = wait_condition(cx, name, "Failed", reason).await?;
    finished(&job)?;
    Ok(job)
}

fn on_exit_codes(action: &str, codes: &[i64]) -> Value {
    json!({"action": action, "onExitCodes": {"operator": "In", "values": codes}})
}

async fn fails_early(cx: Context) -> Result<()> {
    let name = "pod-failure-failjob";
    let mut made = on_node(job(Behavior::FailOnce, name, "Never", 2, 4), &cx.node().await?);
    made["spec"]["podFailurePolicy"] = json!({"rules": [on_exit_codes("FailJob", &[1])]});
    cx.create(&JOBS, &made).await?;
    wait_failed(&cx, name, "PodFailurePolicy").await.map(|_| ())
}

async fn ignores_disruption(cx: Context) -> Result<()> {
    let name = "evicted-pod-ignore-on-disruption-condition";
    let mut made = on_node(job(Behavior::NotTerminateOnce, name, "Never", 2, 4), &cx.node().await?);
    made["spec"]["backoffLimit"] = json!(0);
    made["spec"]["completionMode"] = json!("Indexed");
    made["spec"]["podFailurePolicy"] = json!({"rules": [
        on_exit_codes("Ignore", &[1]),
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]});
    cx.create(&JOBS, &made).await?;
    // The others can only succeed after the first has run.
    let others = |j: Option<&Value>| Ok(j.is_some_and(|j| number(j, "/status/succeeded") == 3));
    cx.api(&JOBS).wait(name, LIMIT, "the other indexes succeeded", others).await?;
    let pods = running(&cx, name, 1).await?;
    let pod = name_of(&pods[0])?;
    ensure_eq!(pods[0]["metadata"]["annotations"][INDEX], json!("0"), "index of the running pod");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": cx.namespace()},
    });
    cx.pods().create_sub(pod, "eviction", &eviction).await?;
    cx.pods().wait_gone(pod, POD_GONE).await?;
    wait_condition(&cx, name, "SuccessCriteriaMet", "CompletionsReached").await?;
    wait_complete_job(&cx, name, 4).await.map(|_| ())
}

fn per_index(behavior: Behavior, name: &str, parallelism: i64, completions: i64, limit: i64) -> Value {
    let mut made = job(behavior, name, "Never", parallelism, completions);
    made["spec"]["backoffLimit"] = Value::Null;
    made["spec"]["backoffLimitPerIndex"] = json!(limit);
    made["spec"]["completionMode"] = json!("Indexed");
    made
}

async fn limit_per_index(cx: Context) -> Result<()> {
    let name = "with-backoff-limit-per-index";
    cx.create(&JOBS, &per_index(Behavior::FailOddSucceedEven, name, 2, 4, 1)).await?;
    let job = wait_failed(&cx, name, "FailedIndexes").await?;
    ensure_eq!(text(&job, "/status/failedIndexes"), "1,3", "status.failedIndexes");
    ensure_eq!(text(&job, "/status/completedIndexes"), "0,2", "status.completedIndexes");
    ensure_eq!(number(&job, "/status/failed"), 4, "status.failed");
    ensure_eq!(number(&job, "/status/succeeded"), 2, "status.succeeded");
    Ok(())
}

async fn max_failed_indexes(cx: Context) -> Result<()> {
    let name = "with-max-failed-indexes";
    let mut made = per_index(Behavior::Fail, name, 1, 4, 0);
    made["spec"]["maxFailedIndexes"] = json!(0);
    cx.create(&JOBS, &made).await?;
    let job = wait_failed(&cx, name, "MaxFailedIndexesExceeded").await?;
    ensure_eq!(text(&job, "/status/failedIndexes"), "0", "status.failedIndexes");
    ensure_eq!(number(&job, "/status/failed"), 1, "status.failed");
    Ok(())
}

async fn fail_index(cx: Context) -> Result<()> {
    let name = "matching-fail-index-action";
    let mut made = per_index(Behavior::FailOddSucceedEven, name, 2, 2, 1);
    made["spec"]["podFailurePolicy"] = json!({"rules": [on_exit_codes("FailIndex", &[1])]});
    cx.create(&JOBS, &made).await?;
    let job = wait_failed(&cx, name, "FailedIndexes").await?;
    ensure_eq!(text(&job, "/status/failedIndexes"), "1", "status.failedIndexes");
    ensure_eq!(text(&job, "/status/completedIndexes"), "0", "status.completedIndexes");
    ensure_eq!(number(&job, "/status/failed"), 1, "status.failed");
    ensure_eq!(number(&job, "/status/succeeded"), 1, "status.succeeded");
    Ok(())
}

/// An Indexed Job whose pods succeed or run on by their index.
fn with_success_policy(name: &str, behavior: Behavior, completions: i64, rule: Value) -> Value {
    let mut made = job(behavior, name, "Never", completions, completions);
    made["spec"]["completionMode"] = json!("Indexed");
    made["spec"]["successPolicy"] = json!({"rules": [rule]});
    made
}

/// The first index succeeds, the others never end.
fn only_first_ends(mut made: Value) -> Value {
    let container = &mut made["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(crate::images::BUSYBOX);
    let line = "if [ ${JOB_COMPLETION_INDEX} -ne 0 ]; then sleep 1000000; fi; exit 0";
    container["command"] = json!(["/bin/sh", "-c", line]);
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    made
}

async fn succeeds(cx: &Context, made: &Value, reason: &str, succeeded: i64, indexes: &str) -> Result<()> {
    let name = name_of(made)?.to_string();
    cx.create(&JOBS, made).await?;
    wait_condition(cx, &name, "SuccessCriteriaMet", reason).await?;
    let job = wait_condition(cx, &name, "Complete", reason).await?;
    finished(&job)?;
    ensure_eq!(text(&job, "/status/completedIndexes"), indexes, "status.completedIndexes");
    ensure_eq!(number(&job, "/status/succeeded"), succeeded, "status.succeeded");
    // What still ran when the criteria were met is taken away.
    let selector = format!("job={name}");
    let what = "no pod of the finished Job runs";
    cx.api(&PODS)
        .wait_set(&[("labelSelector", &selector)], POD_GONE, what, |pods| {
            Ok(pods.iter().all(|p| phase(p) != "Running" && phase(p) != "Pending").then_some(()))
        })
        .await
}

async fn all_indexes(cx: Context) -> Result<()> {
    let rule = json!({"succeededIndexes": "0,1"});
    let made = with_success_policy("with-success-policy-all", Behavior::Succeed, 2, rule);
    succeeds(&cx, &made, "SuccessPolicy", 2, "0,1").await
}

async fn succeeded_indexes(cx: Context) -> Result<()> {
    let rule = json!({"succeededIndexes": "0"});
    let made =
        only_first_ends(with_success_policy("with-success-policy-indexes", Behavior::Succeed, 2, rule));
    succeeds(&cx, &made, "SuccessPolicy", 1, "0").await
}

async fn succeeded_count(cx: Context) -> Result<()> {
    let rule = json!({"succeededCount": 1});
    let made = only_first_ends(with_success_policy("with-success-policy-count", Behavior::Succeed, 2, rule));
    succeeds(&cx, &made, "SuccessPolicy", 1, "0").await
}
