//! Upstream's deployment.go: strategies, history, roll-over, proportional scaling.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{name_of, number, text, version_of};
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, AGNHOST_PREV};
use crate::kinds::{DEPLOYMENTS, PODS, REPLICA_SETS};
use crate::pods::{container, phase};

tests! {
    "[sig-apps] Deployment RollingUpdateDeployment should delete old pods and create new ones" => rolling_update,
    "[sig-apps] Deployment RecreateDeployment should delete old pods and create new ones" => recreate,
    "[sig-apps] Deployment deployment should delete old replica sets" => history,
    "[sig-apps] Deployment deployment should support rollover" => rollover,
    "[sig-apps] Deployment deployment should support proportional scaling" => proportional,
}

fn agnhost() -> Value {
    container("agnhost", AGNHOST, &["pause"])
}

async fn old_set(cx: &Context, name: &str, label: &str, annotations: Value) -> Result<()> {
    let labels = json!({"name": label, "pod": WEBSERVER});
    let mut set = replica_set(name, 1, &labels, container(WEBSERVER, AGNHOST_PREV, &["test-webserver"]));
    set["metadata"]["annotations"] = annotations;
    cx.create(&REPLICA_SETS, &set).await?;
    pods_running(cx, &format!("name={label}"), 1).await.map(|_| ())
}

async fn rolling_update(cx: Context) -> Result<()> {
    let annotations = json!({"deployment.kubernetes.io/revision": "3546343826724305832"});
    old_set(&cx, "test-rolling-update-controller", "sample-pod", annotations).await?;
    let name = "test-rolling-update-deployment";
    cx.create(&DEPLOYMENTS, &deployment(name, 1, &json!({"name": "sample-pod"}), agnhost(), "RollingUpdate"))
        .await?;
    wait_revision(&cx, name, "3546343826724305833", AGNHOST).await?;
    let done = wait_complete(&cx, name).await?;
    let old: Vec<Value> = sets_of(&cx, &done).await?;
    let old: Vec<&Value> =
        old.iter().filter(|rs| text(rs, "/spec/template/spec/containers/0/name") == WEBSERVER).collect();
    ensure_eq!(old.len(), 1, "old ReplicaSets of the Deployment");
    ensure_eq!(name_of(old[0])?, "test-rolling-update-controller", "the old ReplicaSet is the adopted one");
    ensure_eq!(number(old[0], "/spec/replicas"), 0, "replicas of the old ReplicaSet");
    Ok(())
}

async fn recreate(cx: Context) -> Result<()> {
    let name = "test-recreate-deployment";
    cx.create(&DEPLOYMENTS, &deployment(name, 1, &json!({"name": "sample-pod-3"}), agnhost(), "Recreate"))
        .await?;
    wait_revision(&cx, name, "1", AGNHOST).await?;
    wait_complete(&cx, name).await?;
    let pods = cx.pods().list(&[("labelSelector", "name=sample-pod-3")]).await?;
    let mut watch = watch_from(&cx.pods(), "name=sample-pod-3", version_of(&pods)).await?;
    cx.api(&DEPLOYMENTS)
        .modify(name, |d| d["spec"]["template"]["spec"]["containers"] = json!([webserver()]))
        .await?;
    // No pod of the new template may run while one of the old template does.
    let mut old_running = 1;
    loop {
        let event = watch.within(POD_START, "old and new pods").await?;
        let old = text(&event.object, "/spec/containers/0/name") == "agnhost";
        let over = event.kind == "DELETED" || matches!(phase(&event.object), "Failed" | "Succeeded");
        if old && over {
            old_running = 0;
        }
        if !old && phase(&event.object) == "Running" {
            ensure_eq!(old_running, 0, "old pods that still run while a new one does");
            break;
        }
    }
    wait_complete(&cx, name).await.map(|_| ())
}

async fn history(cx: Context) -> Result<()> {
    old_set(&cx, "test-cleanup-controller", "cleanup-pod", Value::Null).await?;
    let name = "test-cleanup-deployment";
    let pods = cx.pods().list(&[]).await?;
    let mut watch = cx.pods().watch(&[("resourceVersion", version_of(&pods))]).await?;
    let mut made = deployment(name, 1, &json!({"name": "cleanup-pod"}), agnhost(), "RollingUpdate");
    made["spec"]["revisionHistoryLimit"] = json!(0);
    let made = cx.create(&DEPLOYMENTS, &made).await?;
    let uid = text(&made, "/metadata/uid");
    let what = "no old ReplicaSet is left";
    cx.api(&REPLICA_SETS)
        .wait_set(&[], MINUTE, what, |sets| {
            let owned = sets.iter().filter(|rs| controller_of(rs)["uid"] == uid);
            let (new, old): (Vec<&&Value>, Vec<&&Value>) =
                owned.partition(|rs| text(rs, "/spec/template/spec/containers/0/name") == "agnhost");
            let alone = sets.iter().all(|rs| text(rs, "/metadata/name") != "test-cleanup-controller");
            Ok((new.len() == 1 && old.is_empty() && alone).then_some(()))
        })
        .await?;
    // The only pod that was created is the new one.
    let mut created = Vec::new();
    while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_secs(2), watch.next()).await {
        if event.kind == "ADDED" {
            created.push(text(&event.object, "/spec/containers/0/name").to_string());
        }
    }
    ensure_eq!(created, vec!["agnhost".to_string()], "containers of the pods created");
    ensure_eq!(PODS.plural, "pods", "what was watched");
    Ok(())
}

fn has_replicas(rs: &Value, want: i64, what: &str) -> Result<()> {
    ensure_eq!(number(rs, "/spec/replicas"), want, "spec.replicas of {what}");
    ensure_eq!(number(rs, "/status/replicas"), want, "status.replicas of {what}");
    Ok(())
}

async fn rollover(cx: Context) -> Result<()> {
    old_set(&cx, "test-rollover-controller", "rollover-pod", Value::Null).await?;
    let sets = cx.api(&REPLICA_SETS);
    let ready = |rs: Option<&Value>| Ok(rs.is_some_and(|rs| number(rs, "/status/readyReplicas") == 1));
    sets.wait("test-rollover-controller", MINUTE, "ready", ready).await?;
    let name = "test-rollover-deployment";
    let missing = "gcr.io/google_samples/gb-redisslave:nonexistent";
    let stuck = json!({"name": "redis-slave", "image": missing});
    let mut made = deployment(name, 1, &json!({"name": "rollover-pod"}), stuck, "RollingUpdate");
    made["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 1});
    made["spec"]["minReadySeconds"] = json!(10);
    let deployments = cx.api(&DEPLOYMENTS);
    let made = deployments.create(&made).await?;
    let generation = number(&made, "/metadata/generation");
    let updated = |d: Option<&Value>| {
        Ok(d.is_some_and(|d| {
            number(d, "/status/observedGeneration") >= generation && number(d, "/status/updatedReplicas") >= 1
        }))
    };
    let made = deployments.wait(name, POD_START, "one updated replica", updated).await?;
    let first = wait_revision(&cx, name, "1", missing).await?;
    let first_name = name_of(&first)?.to_string();
    let one = |rs: Option<&Value>| Ok(rs.is_some_and(|rs| number(rs, "/status/replicas") == 1));
    sets.wait(&first_name, MINUTE, "one replica", one).await?;
    has_replicas(&sets.get("test-rollover-controller").await?, 1, "the adopted ReplicaSet")?;
    has_replicas(&new_set(&cx, &made).await?, 1, "the stuck ReplicaSet")?;
    let changed = deployments
        .modify(name, |d| d["spec"]["template"]["spec"]["containers"] = json!([agnhost()]))
        .await?;
    wait_observed(&deployments, &changed).await?;
    wait_revision(&cx, name, "2", AGNHOST).await?;
    complete_within_bounds(&cx, name).await?;
    has_replicas(&sets.get("test-rollover-controller").await?, 0, "the adopted ReplicaSet")?;
    has_replicas(&sets.get(&first_name).await?, 0, "the stuck ReplicaSet")
}

/// Waits for the end of a roll-out that may have one replica more and none less than wanted.
async fn complete_within_bounds(cx: &Context, name: &str) -> Result<()> {
    let what = "rolled out within maxSurge and maxUnavailable";
    let mut broken = None;
    let waited = crate::watch::poll(POD_START, Duration::from_millis(300), what, || async {
        let d = cx.api(&DEPLOYMENTS).get(name).await?;
        let total: i64 = sets_of(cx, &d).await?.iter().map(|rs| number(rs, "/spec/replicas")).sum();
        if total > 2 || number(&d, "/status/availableReplicas") < 1 {
            return Ok(Some(Err(format!("{total} replicas in all, status {}", d["status"]))));
        }
        Ok(complete(&d).then_some(Ok(())))
    })
    .await?;
    if let Err(why) = waited {
        broken = Some(why);
    }
    anyhow::ensure!(broken.is_none(), "the roll-out broke its bounds: {}", broken.unwrap_or_default());
    Ok(())
}

async fn spec_replicas(cx: &Context, set: &str, want: i64) -> Result<()> {
    let what = format!("spec.replicas {want}");
    let done = |rs: Option<&Value>| Ok(rs.is_some_and(|rs| number(rs, "/spec/replicas") == want));
    cx.api(&REPLICA_SETS).wait(set, POD_START, &what, done).await.map(|_| ())
}

async fn pods_made(cx: &Context, set: &str) -> Result<()> {
    let done = |rs: Option<&Value>| {
        Ok(rs.is_some_and(|rs| {
            number(rs, "/status/observedGeneration") >= number(rs, "/metadata/generation")
                && number(rs, "/status/replicas") == number(rs, "/spec/replicas")
        }))
    };
    cx.api(&REPLICA_SETS).wait(set, POD_START, "as many pods as wanted", done).await.map(|_| ())
}

async fn proportional(cx: Context) -> Result<()> {
    let name = "webserver-deployment";
    let deployments = cx.api(&DEPLOYMENTS);
    let mut made = deployment(name, 10, &json!({"name": WEBSERVER}), webserver(), "RollingUpdate");
    made["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 2, "maxSurge": 3});
    let made = deployments.create(&made).await?;
    wait_observed(&deployments, &made).await?;
    pods_running(&cx, &format!("name={WEBSERVER}"), 10).await?;
    let made = wait_complete(&cx, name).await?;
    let first = name_of(&new_set(&cx, &made).await?)?.to_string();
    let changed = deployments
        .modify(name, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("webserver:404"))
        .await?;
    wait_observed(&deployments, &changed).await?;
    let available =
        |rs: Option<&Value>| Ok(rs.is_some_and(|rs| number(rs, "/status/availableReplicas") == 8));
    cx.api(&REPLICA_SETS).wait(&first, POD_START, "8 available replicas", available).await?;
    spec_replicas(&cx, &first, 8).await?;
    pods_made(&cx, &first).await?;
    let second = new_set(&cx, &changed).await?;
    ensure_eq!(number(&second, "/status/availableReplicas"), 0, "available replicas of the stuck ReplicaSet");
    let second = name_of(&second)?.to_string();
    spec_replicas(&cx, &second, 5).await?;
    pods_made(&cx, &second).await?;
    let scaled = deployments.modify(name, |d| d["spec"]["replicas"] = json!(30)).await?;
    wait_observed(&deployments, &scaled).await?;
    // 30 + 3 in all: the 20 added are shared 12 to 8.
    spec_replicas(&cx, &first, 20).await?;
    spec_replicas(&cx, &second, 13).await
}
