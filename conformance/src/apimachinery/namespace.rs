//! Upstream's namespace.go.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Kind, Patch, array, condition, text};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::{NAMESPACES, PODS, SERVICE_ACCOUNTS, SERVICES};

tests! {
    "[sig-api-machinery] Namespaces should ensure that all pods are removed when a namespace is deleted [Serial]" => removes_pods,
    "[sig-api-machinery] Namespaces should ensure that all services are removed when a namespace is deleted [Serial]" => removes_services,
    "[sig-api-machinery] Namespaces should patch a Namespace [Serial]" => patches,
    "[sig-api-machinery] Namespaces should apply changes to a namespace status [Serial]" => status,
    "[sig-api-machinery] Namespaces should apply an update to a Namespace [Serial]" => updates,
    "[sig-api-machinery] Namespaces should apply a finalizer to a Namespace [Serial]" => finalizer,
}

/// Upstream's limit for the end of a namespace.
pub(super) const LIMIT: Duration = Duration::from_secs(270);

/// Deletes the namespace, makes it anew, and looks for what was in it.
async fn emptied(cx: &Context, name: &str, kind: &Kind) -> Result<()> {
    let namespaces = cx.api(&NAMESPACES);
    namespaces.delete(name).await?;
    namespaces.wait_gone(name, LIMIT).await?;
    cx.create(&NAMESPACES, &json!({"metadata": {"name": name}})).await?;
    let left = cx.api_in(kind, name).items(&[]).await?;
    ensure_eq!(left.len(), 0, "{} in the namespace made anew", kind.plural);
    Ok(())
}

async fn removes_pods(cx: Context) -> Result<()> {
    let name = cx.new_namespace("nsdeletetest").await?;
    let made = json!({
        "metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "nginx", "image": PAUSE}]},
    });
    let pods = cx.api_in(&PODS, &name);
    let created = pods.create(&made).await?;
    ensure_eq!(text(&created, "/metadata/namespace"), name, "namespace of the pod");
    pods.wait_running("test-pod").await?;
    emptied(&cx, &name, &PODS).await
}

async fn removes_services(cx: Context) -> Result<()> {
    let name = cx.new_namespace("nsdeletetest").await?;
    let accounts = cx.api_in(&SERVICE_ACCOUNTS, &name);
    accounts.wait("default", LIMIT, "default service account", |o| Ok(o.is_some())).await?;
    let made = json!({
        "metadata": {"name": "test-service"},
        "spec": {"selector": {"foo": "bar", "baz": "blah"}, "ports": [{"port": 80, "targetPort": 80}]},
    });
    cx.api_in(&SERVICES, &name).create(&made).await?;
    emptied(&cx, &name, &SERVICES).await
}

async fn patches(cx: Context) -> Result<()> {
    let name = cx.new_namespace("nspatchtest").await?;
    let namespaces = cx.api(&NAMESPACES);
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    namespaces.patch(&name, Patch::Strategic(patch)).await?;
    let seen = namespaces.get(&name).await?;
    ensure_eq!(seen["metadata"]["labels"]["testLabel"], json!("testValue"), "label of the namespace");
    Ok(())
}

async fn updates(cx: Context) -> Result<()> {
    let namespaces = cx.api(&NAMESPACES);
    let name = cx.namespace();
    let updated = namespaces.modify(name, |n| n["metadata"]["labels"][name] = json!("updated")).await?;
    ensure_eq!(updated["metadata"]["labels"][name], json!("updated"), "label of the answer");
    let seen = namespaces.get(name).await?;
    ensure_eq!(seen["metadata"]["labels"][name], json!("updated"), "label of the namespace");
    Ok(())
}

async fn status(cx: Context) -> Result<()> {
    let namespaces = cx.api(&NAMESPACES);
    let name = cx.namespace();
    let path = format!("{name}/status");
    let seen = namespaces.get(&path).await?;
    ensure_eq!(text(&seen, "/status/phase"), "Active", "phase in /status");
    let one = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Updated by an e2e test"});
    let patch = json!({
        "metadata": {"annotations": {"e2e-patched-ns-status": name}},
        "status": {"conditions": [one("StatusPatch")]},
    });
    let patched = namespaces.patch(&path, Patch::Merge(patch)).await?;
    ensure_eq!(text(condition(&patched, "StatusPatch"), "/reason"), "E2E", "condition of the patch");
    ensure_eq!(
        patched["metadata"]["annotations"]["e2e-patched-ns-status"],
        json!(name),
        "annotation of the patch"
    );
    let added = one("StatusUpdate");
    let updated = namespaces
        .modify_at(name, "status", |n| {
            if let Some(all) = n["status"]["conditions"].as_array_mut() {
                all.push(added.clone());
            }
        })
        .await?;
    ensure_eq!(array(&updated, "/status/conditions").len(), 2, "conditions after the update");
    ensure_eq!(text(condition(&updated, "StatusUpdate"), "/status"), "True", "condition of the update");
    Ok(())
}

async fn finalizer(cx: Context) -> Result<()> {
    let fake = "e2e.example.com/fakeFinalizer";
    let name = cx.new_namespace("e2e-ns").await?;
    let namespaces = cx.api(&NAMESPACES);
    let has = |n: &Value| array(n, "/spec/finalizers").iter().any(|f| f == fake);
    let added = namespaces
        .modify_at(&name, "finalize", |n| match n["spec"]["finalizers"].as_array_mut() {
            Some(all) => all.push(json!(fake)),
            None => n["spec"]["finalizers"] = json!([fake]),
        })
        .await?;
    anyhow::ensure!(has(&added), "the finalizer is not in the answer: {}", added["spec"]);
    anyhow::ensure!(has(&namespaces.get(&name).await?), "the finalizer is not kept");
    let removed = namespaces
        .modify_at(&name, "finalize", |n| {
            if let Some(all) = n["spec"]["finalizers"].as_array_mut() {
                all.retain(|f| f != fake);
            }
        })
        .await?;
    anyhow::ensure!(!has(&removed), "the finalizer is still in the answer: {}", removed["spec"]);
    Ok(())
}
