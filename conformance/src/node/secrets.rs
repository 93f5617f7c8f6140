//! Upstream: `test/e2e/common/node/secrets.go`.

use std::time::Duration;

use serde_json::json;

use super::configmap::{environment, prefixes, variable};
use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::kinds::SECRETS;
use crate::rest::refused;

tests! {
    "[sig-node] Secrets should be consumable from pods in env vars" => |c| variable(c, true),
    "[sig-node] Secrets should be consumable via the environment" => |c| environment(c, true),
    "[sig-node] Secrets should be consumable as environment variable names variable names with various prefixes" => |c| prefixes(c, true),
    "[sig-node] Secrets should fail to create secret due to empty secret key" => empty_key,
    "[sig-node] Secrets should patch a secret" => patch,
}

async fn empty_key(c: Context) -> Result<()> {
    let secret =
        json!({"metadata": {"name": c.unique("secret-emptykey-test")}, "data": {"": "dmFsdWUtMQo="}});
    refused(c.api(&SECRETS).create(&secret).await, 422, "a Secret with an empty key").map(|_| ())
}

async fn patch(c: Context) -> Result<()> {
    let (api, name) = (c.api(&SECRETS), c.unique("test-secret"));
    let labels = json!({"testsecret-constant": "true"});
    api.create(
        &json!({"metadata": {"name": name, "labels": labels}, "data": {"key": "dmFsdWU="}, "type": "Opaque"}),
    )
    .await?;
    let all = c.api_all(&SECRETS);
    let of_test = |s: &serde_json::Value| {
        text(s, "/metadata/name") == name && text(s, "/metadata/namespace") == c.namespace()
    };
    let listed = all.labelled("testsecret-constant=true").await?;
    anyhow::ensure!(listed.iter().any(of_test), "the Secret is not listed over all namespaces");
    let change = json!({"metadata": {"labels": {"testsecret": "true"}}, "data": {"key": "dmFsdWUx"}});
    api.patch(&name, Patch::Strategic(change)).await?;
    let seen = api.get(&name).await?;
    ensure_eq!(text(&seen, "/data/key"), "dmFsdWUx", "data after the patch");
    ensure_eq!(text(&seen, "/metadata/labels/testsecret"), "true", "label after the patch");
    let query = [("labelSelector", "testsecret=true")];
    api.delete_collection(&query).await?;
    let limit = Duration::from_secs(30);
    api.wait_set(&query, limit, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await?;
    let listed = all.labelled("testsecret-constant=true").await?;
    anyhow::ensure!(!listed.iter().any(of_test), "the Secret is still listed over all namespaces");
    Ok(())
}
