//! Upstream's custom_resource_definition.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::battery::discovered;
use super::crd::{self, Custom, anything, version};
use crate::Result;
use crate::api::{Patch, array, condition, text};
use crate::context::{Context, random};
use crate::kinds::CUSTOM_RESOURCES;

tests! {
    "[sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition creating/deleting custom resource definition objects works" => create_and_delete,
    "[sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition listing custom resource definition objects works" => listing,
    "[sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works" => status,
    "[sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] should include custom resource definition resources in discovery documents" => discovery,
    "[sig-api-machinery] CustomResourceDefinition resources [Privileged:ClusterAdmin] custom resource defaulting for requests and from storage works" => defaulting,
}

async fn create_and_delete(cx: Context) -> Result<()> {
    let custom = crd::defined(&cx, &crd::group(&cx), true, json!([version("v1", true, anything())])).await?;
    let definitions = cx.api(&CUSTOM_RESOURCES);
    definitions.delete(&custom.name).await?;
    definitions.wait_gone(&custom.name, Duration::from_secs(60)).await
}

async fn listing(cx: Context) -> Result<()> {
    let mark = random(8);
    let group = crd::group(&cx);
    let definitions = cx.api(&CUSTOM_RESOURCES);
    for _ in 0..10 {
        let (custom, mut body) = crd::document(&cx, &group, true, json!([version("v1", true, anything())]));
        body["metadata"]["labels"] = json!({"e2e-list-test-uuid": mark});
        crd::define(&cx, &custom, &body).await?;
    }
    let selector = format!("e2e-list-test-uuid={mark}");
    ensure_eq!(definitions.labelled(&selector).await?.len(), 10, "definitions with {selector}");
    definitions.delete_collection(&[("labelSelector", &selector)]).await?;
    let none = |all: &[&Value]| Ok(all.is_empty().then_some(()));
    let limit = Duration::from_secs(60);
    definitions.wait_set(&[("labelSelector", &selector)], limit, "no definition is left", none).await
}

async fn status(cx: Context) -> Result<()> {
    let custom = crd::defined(&cx, &crd::group(&cx), true, json!([version("v1", true, anything())])).await?;
    let definitions = cx.api(&CUSTOM_RESOURCES);
    let path = format!("{}/status", custom.name);
    let whole = definitions.get(&custom.name).await?;
    let seen = definitions.get(&path).await?;
    ensure_eq!(seen["spec"], whole["spec"], "spec in /status");
    let one = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set by an e2e test"});
    let added = one("StatusUpdate");
    let updated = definitions
        .modify_at(&custom.name, "status", |d| {
            if let Some(all) = d["status"]["conditions"].as_array_mut() {
                all.push(added.clone());
            }
        })
        .await?;
    ensure_eq!(text(condition(&updated, "StatusUpdate"), "/reason"), "E2E", "condition of the update");
    let mut all = array(&updated, "/status/conditions").to_vec();
    all.push(one("StatusPatch"));
    let patched = definitions.patch(&path, Patch::Merge(json!({"status": {"conditions": all}}))).await?;
    for kind in ["StatusUpdate", "StatusPatch"] {
        ensure_eq!(text(condition(&patched, kind), "/reason"), "E2E", "condition {kind} after the patch");
    }
    Ok(())
}

async fn discovery(cx: Context) -> Result<()> {
    discovered(&cx, &CUSTOM_RESOURCES, &["customresourcedefinitions"]).await
}

/// The schema with these defaults.
fn defaults(a: Option<&str>, b: Option<&str>, c: Option<&str>) -> Value {
    let property = |default: Option<&str>| match default {
        Some(default) => json!({"type": "string", "default": default}),
        None => json!({"type": "string"}),
    };
    json!({"type": "object", "properties": {"a": property(a), "b": property(b), "c": property(c)}})
}

async fn set_schema(cx: &Context, custom: &Custom, schema: Value) -> Result<()> {
    let op = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema}]);
    cx.api(&CUSTOM_RESOURCES).patch(&custom.name, Patch::Json(op)).await.map(|_| ())
}

/// Waits until the object reads with that field.
async fn reads(cx: &Context, custom: &Custom, name: &str, field: &str, want: &str) -> Result<Value> {
    let api = custom.api(cx, "v1");
    let what = format!("{field} of {name} reads {want:?}");
    crate::watch::poll(Duration::from_secs(30), Duration::from_millis(300), &what, || async {
        let seen = api.get(name).await?;
        Ok((seen[field] == want).then_some(seen))
    })
    .await
}

async fn defaulting(cx: Context) -> Result<()> {
    let custom =
        crd::defined(&cx, &crd::group(&cx), true, json!([version("v1", true, defaults(None, None, None))]))
            .await?;
    let api = custom.api(&cx, "v1");
    let (one, two) = ("cr-1", "cr-2");
    let made = api.create(&json!({"metadata": {"name": one}})).await?;
    anyhow::ensure!(made["a"].is_null(), "a has a value without a default: {made}");
    // What is in the storage reads with the defaults of today.
    set_schema(&cx, &custom, defaults(Some("A"), None, None)).await?;
    reads(&cx, &custom, one, "a", "A").await?;
    set_schema(&cx, &custom, defaults(Some("A"), Some("B"), None)).await?;
    let seen = reads(&cx, &custom, one, "b", "B").await?;
    ensure_eq!(text(&seen, "/a"), "A", "a beside the default of b");
    // A request stores them.
    let made = api.create(&json!({"metadata": {"name": two}})).await?;
    ensure_eq!((text(&made, "/a"), text(&made, "/b")), ("A", "B"), "a and b of a new object");
    set_schema(&cx, &custom, defaults(None, Some("B"), Some("C"))).await?;
    let seen = reads(&cx, &custom, one, "c", "C").await?;
    anyhow::ensure!(
        seen["a"].is_null(),
        "a reads {:?} although its default is gone and it was never stored",
        seen["a"]
    );
    ensure_eq!(text(&seen, "/b"), "B", "b beside the default of c");
    let seen = reads(&cx, &custom, two, "c", "C").await?;
    ensure_eq!((text(&seen, "/a"), text(&seen, "/b")), ("A", "B"), "stored a and b");
    Ok(())
}
