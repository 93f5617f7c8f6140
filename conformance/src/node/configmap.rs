//! Upstream: `test/e2e/common/node/configmap.go`; the twin for Secrets shares its steps.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::kinds::CONFIG_MAPS;
use crate::pods::{command, pod};
use crate::rest::refused;

tests! {
    "[sig-node] ConfigMap should be consumable via environment variable" => |c| variable(c, false),
    "[sig-node] ConfigMap should be consumable via the environment" => |c| environment(c, false),
    "[sig-node] ConfigMap should be consumable as environment variable names with various prefixes" => |c| prefixes(c, false),
    "[sig-node] ConfigMap should fail to create ConfigMap with empty key" => empty_key,
    "[sig-node] ConfigMap should update ConfigMap successfully" => update,
    "[sig-node] ConfigMap should run through a ConfigMap lifecycle" => lifecycle,
}

async fn source(c: &Context, secret: bool) -> Result<String> {
    use crate::storage::{Flavour, flavoured};
    let flavour = if secret { Flavour::Secret } else { Flavour::ConfigMap };
    let name = c.unique("env-source");
    let data = [("data-1", "value-1"), ("data-2", "value-2"), ("data-3", "value-3")];
    c.create(flavour.kind(), &flavoured(flavour, &name, &data)).await?;
    Ok(name)
}

/// The environment as the container gets it: no shell in between, as some drop names that are no identifiers.
fn env_pod(c: &Context, fields: Value) -> Value {
    let mut container = command("env-test", BUSYBOX, &["env"]);
    if let (Some(to), Some(from)) = (container.as_object_mut(), fields.as_object()) {
        to.extend(from.clone());
    }
    pod(&c.unique("pod-env"), json!([container]))
}

/// One key as one variable.
pub async fn variable(c: Context, secret: bool) -> Result<()> {
    let name = source(&c, secret).await?;
    let from = if secret { "secretKeyRef" } else { "configMapKeyRef" };
    let env = json!([{"name": "SOURCE_DATA_1", "valueFrom": {from: {"name": name, "key": "data-1"}}}]);
    c.output_has(&env_pod(&c, json!({"env": env})), "env-test", &["SOURCE_DATA_1=value-1\n"]).await
}

async fn all_keys(c: Context, secret: bool, prefixes: &[&str]) -> Result<()> {
    let name = source(&c, secret).await?;
    let from = if secret { "secretRef" } else { "configMapRef" };
    let sources: Vec<Value> = prefixes.iter().map(|p| json!({"prefix": p, from: {"name": name}})).collect();
    let logs = c.output(&env_pod(&c, json!({"envFrom": sources})), "env-test").await?;
    for prefix in prefixes {
        for n in 1..4 {
            let line = format!("{prefix}data-{n}=value-{n}");
            anyhow::ensure!(logs.lines().any(|l| l == line), "the environment lacks {line:?}: {logs:?}");
        }
    }
    Ok(())
}

/// All keys as variables, with and without a prefix.
pub async fn environment(c: Context, secret: bool) -> Result<()> {
    all_keys(c, secret, &["", "p-"]).await
}

/// Prefixes that no C identifier could begin with.
pub async fn prefixes(c: Context, secret: bool) -> Result<()> {
    all_keys(c, secret, &["", "p-", "p.", "1-", "$_-"]).await
}

async fn empty_key(c: Context) -> Result<()> {
    let map = json!({"metadata": {"name": c.unique("configmap-test-emptykey")}, "data": {"": "value-1"}});
    refused(c.api(&CONFIG_MAPS).create(&map).await, 422, "a ConfigMap with an empty key").map(|_| ())
}

async fn update(c: Context) -> Result<()> {
    let (api, name) = (c.api(&CONFIG_MAPS), c.unique("configmap-test"));
    let mut map = json!({"metadata": {"name": name}, "data": {"data-1": "value-1"}});
    api.create(&map).await?;
    map["data"] = json!({"data": "value"});
    api.update(&map).await?;
    ensure_eq!(api.get(&name).await?["data"], map["data"], "data after the update");
    Ok(())
}

async fn lifecycle(c: Context) -> Result<()> {
    let (api, name) = (c.api(&CONFIG_MAPS), c.unique("test-configmap"));
    let labels = json!({"test-configmap-static": "true"});
    api.create(&json!({"metadata": {"name": name, "labels": labels}, "data": {"valueName": "value"}}))
        .await?;
    let seen = api.get(&name).await?;
    ensure_eq!(text(&seen, "/data/valueName"), "value", "data of the new object");
    ensure_eq!(seen["metadata"]["labels"], labels, "labels of the new object");
    let patch =
        json!({"metadata": {"labels": {"test-configmap": "patched"}}, "data": {"valueName": "value1"}});
    api.patch(&name, Patch::Strategic(patch)).await?;
    let listed = c.api_all(&CONFIG_MAPS).labelled("test-configmap=patched").await?;
    let found = listed.iter().any(|m| {
        text(m, "/metadata/name") == name
            && text(m, "/metadata/namespace") == c.namespace()
            && text(m, "/metadata/labels/test-configmap-static") == "true"
            && text(m, "/data/valueName") == "value1"
    });
    anyhow::ensure!(found, "the patched object is not among those listed over all namespaces: {listed:?}");
    let query = [("labelSelector", "test-configmap-static=true")];
    api.delete_collection(&query).await?;
    let limit = Duration::from_secs(30);
    api.wait_set(&query, limit, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await
}
