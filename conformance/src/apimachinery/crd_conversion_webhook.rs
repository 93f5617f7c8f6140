//! Upstream's crd_conversion_webhook.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::crd::{self, Custom};
use super::serving::{self, Server};
use crate::Result;
use crate::api::{Patch, array, text};
use crate::context::Context;
use crate::kinds::CUSTOM_RESOURCES;

tests! {
    "[sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert from CR v1 to CR v2" => one,
    "[sig-api-machinery] CustomResourceConversionWebhook [Privileged:ClusterAdmin] should be able to convert a non homogeneous list of CRs" => mixed_list,
}

/// v1 has `hostPort`, v2 `host` and `port`.
pub(super) fn versions(selectable: bool) -> Value {
    let text = json!({"type": "string"});
    let mut v1 = crd::version("v1", true, json!({"type": "object", "properties": {"hostPort": text}}));
    let mut v2 =
        crd::version("v2", false, json!({"type": "object", "properties": {"host": text, "port": text}}));
    if selectable {
        v1["selectableFields"] = json!([{"jsonPath": ".hostPort"}]);
        v2["selectableFields"] = json!([{"jsonPath": ".host"}, {"jsonPath": ".port"}]);
    }
    json!([v1, v2])
}

/// A definition whose versions the webhook converts.
pub(super) async fn converted(cx: &Context, server: &Server, selectable: bool) -> Result<Custom> {
    let (custom, mut body) = crd::document(cx, "stable.example.com", true, versions(selectable));
    body["spec"]["conversion"] = json!({
        "strategy": "Webhook",
        "webhook": {"clientConfig": server.client("/crdconvert"), "conversionReviewVersions": ["v1", "v1beta1"]},
    });
    cx.create(&CUSTOM_RESOURCES, &body).await?;
    crd::established(cx, &custom).await?;
    ready(cx, &custom).await?;
    Ok(custom)
}

/// Waits until an object of v1 can be read as v2.
async fn ready(cx: &Context, custom: &Custom) -> Result<()> {
    let (v1, v2) = (custom.api(cx, "v1"), custom.api(cx, "v2"));
    let limit = Duration::from_secs(60);
    crate::watch::poll(limit, Duration::from_millis(500), "the conversion webhook is asked", || async {
        let name = cx.unique("f");
        v1.create(&json!({"metadata": {"name": name}, "hostPort": "localhost:8080"})).await?;
        let read = v2.get(&name).await;
        v1.delete(&name).await?;
        read.map(Some)
    })
    .await
    .map(|_| ())
}

fn is_v1(object: &Value) -> Result<()> {
    ensure_eq!(text(object, "/apiVersion"), "stable.example.com/v1", "apiVersion");
    ensure_eq!(text(object, "/hostPort"), "localhost:8080", "hostPort of {object}");
    anyhow::ensure!(object["host"].is_null() && object["port"].is_null(), "v1 has fields of v2: {object}");
    Ok(())
}

fn is_v2(object: &Value) -> Result<()> {
    ensure_eq!(text(object, "/apiVersion"), "stable.example.com/v2", "apiVersion");
    ensure_eq!(
        (text(object, "/host"), text(object, "/port")),
        ("localhost", "8080"),
        "host and port of {object}"
    );
    anyhow::ensure!(object["hostPort"].is_null(), "v2 has a field of v1: {object}");
    Ok(())
}

async fn one(cx: Context) -> Result<()> {
    let server = serving::conversion(&cx).await?;
    let custom = converted(&cx, &server, false).await?;
    let made = json!({"metadata": {"name": "cr-instance-1"}, "hostPort": "localhost:8080"});
    is_v1(&custom.api(&cx, "v1").create(&made).await?)?;
    is_v2(&custom.api(&cx, "v2").get("cr-instance-1").await?)
}

async fn mixed_list(cx: Context) -> Result<()> {
    let server = serving::conversion(&cx).await?;
    let custom = converted(&cx, &server, false).await?;
    let (v1, v2) = (custom.api(&cx, "v1"), custom.api(&cx, "v2"));
    let made = |name: &str| json!({"metadata": {"name": name}, "hostPort": "localhost:8080"});
    v1.create(&made("cr-instance-1")).await?;
    let stores = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    cx.api(&CUSTOM_RESOURCES).patch(&custom.name, Patch::Json(stores)).await?;
    crd::established(&cx, &custom).await?;
    v1.create(&made("cr-instance-2")).await?;
    for (api, check) in [(&v1, is_v1 as fn(&Value) -> Result<()>), (&v2, is_v2)] {
        let list = api.list(&[]).await?;
        ensure_eq!(array(&list, "/items").len(), 2, "items at {}", api.path());
        array(&list, "/items").iter().try_for_each(check)?;
    }
    Ok(())
}
