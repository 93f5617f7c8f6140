//! Upstream's replica_set.go.

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Patch, array, name_of, number, text};
use crate::context::{Context, POD_START, random};
use crate::images::{AGNHOST, PAUSE};
use crate::kinds::{REPLICA_SETS, REPLICATION_CONTROLLERS};
use crate::pods::container;

tests! {
    "[sig-apps] ReplicaSet should serve a basic image on each replica with a public image" => serves_names,
    "[sig-apps] ReplicaSet should adopt matching pods on creation and release no longer matching pods" => adopts_and_releases,
    "[sig-apps] ReplicaSet Replicaset should have a working scale subresource" => scale,
    "[sig-apps] ReplicaSet Replace and Patch tests" => replace_and_patch,
    "[sig-apps] ReplicaSet should list and delete a collection of ReplicaSets" => collection,
    "[sig-apps] ReplicaSet should validate Replicaset Status endpoints" => status,
}

fn sample_labels() -> Value {
    json!({"name": "sample-pod", "pod": WEBSERVER})
}

async fn serves_names(cx: Context) -> Result<()> {
    let name = cx.unique("my-hostname-basic");
    let mut served = container(&name, AGNHOST, &["serve-hostname"]);
    served["ports"] = json!([{"containerPort": 9376}]);
    cx.create(&REPLICA_SETS, &replica_set(&name, 1, &json!({"name": name}), served)).await?;
    let selector = format!("name={name}");
    pods_created(&cx, &selector, 1).await?;
    let pods = pods_running(&cx, &selector, 1).await?;
    pods_answer_names(&cx, &pods).await
}

async fn adopts_and_releases(cx: Context) -> Result<()> {
    let name = "pod-adoption-release";
    let labels = json!({"name": name});
    cx.start(&json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [webserver()]}}))
        .await?;
    let set = cx.create(&REPLICA_SETS, &replica_set(name, 1, &labels, webserver())).await?;
    adopted(&cx, name, text(&set, "/metadata/uid")).await?;
    let pods = pods_created(&cx, &format!("name={name}"), 1).await?;
    released(&cx, name_of(&pods[0])?, text(&set, "/metadata/uid")).await
}

/// The orphan is adopted, or deleted and replaced.
pub(super) async fn adopted(cx: &Context, pod: &str, uid: &str) -> Result<()> {
    let what = "the orphan is adopted or replaced";
    cx.pods()
        .wait(pod, MINUTE, what, |p| Ok(p.is_none_or(|p| controller_of(p)["uid"] == uid)))
        .await
        .map(|_| ())
}

/// A pod whose labels no longer match loses its owner.
pub(super) async fn released(cx: &Context, pod: &str, uid: &str) -> Result<()> {
    cx.pods().modify(pod, |p| p["metadata"]["labels"] = json!({"name": "not-matching-name"})).await?;
    let what = "the pod is released";
    let gone = |p: Option<&Value>| {
        let p = p.ok_or_else(|| anyhow::anyhow!("the pod was deleted instead of released"))?;
        Ok(controller_of(p)["uid"] != uid)
    };
    cx.pods().wait(pod, MINUTE, what, gone).await.map(|_| ())
}

async fn scale(cx: Context) -> Result<()> {
    cx.create(&REPLICA_SETS, &replica_set("test-rs", 1, &sample_labels(), webserver())).await?;
    pods_running(&cx, "name=sample-pod", 1).await?;
    // The pod runs before the controller has counted it.
    let counted = |rs: Option<&Value>| Ok(rs.is_some_and(|rs| number(rs, "/status/replicas") == 1));
    cx.api(&REPLICA_SETS).wait("test-rs", MINUTE, "status.replicas", counted).await?;
    scale_battery(&cx, &REPLICA_SETS, "test-rs").await
}

async fn replace_and_patch(cx: Context) -> Result<()> {
    let api = cx.api(&REPLICA_SETS);
    let version = list_version(&cx, &REPLICA_SETS, "test-rs=patched").await?;
    api.create(&replica_set("test-rs", 1, &sample_labels(), webserver())).await?;
    pods_running(&cx, "name=sample-pod", 1).await?;
    let scaled = api.modify("test-rs", |rs| rs["spec"]["replicas"] = json!(2)).await?;
    ensure_eq!(number(&scaled, "/spec/replicas"), 2, "spec.replicas");
    let patch = json!({
        "metadata": {"labels": {"test-rs": "patched"}},
        "spec": {
            "replicas": 3,
            "template": {"spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "test-rs", "image": PAUSE}],
            }},
        },
    });
    api.patch("test-rs", Patch::Strategic(patch)).await?;
    event(
        &api,
        "test-rs=patched",
        &version,
        POD_START,
        "three ready replicas of the patched set",
        |_, rs| {
            text(rs, "/metadata/name") == "test-rs"
                && rs["metadata"]["labels"]["test-rs"] == "patched"
                && number(rs, "/status/readyReplicas") == 3
                && number(rs, "/status/availableReplicas") == 3
                && text(rs, "/spec/template/spec/containers/0/image") == PAUSE
                && number(rs, "/spec/template/spec/terminationGracePeriodSeconds") == 0
        },
    )
    .await?;
    Ok(())
}

async fn collection(cx: Context) -> Result<()> {
    let mark = random(5);
    let mut labels = sample_labels();
    labels["e2e"] = json!(mark);
    let api = cx.api(&REPLICA_SETS);
    api.create(&replica_set("test-rs", 3, &labels, webserver())).await?;
    pods_running(&cx, "name=sample-pod", 3).await?;
    api.get("test-rs").await?;
    let selector = format!("e2e={mark}");
    let all = cx.api_all(&REPLICA_SETS);
    ensure_eq!(all.labelled(&selector).await?.len(), 1, "ReplicaSets with {selector}");
    api.delete_collection(&[("labelSelector", &selector)]).await?;
    ensure_eq!(all.labelled(&selector).await?.len(), 0, "ReplicaSets with {selector} after deletecollection");
    Ok(())
}

async fn status(cx: Context) -> Result<()> {
    let selector = format!("name=sample-pod,pod={WEBSERVER}");
    let version = list_version(&cx, &REPLICA_SETS, &selector).await?;
    cx.create(&REPLICA_SETS, &replica_set("test-rs", 1, &sample_labels(), webserver())).await?;
    pods_running(&cx, "name=sample-pod", 1).await?;
    status_battery(&cx, &REPLICA_SETS, "test-rs", &selector, &version).await
}

/// The quota test of ReplicationControllers: a ReplicaFailure condition comes and goes.
pub(super) async fn failure_condition(cx: Context) -> Result<()> {
    let name = "condition-test";
    let quotas = cx.api(&crate::kinds::RESOURCE_QUOTAS);
    quotas.create(&json!({"metadata": {"name": name}, "spec": {"hard": {"pods": "2"}}})).await?;
    let synced = |q: Option<&Value>| Ok(q.is_some_and(|q| text(q, "/status/hard/pods") == "2"));
    quotas.wait(name, MINUTE, "the quota is counted", synced).await?;
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let made = api.create(&controller(name, 3, &json!({"name": name}), webserver())).await?;
    failing(&api, &made, true).await?;
    let made = api.modify(name, |rc| rc["spec"]["replicas"] = json!(2)).await?;
    failing(&api, &made, false).await
}

async fn failing(api: &crate::api::Api, made: &Value, want: bool) -> Result<()> {
    let generation = number(made, "/metadata/generation");
    let what = if want { "a ReplicaFailure condition" } else { "no ReplicaFailure condition" };
    let done = |o: Option<&Value>| {
        let o = o.ok_or_else(|| anyhow::anyhow!("the controller is gone"))?;
        let has = array(o, "/status/conditions").iter().any(|c| c["type"] == "ReplicaFailure");
        Ok(number(o, "/status/observedGeneration") >= generation && has == want)
    };
    api.wait(name_of(made)?, MINUTE, what, done).await.map(|_| ())
}
