//! Upstream's field_validation.go.

use http::Method;
use serde_json::{Value, json};

use super::crd::{self, Custom, anything, version};
use crate::Result;
use crate::context::Context;
use crate::kinds::DEPLOYMENTS;
use crate::rest::{Reply, Rest};

tests! {
    "[sig-api-machinery] FieldValidation should detect unknown and duplicate fields of a typed object" => typed_fields,
    "[sig-api-machinery] FieldValidation should detect unknown metadata fields of a typed object" => typed_metadata,
    "[sig-api-machinery] FieldValidation should create/apply a valid CR for CRD with validation schema" => valid,
    "[sig-api-machinery] FieldValidation should create/apply a CR with unknown fields for CRD with no validation schema" => no_schema,
    "[sig-api-machinery] FieldValidation should create/apply an invalid CR with extra properties for CRD with validation schema" => extra_property,
    "[sig-api-machinery] FieldValidation should detect unknown metadata fields in both the root and embedded object of a CR" => embedded,
    "[sig-api-machinery] FieldValidation should detect duplicates in a CR when preserving unknown fields" => duplicates,
}

const QUERY: &[(&str, &str)] = &[("fieldManager", "field_validation_mgr"), ("fieldValidation", "Strict")];

/// Posts a Deployment as this text; the message of its refusal.
async fn post_deployment(cx: &Context, metadata: &str, spec: &str) -> Result<String> {
    let body = format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {{"name": "my-dep", {metadata} "labels": {{"app": "nginx"}}}},
        "spec": {{{spec} "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{
            "metadata": {{"labels": {{"app": "nginx"}}}},
            "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}}}}}}}"#
    );
    let uri = Rest::uri(&cx.api(&DEPLOYMENTS).path(), QUERY);
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    let reply = cx.rest().raw(Method::POST, &uri, &headers, body.into_bytes()).await?;
    ensure_eq!(reply.code, 400, "status of a strict creation: {}", reply.text());
    Ok(reply.error("POST").message().to_string())
}

async fn typed_fields(cx: Context) -> Result<()> {
    let message = post_deployment(&cx, "", r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#).await?;
    let wanted =
        r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
    ensure_contains!(message, wanted, "message of the refusal");
    Ok(())
}

async fn typed_metadata(cx: Context) -> Result<()> {
    let message = post_deployment(&cx, r#""unknownMeta": "foo","#, "").await?;
    ensure_contains!(
        message,
        r#"strict decoding error: unknown field "metadata.unknownMeta""#,
        "message of the refusal"
    );
    Ok(())
}

fn ports() -> Value {
    let (text, number) = (json!({"type": "string"}), json!({"type": "integer", "format": "int32"}));
    json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
        "items": {
            "type": "object",
            "required": ["containerPort", "protocol"],
            "properties": {
                "containerPort": number, "hostPort": number, "hostIP": text, "name": text, "protocol": text,
            },
        },
    })
}

fn cron() -> Value {
    json!({"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"})
}

fn schema() -> Value {
    let spec = json!({"type": "object", "properties": {"foo": {"type": "string"}, "cronSpec": cron(), "ports": ports()}});
    json!({"type": "object", "properties": {"spec": spec}})
}

async fn with_schema(cx: &Context, schema: Value) -> Result<Custom> {
    let versions = json!([version("v1beta1", true, schema.clone()), version("v1", false, schema)]);
    crd::defined(cx, &crd::group(cx), false, versions).await
}

/// Applies this YAML, of which head and metadata are filled in.
async fn apply(cx: &Context, custom: &Custom, metadata: &str, rest: &str) -> Result<Reply> {
    let body = format!(
        "\napiVersion: {}/v1beta1\nkind: {}\nmetadata:\n  name: mytest\n{metadata}{rest}",
        custom.group, custom.kind
    );
    let uri = Rest::uri(&custom.api(cx, "v1beta1").path_of("mytest"), QUERY);
    let headers = [("content-type", "application/apply-patch+yaml"), ("accept", "application/json")];
    cx.rest().raw(Method::PATCH, &uri, &headers, body.into_bytes()).await
}

const SPEC: &str =
    "  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP\n";

async fn valid(cx: Context) -> Result<()> {
    let custom = with_schema(&cx, schema()).await?;
    let reply = apply(&cx, &custom, "", &format!("spec:\n  foo: foo1\n{SPEC}")).await?;
    let made = reply.success("apply")?;
    ensure_eq!(made["spec"]["foo"], json!("foo1"), "spec.foo of the answer");
    Ok(())
}

async fn no_schema(cx: Context) -> Result<()> {
    let custom = with_schema(&cx, anything()).await?;
    let reply = apply(&cx, &custom, "", &format!("spec:\n  unknown: uk1\n{SPEC}")).await?;
    let made = reply.success("apply")?;
    ensure_eq!(made["spec"]["unknown"], json!("uk1"), "the unknown field of the answer");
    Ok(())
}

async fn extra_property(cx: Context) -> Result<()> {
    let custom = with_schema(&cx, schema()).await?;
    let reply =
        apply(&cx, &custom, "", &format!("unknownField: unknown\nspec:\n  foo: foo1\n{SPEC}")).await?;
    anyhow::ensure!(reply.code >= 400, "an unknown field was applied: {}", reply.text());
    ensure_contains!(reply.text(), ".unknownField: field not declared in schema", "answer");
    Ok(())
}

/// A spec that keeps what it does not know, with an embedded object.
fn preserving() -> Value {
    let template = json!({
        "type": "object",
        "x-kubernetes-embedded-resource": true,
        "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"},
        },
    });
    json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"template": template, "foo": {"type": "string"}, "cronSpec": cron(), "ports": ports()},
    }}})
}

async fn embedded(cx: Context) -> Result<()> {
    let custom = with_schema(&cx, preserving()).await?;
    let template = format!(
        "spec:\n  template:\n    apiversion: foo/v1\n    kind: Sub\n    metadata:\n        unknownSubMeta: unknown\n        \
         name: subobject\n        namespace: {}\n  foo: foo1\n{SPEC}",
        cx.namespace()
    );
    let reply = apply(&cx, &custom, "  unknownMeta: unknown\n", &template).await?;
    anyhow::ensure!(reply.code >= 400, "unknown metadata was applied: {}", reply.text());
    let (text, sub) = (reply.text(), ".spec.template.metadata.unknownSubMeta: field not declared in schema");
    let root = ".metadata.unknownMeta: field not declared in schema";
    anyhow::ensure!(
        text.contains(sub) || text.contains(root),
        "the answer names no unknown metadata: {text}"
    );
    Ok(())
}

async fn duplicates(cx: Context) -> Result<()> {
    let custom = with_schema(&cx, preserving()).await?;
    let reply =
        apply(&cx, &custom, "", &format!("spec:\n  unknown: uk1\n  foo: foo1\n  foo: foo2\n{SPEC}")).await?;
    anyhow::ensure!(reply.code >= 400, "a field that is there twice was applied: {}", reply.text());
    ensure_contains!(reply.text(), r#"line 9: key \"foo\" already set in map"#, "answer");
    Ok(())
}
