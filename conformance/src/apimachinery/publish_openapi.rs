//! Upstream's crd_publish_openapi.go: what is published, and when it goes.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::crd::{self, Custom, anything, version};
use crate::Result;
use crate::api::{Patch, array, text};
use crate::context::Context;
use crate::kinds::CUSTOM_RESOURCES;

tests! {
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of different groups" => groups,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group but different versions" => versions,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for multiple CRDs of same group and version but different kinds" => kinds,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] updates the published spec when one version gets renamed" => renamed,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] removes definition from spec when one version gets changed to not be served" => unserved,
}

/// Upstream's schema Foo.
pub(super) fn foo() -> Value {
    let text = |about: &str| json!({"description": about, "type": "string"});
    let bar = json!({"type": "object", "required": ["name"], "properties": {
        "name": text("Name of Bar."),
        "age": text("Age of Bar."),
        "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
        "bazs": {"description": "List of Bazs.", "type": "array", "items": {"type": "string"}},
    }});
    let state = json!({"type": "object", "properties": {
        "name": text("Name of Bar."),
        "available": {"description": "Whether the Bar is installed.", "type": "boolean"},
        "quxType": {"description": "Indicates to external qux type.", "pattern": "in-tree|out-of-tree", "type": "string"},
    }});
    json!({"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Foo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their specs.", "type": "array", "items": bar},
        }},
        "status": {"description": "Status of Foo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array", "items": state},
        }},
    }})
}

/// Upstream's schema Waldo.
pub(super) fn waldo() -> Value {
    json!({"description": "Waldo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
            "dummy": {"description": "Dummy property.", "type": "object"},
        }},
        "status": {"description": "Status of Waldo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object"}},
        }},
    }})
}

/// Schemas that keep what they do not know: at the root, in a nested object.
pub(super) fn preserving(at_root: bool) -> Value {
    let mut schema = waldo();
    if at_root {
        schema["description"] = json!("preserve-unknown-properties at root for Testing");
        schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    } else {
        schema["description"] = json!("preserve-unknown-properties in nested field for Testing");
        schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
    }
    schema
}

/// The name of a kind's definition: the group backwards, the version, the kind.
fn definition(custom: &Custom, version: &str) -> String {
    let group: Vec<&str> = custom.group.split('.').rev().collect();
    format!("{}.{version}.{}", group.join("."), custom.kind)
}

/// Asks for the document with its ETag until a look at it is content.
async fn published(
    cx: &Context,
    what: &str,
    fits: impl Fn(&Value) -> std::result::Result<(), String> + Send + Sync,
) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    let (mut etag, mut why) = (String::new(), String::new());
    while tokio::time::Instant::now() < end {
        let mut headers = vec![("accept", "application/json")];
        if !etag.is_empty() {
            headers.push(("if-none-match", etag.as_str()));
        }
        let reply = cx.rest().raw(Method::GET, "/openapi/v2", &headers, Vec::new()).await?;
        if reply.code != 304 {
            let next = reply.header("etag").to_string();
            anyhow::ensure!(!next.is_empty(), "/openapi/v2 comes without an ETag");
            let document = reply.success("GET /openapi/v2")?;
            match fits(&document) {
                Ok(()) => return unchanged(cx, &next).await,
                Err(reason) => why = reason,
            }
            etag = next;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    anyhow::bail!("{what}: not in /openapi/v2 within 60 s: {why}")
}

/// The document that was just read is not sent again, unless another test has changed it.
async fn unchanged(cx: &Context, etag: &str) -> Result<()> {
    let headers = [("accept", "application/json"), ("if-none-match", etag)];
    let reply = cx.rest().raw(Method::GET, "/openapi/v2", &headers, Vec::new()).await?;
    anyhow::ensure!(
        reply.code == 304 || reply.header("etag") != etag,
        "the same document (ETag {etag}) was sent again with status {}",
        reply.code
    );
    Ok(())
}

/// What a published definition has beside its schema is dropped.
fn bare(definition: &Value) -> Value {
    let mut bare = definition.clone();
    if let Some(fields) = bare.as_object_mut() {
        fields.remove("x-kubernetes-group-version-kind");
        fields.remove("x-kubernetes-selectable-fields");
    }
    if let Some(properties) = bare["properties"].as_object_mut() {
        for field in ["apiVersion", "kind", "metadata"] {
            properties.remove(field);
        }
    }
    bare
}

/// Waits until the definition is published with the schema (any, if none is given).
pub(super) async fn wait_definition(
    cx: &Context,
    custom: &Custom,
    version: &str,
    schema: Option<Value>,
) -> Result<()> {
    let name = definition(custom, version);
    published(cx, &name, |document| {
        let found = &document["definitions"][&name];
        if found.is_null() {
            return Err("it is not there".to_string());
        }
        let gvk = array(found, "/x-kubernetes-group-version-kind");
        let named = gvk.iter().any(|g| {
            text(g, "/group") == custom.group && g["version"] == version && text(g, "/kind") == custom.kind
        });
        if !named {
            return Err(format!("its x-kubernetes-group-version-kind is {gvk:?}"));
        }
        match &schema {
            Some(schema) if bare(found) != *schema => Err(format!("it is {}, want {schema}", bare(found))),
            _ => Ok(()),
        }
    })
    .await
}

/// Waits until the definition is gone.
async fn wait_no_definition(cx: &Context, custom: &Custom, version: &str) -> Result<()> {
    let name = definition(custom, version);
    published(cx, &format!("the end of {name}"), |document| {
        if document["definitions"][&name].is_null() { Ok(()) } else { Err("it is still there".to_string()) }
    })
    .await
}

/// Defines a kind with one schema at these versions, the first one stored.
pub(super) async fn setup(
    cx: &Context,
    group: &str,
    schema: Option<Value>,
    versions: &[&str],
) -> Result<Custom> {
    let schema = schema.unwrap_or_else(anything);
    let versions: Vec<Value> =
        versions.iter().enumerate().map(|(i, v)| version(v, i == 0, schema.clone())).collect();
    crd::defined(cx, group, true, json!(versions)).await
}

/// A group for several kinds of this test.
pub(super) fn group(cx: &Context, name: &str) -> String {
    format!("{}.example.com", cx.unique(&format!("crd-publish-openapi-test-{name}")))
}

/// Deletes a definition; what it published goes.
pub(super) async fn cleanup(cx: &Context, custom: &Custom, version: &str) -> Result<()> {
    cx.api(&CUSTOM_RESOURCES).delete(&custom.name).await?;
    wait_no_definition(cx, custom, version).await
}

async fn groups(cx: Context) -> Result<()> {
    let first = setup(&cx, &group(&cx, "foo"), Some(foo()), &["v1"]).await?;
    let second = setup(&cx, &group(&cx, "waldo"), Some(waldo()), &["v1beta1"]).await?;
    wait_definition(&cx, &second, "v1beta1", Some(waldo())).await?;
    wait_definition(&cx, &first, "v1", Some(foo())).await?;
    cleanup(&cx, &first, "v1").await?;
    cleanup(&cx, &second, "v1beta1").await
}

async fn versions(cx: Context) -> Result<()> {
    let both = setup(&cx, &group(&cx, "multi-ver"), Some(foo()), &["v2", "v3"]).await?;
    wait_definition(&cx, &both, "v3", Some(foo())).await?;
    wait_definition(&cx, &both, "v2", Some(foo())).await?;
    cleanup(&cx, &both, "v2").await?;
    let common = group(&cx, "common-group");
    let first = setup(&cx, &common, Some(foo()), &["v4"]).await?;
    let second = setup(&cx, &common, Some(waldo()), &["v5"]).await?;
    wait_definition(&cx, &second, "v5", Some(waldo())).await?;
    wait_definition(&cx, &first, "v4", Some(foo())).await?;
    cleanup(&cx, &first, "v4").await?;
    cleanup(&cx, &second, "v5").await
}

async fn kinds(cx: Context) -> Result<()> {
    let common = group(&cx, "common-group");
    let first = setup(&cx, &common, Some(foo()), &["v6"]).await?;
    let second = setup(&cx, &common, Some(waldo()), &["v6"]).await?;
    wait_definition(&cx, &second, "v6", Some(waldo())).await?;
    wait_definition(&cx, &first, "v6", Some(foo())).await?;
    cleanup(&cx, &first, "v6").await?;
    cleanup(&cx, &second, "v6").await
}

async fn renamed(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "multi-ver"), Some(foo()), &["v2", "v3"]).await?;
    wait_definition(&cx, &custom, "v3", Some(foo())).await?;
    wait_definition(&cx, &custom, "v2", Some(foo())).await?;
    let patch = json!([{"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
                       {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]);
    cx.api(&CUSTOM_RESOURCES).patch(&custom.name, Patch::Json(patch)).await?;
    wait_definition(&cx, &custom, "v4", Some(foo())).await?;
    wait_no_definition(&cx, &custom, "v3").await?;
    wait_definition(&cx, &custom, "v2", Some(foo())).await?;
    cleanup(&cx, &custom, "v2").await
}

async fn unserved(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "multi-to-single-ver"), Some(foo()), &["v5", "v6alpha1"]).await?;
    wait_definition(&cx, &custom, "v6alpha1", Some(foo())).await?;
    wait_definition(&cx, &custom, "v5", Some(foo())).await?;
    cx.api(&CUSTOM_RESOURCES)
        .modify(&custom.name, |d| d["spec"]["versions"][1]["served"] = json!(false))
        .await?;
    wait_no_definition(&cx, &custom, "v6alpha1").await?;
    wait_definition(&cx, &custom, "v5", Some(foo())).await?;
    cleanup(&cx, &custom, "v5").await
}
