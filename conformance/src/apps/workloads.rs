//! What the tests of this SIG share: templates, waits for pods and revisions, the status battery.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, condition, name_of, number, text, version_of};
use crate::context::{Context, POD_START};
use crate::images::AGNHOST;
use crate::kinds::REPLICA_SETS;
use crate::pods::{container, phase};

/// Name of the container of [`webserver`].
pub const WEBSERVER: &str = "webserver";
/// A minute, upstream's limit for small changes.
pub const MINUTE: Duration = Duration::from_secs(60);
/// The annotation that numbers a Deployment's roll-outs.
pub const REVISION: &str = "deployment.kubernetes.io/revision";

/// A container that serves files over HTTP on port 80.
pub fn webserver() -> Value {
    container(WEBSERVER, AGNHOST, &["test-webserver"])
}

/// A pod template that ends at once when asked to.
pub fn template(labels: &Value, container: Value) -> Value {
    json!({
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    })
}

/// A ReplicaSet.
pub fn replica_set(name: &str, replicas: i64, labels: &Value, container: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template(labels, container)},
    })
}

/// A ReplicationController; its selector is left to defaulting.
pub fn controller(name: &str, replicas: i64, labels: &Value, container: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "template": template(labels, container)},
    })
}

/// A Deployment.
pub fn deployment(name: &str, replicas: i64, labels: &Value, container: Value, strategy: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": strategy},
            "template": template(labels, container),
        },
    })
}

/// Whether nobody asked for the object's end.
pub fn alive(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_null()
}

/// The reference to the controller of an object, null when it has none.
pub fn controller_of(object: &Value) -> &Value {
    array(object, "/metadata/ownerReferences")
        .iter()
        .find(|o| o["controller"] == true)
        .unwrap_or(&Value::Null)
}

/// Waits until exactly `count` pods that are not terminating carry the label; hands them back.
pub async fn pods_created(cx: &Context, selector: &str, count: usize) -> Result<Vec<Value>> {
    let what = format!("{count} pods with {selector}");
    cx.pods()
        .wait_set(&[("labelSelector", selector)], Duration::from_secs(120), &what, |pods| {
            let pods: Vec<Value> = pods.iter().filter(|p| alive(p)).map(|p| (*p).clone()).collect();
            Ok((pods.len() == count).then_some(pods))
        })
        .await
}

/// Waits until exactly `count` pods that are not terminating carry the label and run.
pub async fn pods_running(cx: &Context, selector: &str, count: usize) -> Result<Vec<Value>> {
    let what = format!("{count} running pods with {selector}");
    cx.pods()
        .wait_set(&[("labelSelector", selector)], POD_START, &what, |pods| {
            let pods: Vec<Value> = pods.iter().filter(|p| alive(p)).map(|p| (*p).clone()).collect();
            Ok((pods.len() == count && pods.iter().all(|p| phase(p) == "Running")).then_some(pods))
        })
        .await
}

/// Waits until each pod answers its own name through the API server's proxy.
pub async fn pods_answer_names(cx: &Context, pods: &[Value]) -> Result<()> {
    for pod in pods {
        let name = name_of(pod)?;
        let path = cx.pods().path_of(&format!("{name}/proxy/"));
        let what = format!("pod {name} answers its name");
        crate::watch::poll(Duration::from_secs(120), Duration::from_secs(1), &what, || async {
            let answer = cx.rest().text(&path).await?;
            anyhow::ensure!(answer.trim() == name, "the answer is {answer:?}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// Waits until a Deployment and its new ReplicaSet carry a revision and the image.
pub async fn wait_revision(cx: &Context, name: &str, revision: &str, image: &str) -> Result<Value> {
    let deployments = cx.api(&crate::kinds::DEPLOYMENTS);
    let what = format!("revision {revision}");
    let found = deployments
        .wait(name, POD_START, &what, |d| Ok(d.is_some_and(|d| revision_of(d) == revision)))
        .await?;
    ensure_eq!(text(&found, "/spec/template/spec/containers/0/image"), image, "image of the Deployment");
    let uid = text(&found, "/metadata/uid");
    let what = format!("ReplicaSet of {name} with revision {revision} and image {image}");
    cx.api(&REPLICA_SETS)
        .wait_set(&[], MINUTE, &what, |sets| {
            let fits = |rs: &&&Value| {
                controller_of(rs)["uid"] == uid
                    && revision_of(rs) == revision
                    && text(rs, "/spec/template/spec/containers/0/image") == image
                    && !rs["metadata"]["labels"]["pod-template-hash"].is_null()
            };
            Ok(sets.iter().find(fits).map(|rs| (*rs).clone()))
        })
        .await
}

/// The revision annotation.
pub fn revision_of(object: &Value) -> &str {
    object["metadata"]["annotations"][REVISION].as_str().unwrap_or("")
}

/// Whether a Deployment is rolled out: all replicas updated and available, none left over.
pub fn complete(d: &Value) -> bool {
    let want = number(d, "/spec/replicas");
    let is = |field: &str| d["status"][field].as_i64().unwrap_or(0) == want;
    is("updatedReplicas")
        && is("replicas")
        && is("availableReplicas")
        && number(d, "/status/observedGeneration") >= number(d, "/metadata/generation")
}

/// Waits until a Deployment is rolled out.
pub async fn wait_complete(cx: &Context, name: &str) -> Result<Value> {
    let deployments = cx.api(&crate::kinds::DEPLOYMENTS);
    deployments.wait(name, POD_START, "rolled out", |d| Ok(d.is_some_and(complete))).await
}

/// Waits until the controller has seen a generation.
pub async fn wait_observed(api: &Api, object: &Value) -> Result<Value> {
    let generation = number(object, "/metadata/generation");
    let done =
        |o: Option<&Value>| Ok(o.is_some_and(|o| number(o, "/status/observedGeneration") >= generation));
    api.wait(name_of(object)?, MINUTE, "observedGeneration", done).await
}

/// The ReplicaSets that a Deployment controls.
pub async fn sets_of(cx: &Context, deployment: &Value) -> Result<Vec<Value>> {
    let uid = text(deployment, "/metadata/uid");
    let all = cx.api(&REPLICA_SETS).items(&[]).await?;
    Ok(all.into_iter().filter(|rs| controller_of(rs)["uid"] == uid).collect())
}

/// The ReplicaSet whose template has the Deployment's image.
pub async fn new_set(cx: &Context, deployment: &Value) -> Result<Value> {
    let image = text(deployment, "/spec/template/spec/containers/0/image");
    let sets = sets_of(cx, deployment).await?;
    let found = sets.into_iter().find(|rs| text(rs, "/spec/template/spec/containers/0/image") == image);
    found.with_context(|| format!("no ReplicaSet with image {image}"))
}

/// A watch from a resource version over objects with a label.
pub async fn watch_from(api: &Api, selector: &str, version: &str) -> Result<crate::watch::Watch> {
    api.watch(&[("labelSelector", selector), ("resourceVersion", version)]).await
}

/// Reads from a watch started at `version` until an event of that type (any, if empty) satisfies the condition.
pub async fn event(
    api: &Api,
    selector: &str,
    version: &str,
    limit: Duration,
    what: &str,
    fits: impl Fn(&str, &Value) -> bool + Send + Sync,
) -> Result<Value> {
    let mut watch = watch_from(api, selector, version).await?;
    Ok(watch.until(limit, what, |e| fits(&e.kind, &e.object)).await?.object)
}

/// The status subresource of a workload: read, replaced and patched, each visible to a watch that began before.
pub async fn status_battery(
    cx: &Context,
    kind: &Kind,
    name: &str,
    selector: &str,
    version: &str,
) -> Result<()> {
    let api = cx.api(kind);
    let whole = api.get(name).await?;
    let seen = api.get(&format!("{name}/status")).await.context("reading /status")?;
    ensure_eq!(seen["metadata"]["uid"], whole["metadata"]["uid"], "uid in /status");
    let added =
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test"});
    let updated = api
        .modify_at(name, "status", |o| match o["status"]["conditions"].as_array_mut() {
            Some(conditions) => conditions.push(added.clone()),
            None => o["status"]["conditions"] = json!([added.clone()]),
        })
        .await
        .context("replacing /status")?;
    ensure_eq!(condition(&updated, "StatusUpdate")["reason"], json!("E2E"), "condition in the answer");
    event(&api, selector, version, POD_START, "the updated status", |_, o| {
        let c = condition(o, "StatusUpdate");
        text(o, "/metadata/name") == name && c["reason"] == "E2E" && c["message"] == "Set from e2e test"
    })
    .await?;
    let patch =
        Patch::Merge(json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}}));
    let patched = api.patch(&format!("{name}/status"), patch).await.context("patching /status")?;
    ensure_eq!(condition(&patched, "StatusPatched")["status"], json!("True"), "condition in the answer");
    event(&api, selector, version, POD_START, "the patched status", |_, o| {
        text(o, "/metadata/name") == name && condition(o, "StatusPatched")["type"] == "StatusPatched"
    })
    .await?;
    Ok(())
}

/// The scale subresource: read, replaced, patched.
pub async fn scale_battery(cx: &Context, kind: &Kind, name: &str) -> Result<()> {
    let api = cx.api(kind);
    let path = format!("{name}/scale");
    let mut scale = api.get(&path).await.context("reading the scale")?;
    ensure_eq!(text(&scale, "/kind"), "Scale", "kind of the scale");
    ensure_eq!(text(&scale, "/apiVersion"), "autoscaling/v1", "version of the scale");
    ensure_eq!(number(&scale, "/spec/replicas"), 1, "spec.replicas of the scale");
    ensure_eq!(number(&scale, "/status/replicas"), 1, "status.replicas of the scale");
    scale["metadata"]["resourceVersion"] = Value::Null;
    scale["spec"]["replicas"] = json!(2);
    let updated = api.update_sub(name, "scale", &scale).await.context("replacing the scale")?;
    ensure_eq!(number(&updated, "/spec/replicas"), 2, "spec.replicas of the replaced scale");
    let seen = api.get(name).await?;
    ensure_eq!(number(&seen, "/spec/replicas"), 2, "spec.replicas after the scale was replaced");
    api.patch(&path, Patch::Strategic(json!({"spec": {"replicas": 4}})))
        .await
        .context("patching the scale")?;
    let seen = api.get(name).await?;
    ensure_eq!(number(&seen, "/spec/replicas"), 4, "spec.replicas after the scale was patched");
    Ok(())
}

/// The resource version of a list, from which a watch sees all that comes.
pub async fn list_version(cx: &Context, kind: &Kind, selector: &str) -> Result<String> {
    let list = cx.api_all(kind).list(&[("labelSelector", selector)]).await?;
    Ok(version_of(&list).to_string())
}
