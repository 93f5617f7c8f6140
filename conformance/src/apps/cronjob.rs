//! Upstream's cronjob.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Patch, array, name_of, number, text, version_of};
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::kinds::{CRON_JOBS, JOBS};

tests! {
    "[sig-apps] CronJob should schedule multiple jobs concurrently" => concurrent,
    "[sig-apps] CronJob should not schedule jobs when suspended [Slow]" => suspended,
    "[sig-apps] CronJob should not schedule new jobs when ForbidConcurrent [Slow]" => forbid,
    "[sig-apps] CronJob should replace jobs when ReplaceConcurrent" => replace,
    "[sig-apps] CronJob should support CronJob API operations" => operations,
}

/// Upstream's limit: five periods and some.
const LIMIT: Duration = Duration::from_secs(360);

fn cron_job(name: &str, schedule: &str, policy: &str, line: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "schedule": schedule,
            "concurrencyPolicy": policy,
            "jobTemplate": {"spec": {
                "parallelism": 1, "completions": 1,
                "template": {"spec": {
                    "restartPolicy": "OnFailure",
                    "volumes": [{"name": "data", "emptyDir": {}}],
                    "containers": [{
                        "name": "c", "image": BUSYBOX, "command": ["/bin/sh", "-c", line],
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                }},
            }},
        },
    })
}

const SLEEPS: &str = "sleep 300";
const EVERY_MINUTE: &str = "*/1 * * * ?";

fn active(cron: &Value) -> &[Value] {
    array(cron, "/status/active")
}

async fn wait_active(cx: &Context, name: &str, count: usize) -> Result<Value> {
    let what = format!("{count} active Jobs");
    let done = |c: Option<&Value>| Ok(c.is_some_and(|c| active(c).len() == count));
    cx.api(&CRON_JOBS).wait(name, LIMIT, &what, done).await
}

fn unfinished(jobs: &[&Value]) -> usize {
    let done = |j: &&&Value| {
        array(j, "/status/conditions")
            .iter()
            .any(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True")
    };
    jobs.len() - jobs.iter().filter(done).count()
}

async fn end(cx: &Context, name: &str) -> Result<()> {
    let options = json!({"propagationPolicy": "Foreground"});
    cx.api(&CRON_JOBS).delete_with(name, options).await?;
    cx.api(&CRON_JOBS).wait_gone(name, LIMIT).await
}

async fn concurrent(cx: Context) -> Result<()> {
    let name = "concurrent";
    cx.create(&CRON_JOBS, &cron_job(name, EVERY_MINUTE, "Allow", SLEEPS)).await?;
    let done = |c: Option<&Value>| Ok(c.is_some_and(|c| active(c).len() >= 2));
    cx.api(&CRON_JOBS).wait(name, LIMIT, "two active Jobs at once", done).await?;
    let jobs = cx.api(&JOBS).items(&[]).await?;
    anyhow::ensure!(unfinished(&jobs.iter().collect::<Vec<_>>()) >= 2, "fewer than two Jobs run: {jobs:?}");
    end(&cx, name).await
}

async fn suspended(cx: Context) -> Result<()> {
    let name = "suspended";
    let mut made = cron_job(name, EVERY_MINUTE, "Allow", SLEEPS);
    made["spec"]["suspend"] = json!(true);
    cx.create(&CRON_JOBS, &made).await?;
    // For five minutes no Job may come.
    let version = version_of(&cx.api(&JOBS).list(&[]).await?).to_string();
    let mut jobs = cx.api(&JOBS).watch(&[("resourceVersion", &version), ("timeoutSeconds", "900")]).await?;
    jobs.silent(Duration::from_secs(300), "Jobs of a suspended CronJob").await?;
    ensure_eq!(cx.api(&JOBS).items(&[]).await?.len(), 0, "Jobs of the suspended CronJob");
    ensure_eq!(active(&cx.api(&CRON_JOBS).get(name).await?).len(), 0, "active Jobs in its status");
    end(&cx, name).await
}

async fn forbid(cx: Context) -> Result<()> {
    let name = "forbid";
    cx.create(&CRON_JOBS, &cron_job(name, EVERY_MINUTE, "Forbid", SLEEPS)).await?;
    let one = wait_active(&cx, name, 1).await?;
    ensure_eq!(active(&one).len(), 1, "active Jobs");
    let version = version_of(&cx.api(&JOBS).list(&[]).await?).to_string();
    ensure_eq!(cx.api(&JOBS).items(&[]).await?.len(), 1, "Jobs");
    // Upstream waits five periods for a second Job that must not come while the first runs.
    let mut jobs = cx.api(&JOBS).watch(&[("resourceVersion", &version), ("timeoutSeconds", "900")]).await?;
    let end_of_wait = tokio::time::Instant::now() + Duration::from_secs(180);
    while let Ok(event) = tokio::time::timeout_at(end_of_wait, jobs.next()).await {
        let Some(event) = event? else { anyhow::bail!("the server ended the watch of Jobs") };
        anyhow::ensure!(
            event.kind != "ADDED",
            "a second Job while the first runs: {}",
            event.object["metadata"]
        );
    }
    ensure_eq!(active(&cx.api(&CRON_JOBS).get(name).await?).len(), 1, "active Jobs");
    end(&cx, name).await
}

async fn replace(cx: Context) -> Result<()> {
    let name = "replace";
    cx.create(&CRON_JOBS, &cron_job(name, EVERY_MINUTE, "Replace", SLEEPS)).await?;
    let one = wait_active(&cx, name, 1).await?;
    let first = text(&active(&one)[0], "/name").to_string();
    ensure_eq!(unfinished(&cx.api(&JOBS).items(&[]).await?.iter().collect::<Vec<_>>()), 1, "running Jobs");
    let replaced = |c: Option<&Value>| {
        Ok(c.is_some_and(|c| active(c).len() == 1 && text(&active(c)[0], "/name") != first))
    };
    let second = cx.api(&CRON_JOBS).wait(name, LIMIT, "the Job was replaced", replaced).await?;
    let second = text(&active(&second)[0], "/name").to_string();
    let gone = |j: Option<&Value>| Ok(j.is_none_or(|j| !alive(j)));
    cx.api(&JOBS).wait(&first, MINUTE, "the first Job is deleted", gone).await?;
    anyhow::ensure!(alive(&cx.api(&JOBS).get(&second).await?), "the second Job is being deleted too");
    end(&cx, name).await
}

async fn discovery(cx: &Context) -> Result<()> {
    let groups = cx.rest().get("/apis").await?;
    let group = array(&groups, "/groups").iter().find(|g| g["name"] == "batch");
    let has = group.is_some_and(|g| array(g, "/versions").iter().any(|v| v["version"] == "v1"));
    anyhow::ensure!(has, "/apis does not have batch/v1");
    let group = cx.rest().get("/apis/batch").await?;
    anyhow::ensure!(
        array(&group, "/versions").iter().any(|v| v["version"] == "v1"),
        "/apis/batch does not have v1"
    );
    let resources = cx.rest().get("/apis/batch/v1").await?;
    for want in ["cronjobs", "cronjobs/status"] {
        let has = array(&resources, "/resources").iter().any(|r| r["name"] == want);
        anyhow::ensure!(has, "/apis/batch/v1 does not have {want}");
    }
    Ok(())
}

async fn operations(cx: Context) -> Result<()> {
    discovery(&cx).await?;
    let api = cx.api(&CRON_JOBS);
    let mark = crate::context::random(8);
    let selector = format!("special-label={mark}");
    let mut made = cron_job("ignored", "* */1 * * ?", "Allow", SLEEPS);
    made["metadata"] = json!({"generateName": "e2e-example-cj", "labels": {"special-label": mark}});
    for _ in 0..2 {
        api.create(&made).await?;
    }
    let created = api.create(&made).await?;
    let name = name_of(&created)?.to_string();
    let seen = api.get(&name).await?;
    ensure_eq!(seen["metadata"]["uid"], created["metadata"]["uid"], "uid");
    ensure_eq!(api.labelled(&selector).await?.len(), 3, "CronJobs in the namespace");
    let everywhere = cx.api_all(&CRON_JOBS);
    let list = everywhere.list(&[("labelSelector", &selector)]).await?;
    ensure_eq!(array(&list, "/items").len(), 3, "CronJobs over all namespaces");
    let version = version_of(&list).to_string();
    let clusterwide = watch_from(&everywhere, &selector, &version).await?;
    drop(clusterwide);
    let patched =
        api.patch(&name, Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}))).await?;
    ensure_eq!(patched["metadata"]["annotations"]["patched"], json!("true"), "annotation of the patch");
    let updated = api.modify(&name, |c| c["metadata"]["annotations"]["updated"] = json!("true")).await?;
    ensure_eq!(updated["metadata"]["annotations"]["updated"], json!("true"), "annotation of the update");
    let mut watch = watch_from(&api, &selector, &version).await?;
    loop {
        let event = watch.within(MINUTE, "events of the patch and the update").await?;
        ensure_eq!(event.kind, "MODIFIED", "type of the event");
        if event.object["metadata"]["annotations"]["patched"] == "true" {
            break;
        }
    }
    drop(watch);
    status_operations(&cx, &name).await?;
    let foreground = json!({"propagationPolicy": "Foreground"});
    api.delete_with(&name, foreground).await?;
    api.wait_gone(&name, MINUTE).await?;
    ensure_eq!(api.labelled(&selector).await?.len(), 2, "CronJobs after one was deleted");
    api.delete_collection(&[("labelSelector", &selector)]).await?;
    let none = |all: &[&Value]| Ok(all.is_empty().then_some(()));
    api.wait_set(&[("labelSelector", &selector)], MINUTE, "no CronJob is left", none).await
}

async fn status_operations(cx: &Context, name: &str) -> Result<()> {
    let api = cx.api(&CRON_JOBS);
    let (first, later) = ("2026-01-02T03:04:05Z", "2026-01-02T04:05:06Z");
    let path = format!("{name}/status");
    let patch = json!({
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"lastScheduleTime": first},
    });
    let patched = api.patch(&path, Patch::Merge(patch)).await?;
    ensure_eq!(text(&patched, "/status/lastScheduleTime"), first, "lastScheduleTime of the patch");
    ensure_eq!(patched["metadata"]["annotations"]["patchedstatus"], json!("true"), "annotation of the patch");
    let updated = api.modify_at(name, "status", |c| c["status"]["lastScheduleTime"] = json!(later)).await?;
    ensure_eq!(text(&updated, "/status/lastScheduleTime"), later, "lastScheduleTime of the update");
    let seen = api.get(&path).await?;
    ensure_eq!(seen["metadata"]["uid"], updated["metadata"]["uid"], "uid in /status");
    ensure_eq!(number(&seen, "/spec/jobTemplate/spec/parallelism"), 1, "spec in /status");
    Ok(())
}
