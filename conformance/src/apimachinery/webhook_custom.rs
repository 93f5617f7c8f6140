//! Upstream's webhook.go: custom resources.

use serde_json::{Value, json};

use super::crd::{self, Custom, anything, version};
use super::hooks::{Hooks, denied, rules, unwanted};
use crate::Result;
use crate::api::Patch;
use crate::context::Context;
use crate::kinds::CUSTOM_RESOURCES;

tests! {
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny custom resource creation, update and deletion" => denies,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource" => mutates,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with different stored version" => stored_version,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate custom resource with pruning" => prunes,
}

async fn define(hooks: &Hooks, versions: Value) -> Result<Custom> {
    crd::defined(&hooks.cx, &crd::group(&hooks.cx), true, versions).await
}

fn object(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

async fn denies(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let custom = define(&hooks, json!([version("v1", true, anything())])).await?;
    let rules = rules(&["CREATE", "UPDATE", "DELETE"], &custom.group, "v1", &custom.plural);
    let hook = hooks.hook("deny-unwanted-custom-resource-data.k8s.io", "/custom-resource", rules);
    hooks.validating(vec![hook]).await?;
    let api = custom.api(&hooks.cx, "v1");
    let message = "the custom resource contains unwanted data";
    denied(
        api.create(&object("cr-instance-1", unwanted())).await,
        "a custom resource that is not wanted",
        &[message],
    )?;
    let kept = json!({"webhook-e2e-test": "webhook-nondeletable"});
    let made = api.create(&object("cr-instance-2", kept)).await?;
    let mut update = made.clone();
    update["data"] = unwanted();
    denied(api.update(&update).await, "an update that is not wanted", &[message])?;
    let message = "the custom resource cannot be deleted because it contains unwanted key and value";
    denied(api.delete("cr-instance-2").await, "a deletion that is not wanted", &[message])?;
    api.modify("cr-instance-2", |o| o["data"]["webhook-e2e-test"] = json!("webhook-deletable")).await?;
    api.delete("cr-instance-2").await.map(|_| ())
}

/// Two mutating webhooks for all versions of the kind.
async fn stages(hooks: &Hooks, custom: &Custom) -> Result<()> {
    let rules = rules(&["CREATE", "UPDATE"], &custom.group, "*", &custom.plural);
    let hook = |stage: u8| {
        let name = format!("mutate-custom-resource-data-stage-{stage}.k8s.io");
        hooks.hook(&name, "/mutating-custom-resource", rules.clone())
    };
    hooks.mutating(vec![hook(1), hook(2)]).await.map(|_| ())
}

fn mutated() -> Value {
    json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"})
}

async fn mutates(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let custom = define(&hooks, json!([version("v1", true, anything())])).await?;
    stages(&hooks, &custom).await?;
    let made = custom
        .api(&hooks.cx, "v1")
        .create(&object("cr-instance-1", json!({"mutation-start": "yes"})))
        .await?;
    ensure_eq!(made["data"], mutated(), "data of the mutated custom resource");
    Ok(())
}

async fn stored_version(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let versions = json!([version("v1", true, anything()), version("v2", false, anything())]);
    let custom = define(&hooks, versions).await?;
    stages(&hooks, &custom).await?;
    let v1 = custom.api(&hooks.cx, "v1");
    let made = v1.create(&object("cr-instance-1", json!({"mutation-start": "yes"}))).await?;
    ensure_eq!(made["data"], mutated(), "data of the mutated custom resource");
    let stores = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    hooks.cx.api(&CUSTOM_RESOURCES).patch(&custom.name, Patch::Json(stores)).await?;
    crd::established(&hooks.cx, &custom).await?;
    // The stored object is of v1, what is written of v2, the request of v1.
    let patch = Patch::Merge(json!({"dummy": "test"}));
    let patched = v1.patch("cr-instance-1", patch).await?;
    ensure_eq!(patched["dummy"], json!("test"), "the patched field");
    ensure_eq!(patched["data"], mutated(), "data of the patched custom resource");
    let seen = custom.api(&hooks.cx, "v2").get("cr-instance-1").await?;
    ensure_eq!(seen["dummy"], json!("test"), "the patched field at v2");
    Ok(())
}

async fn prunes(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let text = json!({"type": "string"});
    let data = json!({"type": "object", "properties": {"mutation-start": text, "mutation-stage-1": text}});
    let schema = json!({"type": "object", "properties": {"data": data}});
    let custom = define(&hooks, json!([version("v1", true, schema)])).await?;
    stages(&hooks, &custom).await?;
    let made = custom
        .api(&hooks.cx, "v1")
        .create(&object("cr-instance-1", json!({"mutation-start": "yes"})))
        .await?;
    let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes"});
    ensure_eq!(made["data"], wanted, "data of the mutated custom resource without what its schema lacks");
    Ok(())
}
