//! Upstream's job.go: completion, deletion, adoption, status, life cycle.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Patch, array, condition, name_of, number, text, version_of};
use crate::context::{Context, random};
use crate::images::{BUSYBOX, PAUSE};
use crate::kinds::JOBS;
use crate::pods::phase;

tests! {
    "[sig-apps] Job should create pods for an Indexed job with completion indexes and specified hostname" => indexed,
    "[sig-apps] Job should run a job to completion when tasks sometimes fail and are locally restarted" => restarted_locally,
    "[sig-apps] Job should delete a job" => deleted,
    "[sig-apps] Job should adopt matching orphans and release non-matching pods" => adopts_and_releases,
    "[sig-apps] Job should apply changes to a job status" => status,
    "[sig-apps] Job should manage the lifecycle of a job" => lifecycle,
}

/// Upstream's limit for a Job.
pub(super) const LIMIT: Duration = Duration::from_secs(900);
/// The annotation with a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What the container of a test Job does.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Behavior {
    Succeed,
    Fail,
    NotTerminate,
    FailOnce,
    FailOddSucceedEven,
    NotTerminateOnce,
}

fn script(behavior: Behavior) -> &'static str {
    match behavior {
        Behavior::Succeed => "exit 0",
        Behavior::Fail => "exit 1",
        Behavior::NotTerminate => "",
        Behavior::FailOnce => "if [ -r /data/foo ]; then exit 0; else touch /data/foo; exit 1; fi",
        Behavior::FailOddSucceedEven => {
            "if [ $(expr ${JOB_COMPLETION_INDEX} % 2) -ne 0 ]; then exit 1; else exit 0; fi"
        }
        Behavior::NotTerminateOnce => {
            "if [ -r /data/foo ]; then exit 0; \
             elif [ $JOB_COMPLETION_INDEX -eq 0 ]; then touch /data/foo; sleep 1000000; else exit 1; fi"
        }
    }
}

/// A Job of upstream's kind for tests; pods with label `job=<name>`.
pub(super) fn job(behavior: Behavior, name: &str, policy: &str, parallelism: i64, completions: i64) -> Value {
    let mut container = json!({
        "name": "c", "image": BUSYBOX, "securityContext": {},
        "volumeMounts": [{"mountPath": "/data", "name": "data"}],
    });
    match behavior {
        Behavior::NotTerminate => container["image"] = json!(PAUSE),
        other => container["command"] = json!(["/bin/sh", "-c", script(other)]),
    }
    let mut spec = json!({
        "restartPolicy": policy,
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [container],
    });
    if behavior == Behavior::NotTerminateOnce {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    json!({
        "metadata": {"name": name},
        "spec": {
            "parallelism": parallelism, "completions": completions, "backoffLimit": 6, "manualSelector": false,
            "template": {"metadata": {"labels": {"job": name}}, "spec": spec},
        },
    })
}

/// The Job's pods all on one node, with a directory of that node as their memory.
pub(super) fn on_node(mut job: Value, node: &Value) -> Value {
    let spec = &mut job["spec"]["template"]["spec"];
    spec["nodeSelector"] =
        json!({"kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]});
    let path = format!("/tmp/job-e2e/{}", random(10));
    spec["volumes"] = json!([{"name": "data", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}]);
    spec["containers"][0]["securityContext"] = json!({"privileged": true});
    job
}

/// Waits until the Job is complete with so many successes.
pub(super) async fn wait_complete_job(cx: &Context, name: &str, completions: i64) -> Result<Value> {
    let done = |j: Option<&Value>| {
        let Some(j) = j else { return Ok(false) };
        anyhow::ensure!(condition(j, "Failed")["status"] != "True", "the Job failed: {}", j["status"]);
        Ok(condition(j, "Complete")["status"] == "True" && number(j, "/status/succeeded") == completions)
    };
    let job = cx.api(&JOBS).wait(name, LIMIT, "complete", done).await?;
    finished(&job)?;
    Ok(job)
}

/// What holds of every Job that ended: nothing runs, the counts that upstream sets are there.
pub(super) fn finished(job: &Value) -> Result<()> {
    ensure_eq!(number(job, "/status/active"), 0, "status.active of the finished Job");
    ensure_eq!(job["status"]["ready"], json!(0), "status.ready of the finished Job");
    ensure_eq!(job["status"]["terminating"], json!(0), "status.terminating of the finished Job");
    let uncounted = &job["status"]["uncountedTerminatedPods"];
    let empty =
        uncounted.as_object().is_none_or(|u| u.values().all(|v| v.as_array().is_none_or(Vec::is_empty)));
    anyhow::ensure!(empty, "pods of the finished Job are not counted: {uncounted}");
    Ok(())
}

/// The Job's pods.
pub(super) async fn job_pods(cx: &Context, name: &str) -> Result<Vec<Value>> {
    cx.pods().labelled(&format!("job={name}")).await
}

/// Waits until exactly so many of the Job's pods run.
pub(super) async fn running(cx: &Context, name: &str, count: usize) -> Result<Vec<Value>> {
    let what = format!("{count} running pods of Job {name}");
    let selector = format!("job={name}");
    cx.pods()
        .wait_set(&[("labelSelector", &selector)], LIMIT, &what, |pods| {
            let up: Vec<Value> =
                pods.iter().filter(|p| phase(p) == "Running" && alive(p)).map(|p| (*p).clone()).collect();
            Ok((up.len() == count).then_some(up))
        })
        .await
}

async fn indexed(cx: Context) -> Result<()> {
    let name = "indexed-job";
    let mut made = job(Behavior::Succeed, name, "Never", 2, 4);
    made["spec"]["completionMode"] = json!("Indexed");
    cx.create(&JOBS, &made).await?;
    wait_complete_job(&cx, name, 4).await?;
    let mut seen = Vec::new();
    for pod in job_pods(&cx, name).await?.iter().filter(|p| phase(p) == "Succeeded") {
        let index = pod["metadata"]["annotations"][INDEX].as_str().unwrap_or("").to_string();
        ensure_eq!(text(pod, "/spec/hostname"), format!("{name}-{index}"), "hostname of the pod");
        let env = array(pod, "/spec/containers/0/env").iter().find(|e| e["name"] == "JOB_COMPLETION_INDEX");
        anyhow::ensure!(env.is_some(), "pod of index {index} has no variable JOB_COMPLETION_INDEX");
        seen.push(index);
    }
    seen.sort();
    seen.dedup();
    ensure_eq!(seen, ["0", "1", "2", "3"], "completed indexes");
    Ok(())
}

async fn restarted_locally(cx: Context) -> Result<()> {
    let name = "fail-once-local";
    cx.create(&JOBS, &job(Behavior::FailOnce, name, "OnFailure", 2, 4)).await?;
    wait_complete_job(&cx, name, 4).await?;
    for pod in job_pods(&cx, name).await? {
        ensure_eq!(crate::pods::restarts(&pod), 1, "restarts of {}", name_of(&pod)?);
    }
    Ok(())
}

async fn deleted(cx: Context) -> Result<()> {
    let name = "foo";
    let jobs = cx.api(&JOBS);
    jobs.create(&job(Behavior::NotTerminate, name, "Never", 2, 4)).await?;
    running(&cx, name, 2).await?;
    jobs.delete_with(name, json!({"propagationPolicy": "Background"})).await?;
    jobs.wait_gone(name, MINUTE).await?;
    let what = "the Job's pods are deleted";
    let none = |pods: &[&Value]| Ok(pods.is_empty().then_some(()));
    cx.pods().wait_set(&[("labelSelector", &format!("job={name}"))], LIMIT, what, none).await?;
    crate::rest::refused(jobs.get(name).await, 404, "reading the deleted Job").map(|_| ())
}

async fn adopts_and_releases(cx: Context) -> Result<()> {
    let name = "adopt-release";
    let made = cx.create(&JOBS, &job(Behavior::NotTerminate, name, "Never", 2, 4)).await?;
    let uid = text(&made, "/metadata/uid");
    let pods = running(&cx, name, 2).await?;
    let pod = name_of(&pods[0])?;
    cx.pods().modify(pod, |p| p["metadata"]["ownerReferences"] = json!([])).await?;
    let adopted = |p: Option<&Value>| {
        let p = p.ok_or_else(|| anyhow::anyhow!("the orphan was deleted"))?;
        let owner = controller_of(p);
        if owner.is_null() {
            return Ok(false);
        }
        ensure_eq!(
            (text(owner, "/kind"), text(owner, "/name"), text(owner, "/uid")),
            ("Job", name, uid),
            "owner"
        );
        Ok(true)
    };
    cx.pods().wait(pod, LIMIT, "adopted again", adopted).await?;
    cx.pods().modify(pod, |p| p["metadata"]["labels"] = Value::Null).await?;
    let released = |p: Option<&Value>| {
        let p = p.ok_or_else(|| anyhow::anyhow!("the pod was deleted instead of released"))?;
        Ok(controller_of(p).is_null())
    };
    cx.pods().wait(pod, LIMIT, "released", released).await.map(|_| ())
}

async fn status(cx: Context) -> Result<()> {
    let name = "suspend-false-to-true";
    let jobs = cx.api(&JOBS);
    let made = jobs.create(&job(Behavior::NotTerminate, name, "Never", 2, 4)).await?;
    running(&cx, name, 2).await?;
    let (first, later) = ("2026-01-02T03:04:05Z", "2026-01-02T04:05:06Z");
    let patch = json!({
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"conditions": [{"type": "CustomConditionType", "status": "True", "lastTransitionTime": first}]},
    });
    let patched = jobs.patch(&format!("{name}/status"), Patch::Merge(patch)).await?;
    let time = |j: &Value| text(condition(j, "CustomConditionType"), "/lastTransitionTime").to_string();
    ensure_eq!(time(&patched), first, "time of the patched condition");
    ensure_eq!(patched["metadata"]["annotations"]["patchedstatus"], json!("true"), "annotation of the patch");
    let updated = jobs
        .modify_at(name, "status", |j| {
            let conditions = j["status"]["conditions"].as_array_mut().into_iter().flatten();
            for c in conditions.filter(|c| c["type"] == "CustomConditionType") {
                c["lastTransitionTime"] = json!(later);
            }
        })
        .await?;
    ensure_eq!(time(&updated), later, "time of the updated condition");
    let seen = jobs.get(&format!("{name}/status")).await?;
    ensure_eq!(seen["metadata"]["uid"], made["metadata"]["uid"], "uid in /status");
    Ok(())
}

async fn lifecycle(cx: Context) -> Result<()> {
    let name = format!("e2e-{}", random(5));
    let jobs = cx.api(&JOBS);
    let selector = format!("e2e-job-label={name}");
    let version = version_of(&jobs.list(&[("labelSelector", &selector)]).await?).to_string();
    let mut made = job(Behavior::Succeed, &name, "Never", 2, 4);
    made["metadata"]["labels"] = json!({"e2e-job-label": name});
    made["spec"]["suspend"] = json!(true);
    jobs.create(&made).await?;
    let patch = Patch::Strategic(json!({"metadata": {"labels": {name.as_str(): "patched"}}}));
    let patched = jobs.patch(&name, patch).await?;
    ensure_eq!(patched["metadata"]["labels"][&name], json!("patched"), "label of the patch");
    let saw = |what: &'static str, wanted: &'static str, value: fn(&Value, &str) -> bool| {
        let (jobs, selector, version, name) = (jobs.clone(), selector.clone(), version.clone(), name.clone());
        async move {
            event(&jobs, &selector, &version, MINUTE, what, |kind, j| kind == wanted && value(j, &name)).await
        }
    };
    saw("the patched label", "MODIFIED", |j, name| j["metadata"]["labels"][name] == "patched").await?;
    let updated = jobs
        .modify(&name, |j| {
            j["spec"]["suspend"] = json!(false);
            j["metadata"]["annotations"]["updated"] = json!("true");
        })
        .await?;
    ensure_eq!(updated["metadata"]["annotations"]["updated"], json!("true"), "annotation of the update");
    saw("the annotation", "MODIFIED", |j, _| j["metadata"]["annotations"]["updated"] == "true").await?;
    ensure_eq!(cx.api_all(&JOBS).labelled(&selector).await?.len(), 1, "Jobs in the list over all namespaces");
    wait_complete_job(&cx, &name, 4).await?;
    let background = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let uri = crate::rest::Rest::uri(&jobs.path(), &[("labelSelector", &selector)]);
    cx.rest().json(http::Method::DELETE, &uri, Some(&background)).await?;
    saw("its end", "DELETED", |j, name| j["metadata"]["labels"]["e2e-job-label"] == name).await?;
    ensure_eq!(cx.api_all(&JOBS).labelled(&selector).await?.len(), 0, "Jobs after deletecollection");
    Ok(())
}
