//! Upstream's garbage_collector.go: propagation policies.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, array, number, text};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::{DEPLOYMENTS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};

tests! {
    "[sig-api-machinery] Garbage collector should delete pods created by rc when not orphaning" => background_rc,
    "[sig-api-machinery] Garbage collector should orphan pods created by rc if delete options say so [Serial]" => orphan_rc,
    "[sig-api-machinery] Garbage collector should delete RS created by deployment when not orphaning" => background_deployment,
    "[sig-api-machinery] Garbage collector should orphan RS created by deployment when deleteOptions.PropagationPolicy is Orphan" => orphan_deployment,
    "[sig-api-machinery] Garbage collector should keep the rc around until all its pods are deleted if the deleteOptions says so [Serial]" => foreground_rc,
}

/// Upstream's limit for the collector's work.
pub(super) const LIMIT: Duration = Duration::from_secs(90);
/// How long the collector is given to do what it must not.
const QUIET: Duration = Duration::from_secs(30);
/// Upstream takes what fits, between 10 and 100.
pub(super) const MANY: i64 = 20;

pub(super) fn controller(name: &str, replicas: i64, label: &str) -> Value {
    let labels = json!({label: "true"});
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": labels, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "nginx", "image": PAUSE}]},
        }},
    })
}

/// Deletion of exactly this object with a policy.
pub(super) fn options(object: &Value, policy: &str) -> Value {
    json!({"propagationPolicy": policy, "preconditions": {"uid": object["metadata"]["uid"]}})
}

/// Waits until so many objects of the kind are in the namespace.
pub(super) async fn count(cx: &Context, kind: &Kind, want: usize) -> Result<Vec<Value>> {
    let what = format!("{want} {}", kind.plural);
    let done = |all: &[&Value]| Ok((all.len() == want).then(|| all.iter().map(|o| (*o).clone()).collect()));
    cx.api(kind).wait_set(&[], LIMIT, &what, done).await
}

/// Waits until the controller has counted its pods.
pub(super) async fn counted(api: &Api, name: &str, want: i64) -> Result<Value> {
    let done = |o: Option<&Value>| Ok(o.is_some_and(|o| number(o, "/status/replicas") == want));
    api.wait(name, LIMIT, &format!("status.replicas {want}"), done).await
}

async fn background_rc(cx: Context) -> Result<()> {
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let rc = api.create(&controller("simpletest.rc", 2, "gctest-delete-pods")).await?;
    count(&cx, &PODS, 2).await?;
    api.delete_with("simpletest.rc", options(&rc, "Background")).await?;
    count(&cx, &PODS, 0).await?;
    api.wait_gone("simpletest.rc", LIMIT).await
}

async fn orphan_rc(cx: Context) -> Result<()> {
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let rc = api.create(&controller("simpletest.rc", MANY, "gctest-orphan-pods")).await?;
    counted(&api, "simpletest.rc", MANY).await?;
    api.delete_with("simpletest.rc", options(&rc, "Orphan")).await?;
    api.wait_gone("simpletest.rc", LIMIT).await?;
    tokio::time::sleep(QUIET).await;
    let pods = cx.pods().items(&[]).await?;
    ensure_eq!(pods.len() as i64, MANY, "pods after their owner was deleted with Orphan");
    for pod in &pods {
        anyhow::ensure!(
            array(pod, "/metadata/ownerReferences").is_empty(),
            "an orphan with an owner: {}",
            pod["metadata"]
        );
        anyhow::ensure!(
            pod["metadata"]["deletionTimestamp"].is_null(),
            "an orphan is deleted: {}",
            pod["metadata"]
        );
    }
    Ok(())
}

fn deployment() -> Value {
    let labels = json!({"app": "gc-deployment"});
    json!({
        "metadata": {"name": "simpletest.deployment"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "strategy": {"type": "RollingUpdate"}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "nginx", "image": PAUSE}]},
        }},
    })
}

async fn background_deployment(cx: Context) -> Result<()> {
    let api = cx.api(&DEPLOYMENTS);
    let made = api.create(&deployment()).await?;
    count(&cx, &REPLICA_SETS, 1).await?;
    api.delete_with("simpletest.deployment", options(&made, "Background")).await?;
    count(&cx, &REPLICA_SETS, 0).await?;
    count(&cx, &DEPLOYMENTS, 0).await?;
    count(&cx, &PODS, 0).await.map(|_| ())
}

async fn orphan_deployment(cx: Context) -> Result<()> {
    let api = cx.api(&DEPLOYMENTS);
    let made = api.create(&deployment()).await?;
    count(&cx, &REPLICA_SETS, 1).await?;
    api.delete_with("simpletest.deployment", options(&made, "Orphan")).await?;
    api.wait_gone("simpletest.deployment", LIMIT).await?;
    tokio::time::sleep(QUIET).await;
    let sets = cx.api(&REPLICA_SETS).items(&[]).await?;
    ensure_eq!(sets.len(), 1, "ReplicaSets after their owner was deleted with Orphan");
    let owners = array(&sets[0], "/metadata/ownerReferences");
    anyhow::ensure!(owners.is_empty(), "the orphan has owners: {owners:?}");
    Ok(())
}

async fn foreground_rc(cx: Context) -> Result<()> {
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let rc = api.create(&controller("simpletest.rc", MANY, "gctest-delete-pods-foreground")).await?;
    counted(&api, "simpletest.rc", MANY).await?;
    api.delete_with("simpletest.rc", options(&rc, "Foreground")).await?;
    if let Some(left) = api.find("simpletest.rc").await? {
        let held = array(&left, "/metadata/finalizers").iter().any(|f| f == "foregroundDeletion");
        anyhow::ensure!(
            held,
            "the controller is deleted in the foreground without its finalizer: {}",
            left["metadata"]
        );
        anyhow::ensure!(!text(&left, "/metadata/deletionTimestamp").is_empty(), "no deletionTimestamp");
    }
    api.wait_gone("simpletest.rc", LIMIT).await?;
    let pods = cx.pods().items(&[]).await?;
    ensure_eq!(pods.len(), 0, "pods when their owner is gone");
    Ok(())
}
