//! Upstream's rc.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::replica_set::{adopted, failure_condition, released};
use super::workloads::*;
use crate::Result;
use crate::api::{Api, Patch, array, name_of, number, text};
use crate::context::{Context, POD_START};
use crate::images::AGNHOST;
use crate::kinds::REPLICATION_CONTROLLERS;
use crate::pods::container;
use crate::watch::Watch;

tests! {
    "[sig-apps] ReplicationController should serve a basic image on each replica with a public image" => serves_names,
    "[sig-apps] ReplicationController should surface a failure condition on a common issue like exceeded quota" => failure_condition,
    "[sig-apps] ReplicationController should adopt matching pods on creation" => adopts,
    "[sig-apps] ReplicationController should release no longer matching pods" => releases,
    "[sig-apps] ReplicationController should test the lifecycle of a ReplicationController" => lifecycle,
    "[sig-apps] ReplicationController should get and update a ReplicationController scale" => scale,
}

const STATIC: &str = "test-rc-static=true";

async fn serves_names(cx: Context) -> Result<()> {
    let name = cx.unique("my-hostname-basic");
    let mut served = container(&name, AGNHOST, &["serve-hostname"]);
    served["ports"] = json!([{"containerPort": 9376}]);
    cx.create(&REPLICATION_CONTROLLERS, &controller(&name, 1, &json!({"name": name}), served)).await?;
    let selector = format!("name={name}");
    pods_created(&cx, &selector, 1).await?;
    let pods = pods_running(&cx, &selector, 1).await?;
    pods_answer_names(&cx, &pods).await
}

fn selecting(name: &str) -> Value {
    let mut rc = controller(name, 1, &json!({"name": name}), webserver());
    rc["spec"]["selector"] = json!({"name": name});
    rc
}

async fn adopts(cx: Context) -> Result<()> {
    let name = "pod-adoption";
    let labels = json!({"name": name});
    cx.start(&json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [webserver()]}}))
        .await?;
    let rc = cx.create(&REPLICATION_CONTROLLERS, &selecting(name)).await?;
    adopted(&cx, name, text(&rc, "/metadata/uid")).await
}

async fn releases(cx: Context) -> Result<()> {
    let name = "pod-release";
    let rc = cx.create(&REPLICATION_CONTROLLERS, &selecting(name)).await?;
    let pods = pods_created(&cx, &format!("name={name}"), 1).await?;
    released(&cx, name_of(&pods[0])?, text(&rc, "/metadata/uid")).await
}

async fn scale(cx: Context) -> Result<()> {
    let name = cx.unique("e2e-rc");
    let api = cx.api(&REPLICATION_CONTROLLERS);
    api.create(&controller(&name, 1, &json!({"name": name}), webserver())).await?;
    let replicas =
        |want: i64| move |rc: Option<&Value>| Ok(rc.is_some_and(|rc| number(rc, "/status/replicas") == want));
    api.wait(&name, MINUTE, "one replica", replicas(1)).await?;
    let mut scale = api.get(&format!("{name}/scale")).await?;
    ensure_eq!(number(&scale, "/status/replicas"), 1, "status.replicas of the scale");
    scale["metadata"]["resourceVersion"] = Value::Null;
    scale["spec"]["replicas"] = json!(2);
    let updated = api.update_sub(&name, "scale", &scale).await?;
    ensure_eq!(number(&updated, "/spec/replicas"), 2, "spec.replicas of the replaced scale");
    api.wait(&name, MINUTE, "two replicas", replicas(2)).await.map(|_| ())
}

async fn saw(watch: &mut Watch, limit: Duration, kind: &str) -> Result<Value> {
    let what = format!("{kind} of the controller");
    Ok(watch.until(limit, &what, |e| e.kind == kind).await?.object)
}

async fn lifecycle(cx: Context) -> Result<()> {
    let name = "rc-test";
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let version = list_version(&cx, &REPLICATION_CONTROLLERS, STATIC).await?;
    let mut watch = watch_from(&api, STATIC, &version).await?;
    let labels = json!({"test-rc-static": "true"});
    let mut rc = controller(name, 1, &labels, webserver());
    rc["metadata"]["labels"] = labels.clone();
    rc["spec"]["selector"] = labels;
    api.create(&rc).await?;
    saw(&mut watch, MINUTE, "ADDED").await?;
    watch
        .until(POD_START, "one ready replica", |e| {
            number(&e.object, "/status/replicas") == 1 && number(&e.object, "/status/readyReplicas") == 1
        })
        .await?;
    let patched =
        api.patch(name, Patch::Strategic(json!({"metadata": {"labels": {"test-rc": "patched"}}}))).await?;
    ensure_eq!(patched["metadata"]["labels"]["test-rc"], json!("patched"), "label of the answer");
    saw(&mut watch, MINUTE, "MODIFIED").await?;
    let zero = Patch::Strategic(json!({"status": {"readyReplicas": 0, "availableReplicas": 0}}));
    let patched = api.patch(&format!("{name}/status"), zero).await?;
    ensure_eq!(number(&patched, "/status/readyReplicas"), 0, "status.readyReplicas of the answer");
    saw(&mut watch, MINUTE, "MODIFIED").await?;
    watch.until(MINUTE, "status.replicas is 1", |e| number(&e.object, "/status/replicas") == 1).await?;
    let status = api.get(&format!("{name}/status")).await?;
    ensure_eq!(number(&status, "/status/replicas"), 1, "status.replicas");
    api.patch(&format!("{name}/scale"), Patch::Strategic(json!({"spec": {"replicas": 2}}))).await?;
    saw(&mut watch, POD_START, "MODIFIED").await?;
    watch
        .until(POD_START, "two ready replicas", |e| {
            number(&e.object, "/status/replicas") == 2 && number(&e.object, "/status/readyReplicas") == 2
        })
        .await?;
    end_of_life(&cx, &api, name, watch).await
}

async fn end_of_life(cx: &Context, api: &Api, name: &str, mut watch: Watch) -> Result<()> {
    let rc = api.get(name).await?;
    ensure_eq!(rc["metadata"]["labels"]["test-rc"], json!("patched"), "label of the earlier patch");
    api.modify_at(name, "status", |rc| {
        rc["status"]["availableReplicas"] = json!(1);
        rc["status"]["readyReplicas"] = json!(1);
    })
    .await?;
    saw(&mut watch, MINUTE, "MODIFIED").await?;
    let listed = cx.api_all(&REPLICATION_CONTROLLERS).labelled(STATIC).await?;
    let found = listed.iter().any(|rc| {
        text(rc, "/metadata/name") == name
            && text(rc, "/metadata/namespace") == cx.namespace()
            && rc["metadata"]["labels"]["test-rc-static"] == "true"
            && rc["metadata"]["labels"]["test-rc"] == "patched"
    });
    anyhow::ensure!(found, "the list over all namespaces does not have the patched controller: {listed:?}");
    api.delete_collection(&[("labelSelector", STATIC)]).await?;
    saw(&mut watch, MINUTE, "DELETED").await?;
    anyhow::ensure!(
        array(&rc, "/spec/template/spec/containers").len() == 1,
        "the template has one container"
    );
    Ok(())
}
