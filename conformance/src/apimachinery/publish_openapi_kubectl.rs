//! Upstream's crd_publish_openapi.go: what kubectl makes of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::crd::Custom;
use super::publish_openapi::{cleanup, foo, group, preserving, setup, wait_definition};
use crate::Result;
use crate::cli::kubectl::{kubectl, kubectl_with, run_with};
use crate::context::Context;

tests! {
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD with validation schema" => with_schema,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD without validation schema" => without_schema,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields at the schema root" => at_root,
    "[sig-api-machinery] CustomResourcePublishOpenAPI [Privileged:ClusterAdmin] works for CRD preserving unknown fields in an embedded object" => embedded,
}

fn object(custom: &Custom, name: &str, rest: Value) -> String {
    let mut body = rest;
    body["kind"] = json!(custom.kind);
    body["apiVersion"] = json!(format!("{}/v1", custom.group));
    body["metadata"] = json!({"name": name});
    body.to_string()
}

/// Created and applied, and deleted each time.
async fn accepted(cx: &Context, custom: &Custom, name: &str, body: &str) -> Result<()> {
    for verb in ["create", "apply"] {
        kubectl_with(cx, &[verb, "-f", "-"], body).await?;
        kubectl(cx, &["delete", &custom.plural, name]).await?;
    }
    Ok(())
}

/// Refused with one of these texts.
async fn refused(cx: &Context, verb: &str, body: &str, texts: &[&str]) -> Result<()> {
    let ran = run_with(cx, &[verb, "-f", "-"], body).await?;
    anyhow::ensure!(ran.code != 0, "kubectl {verb} took {body}");
    anyhow::ensure!(
        texts.iter().any(|t| ran.err.contains(t)),
        "kubectl {verb} says {:?}, want one of {texts:?}",
        ran.err
    );
    Ok(())
}

/// What kubectl explains, once discovery has the kind.
async fn explains(cx: &Context, what: &str, wanted: &str) -> Result<()> {
    let form = regex::Regex::new(wanted)?;
    let limit = Duration::from_secs(60);
    crate::watch::poll(limit, Duration::from_secs(1), &format!("kubectl explain {what}"), || async {
        let out = kubectl(cx, &["explain", what]).await?;
        anyhow::ensure!(form.is_match(&out), "it says {out:?}, want {wanted}");
        Ok(Some(()))
    })
    .await
}

async fn with_schema(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "foo"), Some(foo()), &["v1"]).await?;
    wait_definition(&cx, &custom, "v1", Some(foo())).await?;
    let bars = |bar: Value| object(&custom, "test-foo", json!({"spec": {"bars": [bar]}}));
    accepted(&cx, &custom, "test-foo", &bars(json!({"name": "test-bar"}))).await?;
    let unsupported = bars(json!({"name": "test-bar", "feeling": "NonExistentValue"}));
    refused(&cx, "create", &unsupported, &[r#"Unsupported value: "NonExistentValue""#]).await?;
    let unknown = object(&custom, "test-foo", json!({"spec": {"foo": true}}));
    let incomplete = bars(json!({"age": "10"}));
    for verb in ["create", "apply"] {
        refused(&cx, verb, &unknown, &[r#"unknown field "foo""#, r#"unknown field "spec.foo""#]).await?;
        let required = [r#"missing required field "name""#, "spec.bars[0].name: Required value"];
        refused(&cx, verb, &incomplete, &required).await?;
    }
    let plural = &custom.plural;
    explains(&cx, plural, r"(?s)DESCRIPTION:.*Foo CRD for Testing.*FIELDS:.*apiVersion.*<string>.*APIVersion defines.*spec.*<Object>.*Specification of Foo").await?;
    explains(&cx, &format!("{plural}.metadata"), r"(?s)DESCRIPTION:.*Standard object's metadata.*FIELDS:.*creationTimestamp.*<string>.*CreationTimestamp is a timestamp").await?;
    explains(
        &cx,
        &format!("{plural}.spec"),
        r"(?s)DESCRIPTION:.*Specification of Foo.*FIELDS:.*bars.*<\[\]Object>.*List of Bars and their specs",
    )
    .await?;
    explains(&cx, &format!("{plural}.spec.bars"), r"(?s)(FIELD|RESOURCE):.*bars.*<\[\]Object>.*DESCRIPTION:.*List of Bars and their specs.*FIELDS:.*bazs.*<\[\]string>.*List of Bazs.*name.*<string>.*Name of Bar").await?;
    let ran = run_with(&cx, &["explain", &format!("{plural}.spec.bars2")], "").await?;
    anyhow::ensure!(ran.code != 0, "kubectl explains a field that does not exist: {}", ran.out);
    ensure_contains!(ran.err, r#"field "bars2" does not exist"#, "what kubectl says of such a field");
    cleanup(&cx, &custom, "v1").await
}

async fn without_schema(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "empty"), None, &["v1"]).await?;
    wait_definition(&cx, &custom, "v1", None).await?;
    accepted(&cx, &custom, "test-cr", &object(&custom, "test-cr", json!({"a": {"b": [{"c": "d"}]}}))).await?;
    explains(&cx, &custom.plural, "(?s)DESCRIPTION:.*<empty>").await?;
    cleanup(&cx, &custom, "v1").await
}

async fn at_root(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "unknown-at-root"), Some(preserving(true)), &["v1"]).await?;
    wait_definition(&cx, &custom, "v1", None).await?;
    accepted(&cx, &custom, "test-cr", &object(&custom, "test-cr", json!({"a": {"b": [{"c": "d"}]}}))).await?;
    explains(&cx, &custom.plural, &format!("(?s)KIND:.*{}", regex::escape(&custom.kind))).await?;
    cleanup(&cx, &custom, "v1").await
}

async fn embedded(cx: Context) -> Result<()> {
    let custom = setup(&cx, &group(&cx, "unknown-in-nested"), Some(preserving(false)), &["v1"]).await?;
    wait_definition(&cx, &custom, "v1", None).await?;
    let body = object(&custom, "test-cr", json!({"spec": {"a": null, "b": [{"c": "d"}]}}));
    accepted(&cx, &custom, "test-cr", &body).await?;
    let wanted = "(?s)DESCRIPTION:.*preserve-unknown-properties in nested field for Testing";
    explains(&cx, &custom.plural, wanted).await?;
    cleanup(&cx, &custom, "v1").await
}
