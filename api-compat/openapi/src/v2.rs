//! OpenAPI 2.0 (Swagger): one document for everything.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::operations::{Body, DELETE_OPTIONS, Operation, PATCH, Path, paths};
use crate::params::Param;
use crate::schemas::{Schemas, V3_PREFIX, each_child};
use crate::v3::{answer_types, code_text, patch_types};
use crate::{Catalog, Error};

pub(crate) fn document(catalog: &Catalog<'_>) -> Result<Value, Error> {
    let all: Vec<Path> = catalog.kinds.iter().flat_map(|k| paths(&k.info)).collect();
    let mut schemas = Schemas::open(catalog)?.closure(&all)?;
    let custom: Vec<&str> =
        catalog.kinds.iter().filter(|k| k.info.custom).map(|k| k.info.definition.as_ref()).collect();
    for (name, schema) in &mut schemas {
        if custom.contains(&name.as_str()) {
            simplify(schema);
        }
        rewrite(schema);
    }
    let written: BTreeMap<&str, Value> = all.iter().map(|p| (p.path.as_str(), path_item(p))).collect();
    Ok(json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": catalog.version},
        "paths": written,
        "definitions": schemas,
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
            "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    }))
}

/// References are to `definitions`; there are no defaults; unions have the form that version 2 knows.
fn rewrite(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::Object(own)) = map.remove("x-kubernetes-v2-schema") {
        map.remove("oneOf");
        map.extend(own);
    }
    map.remove("default");
    if let Some(target) = map.get("$ref").and_then(Value::as_str) {
        let name = target.strip_prefix(V3_PREFIX).unwrap_or(target);
        let target = format!("#/definitions/{name}");
        map.insert("$ref".into(), target.into());
    }
    each_child(map, &mut rewrite);
}

/// What version 2, or an old client's reading of it, cannot say of a custom resource is left out: a wider schema is
/// right, a narrower one is not.
fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let is = |map: &Map<String, Value>, key: &str| map.get(key) == Some(&Value::Bool(true));
    let preserve = is(map, "x-kubernetes-preserve-unknown-fields");
    if preserve && map.contains_key("x-kubernetes-group-version-kind") {
        map.retain(|key, _| key.starts_with("x-kubernetes-group"));
        map.insert("type".into(), "object".into());
        return;
    }
    for key in ["oneOf", "anyOf", "allOf", "not"] {
        map.remove(key);
    }
    drop_nullable_requirements(map);
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    if nullable || preserve {
        map.remove("items");
        map.remove("properties");
    }
    let untyped_list = map.get("type") == Some(&"array".into()) && !map.contains_key("items");
    let open_object = preserve && map.get("type") == Some(&"object".into());
    if nullable || untyped_list || open_object || is(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    each_child(map, &mut simplify);
}

/// A field that may be null cannot be told from one that is missing, so it is not required.
fn drop_nullable_requirements(map: &mut Map<String, Value>) {
    let nullable = |v: Option<&Value>| v.and_then(|v| v.get("nullable")) == Some(&Value::Bool(true));
    if nullable(map.get("additionalProperties")) {
        map.remove("required");
    }
    let properties = map.get("properties").cloned().unwrap_or_default();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|r| !r.as_str().is_some_and(|r| nullable(properties.get(r))));
        if required.is_empty() {
            map.remove("required");
        }
    }
}

fn path_item(path: &Path) -> Value {
    let mut item = Map::new();
    for op in &path.operations {
        item.insert(op.method.to_owned(), operation(op));
    }
    item.insert("parameters".into(), path.params.iter().map(param).collect());
    Value::Object(item)
}

fn param(p: &Param) -> Value {
    let mut doc = json!({"name": p.name, "in": p.place, "type": p.kind, "uniqueItems": true});
    if let Value::Object(map) = &mut doc {
        if !p.description.is_empty() {
            map.insert("description".into(), p.description.as_str().into());
        }
        if p.place == "path" {
            map.insert("required".into(), true.into());
        }
    }
    doc
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/definitions/{definition}")})
}

fn operation(op: &Operation) -> Value {
    let mut doc = Map::new();
    let consumes: &[&str] = if matches!(op.body, Body::Patch) { patch_types(op) } else { &["*/*"] };
    doc.insert("tags".into(), json!([op.tag]));
    doc.insert("description".into(), op.description.as_str().into());
    doc.insert("operationId".into(), op.id.as_str().into());
    doc.insert("consumes".into(), json!(consumes));
    doc.insert("produces".into(), json!(answer_types(op)));
    doc.insert("schemes".into(), json!(["https"]));
    let body = match &op.body {
        Body::None => None,
        Body::Document(d) => Some((reference(d), true)),
        Body::DeleteOptions => Some((reference(DELETE_OPTIONS), false)),
        Body::Patch => Some((reference(PATCH), true)),
    };
    let mut list: Vec<Value> = Vec::new();
    if let Some((schema, required)) = body {
        let mut p = json!({"name": "body", "in": "body", "schema": schema});
        if let (Value::Object(map), true) = (&mut p, required) {
            map.insert("required".into(), true.into());
        }
        list.push(p);
    }
    list.extend(op.params.iter().map(param));
    if !list.is_empty() {
        doc.insert("parameters".into(), list.into());
    }
    let schema = op.answer.as_deref().map_or_else(|| json!({"type": "string"}), reference);
    let mut responses = Map::new();
    for code in op.codes {
        responses.insert(code.to_string(), json!({"description": code_text(*code), "schema": schema}));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    doc.insert("responses".into(), Value::Object(responses));
    doc.insert("x-kubernetes-action".into(), op.action.into());
    let gvk = json!({"group": op.gvk.group, "version": op.gvk.version, "kind": op.gvk.kind});
    doc.insert("x-kubernetes-group-version-kind".into(), gvk);
    Value::Object(doc)
}
