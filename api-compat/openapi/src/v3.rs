//! OpenAPI 3.0: one document a group version.

use std::collections::BTreeMap;

use knarr_machinery::GroupVersion;
use serde_json::{Map, Value, json};

use crate::operations::{Body, DELETE_OPTIONS, Operation, PATCH, Path, paths};
use crate::params::Param;
use crate::schemas::{Schemas, V3_PREFIX, each_child};
use crate::{Catalog, Error, content_hash};

const DOCUMENT_TYPES: &[&str] = &["application/json", "application/yaml", knarr_schema::proto::MEDIA_TYPE];
const STREAM_TYPES: &[&str] =
    &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

fn name(gv: &GroupVersion) -> String {
    crate::operations::base_path(&gv.group, &gv.version).trim_start_matches('/').to_owned()
}

fn served(catalog: &Catalog<'_>) -> Vec<GroupVersion> {
    let mut all: Vec<GroupVersion> = catalog.kinds.iter().map(|k| k.info.gvk.group_version()).collect();
    all.sort();
    all.dedup();
    all
}

pub(crate) fn index(catalog: &Catalog<'_>) -> Value {
    let mut entries = Map::new();
    for gv in served(catalog) {
        if let Some(hash) = hash(catalog, &gv) {
            let name = name(&gv);
            let url = format!("/openapi/v3/{name}?hash={hash}");
            entries.insert(name, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": entries})
}

/// A document follows from the facts hashed here and from this program, so it changes only when the hash does.
pub(crate) fn hash(catalog: &Catalog<'_>, gv: &GroupVersion) -> Option<String> {
    let mut text = format!("{} {}", env!("CARGO_PKG_VERSION"), catalog.version);
    let mut any = false;
    for kind in catalog.kinds.iter().filter(|k| k.info.gvk.group_version() == *gv) {
        let i = &kind.info;
        any = true;
        text += &format!(
            "\n{} {} {} {:?} {:?} {:?} {}",
            i.gvk, i.list_kind, i.plural, i.scope, i.verbs, i.subresources, i.definition
        );
        if let Some(schema) = i.custom.then(|| (catalog.custom_schema)(i)).flatten() {
            text += &schema.to_string();
        }
    }
    any.then(|| content_hash(text.as_bytes()))
}

pub(crate) fn document(catalog: &Catalog<'_>, gv: &GroupVersion) -> Result<Option<Value>, Error> {
    let kinds = catalog.kinds.iter().filter(|k| k.info.gvk.group_version() == *gv);
    let all: Vec<Path> = kinds.flat_map(|k| paths(&k.info)).collect();
    if all.is_empty() {
        return Ok(None);
    }
    let mut schemas = Schemas::open(catalog)?.closure(&all)?;
    schemas.values_mut().for_each(rewrite);
    let written: BTreeMap<&str, Value> = all.iter().map(|p| (p.path.as_str(), path_item(p))).collect();
    Ok(Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": catalog.version},
        "paths": written,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "type": "apiKey",
                "in": "header",
                "name": "authorization",
                "description": "Bearer token",
            }},
        },
        "security": [{"BearerToken": []}],
    })))
}

/// A reference with something beside it goes into `allOf`; what only version 2 wants goes away.
fn rewrite(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("x-kubernetes-v2-schema");
    if map.len() > 1
        && let Some(target) = map.remove("$ref")
    {
        map.insert("allOf".into(), json!([{"$ref": target}]));
    }
    each_child(map, &mut rewrite);
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
    let mut doc = json!({"name": p.name, "in": p.place, "schema": {"type": p.kind, "uniqueItems": true}});
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

fn operation(op: &Operation) -> Value {
    let mut doc = Map::new();
    doc.insert("tags".into(), json!([op.tag]));
    doc.insert("description".into(), op.description.as_str().into());
    doc.insert("operationId".into(), op.id.as_str().into());
    if !op.params.is_empty() {
        doc.insert("parameters".into(), op.params.iter().map(param).collect());
    }
    let body = match &op.body {
        Body::None => None,
        Body::Document(d) => Some(json!({"content": content(&["*/*"], d), "required": true})),
        Body::DeleteOptions => Some(json!({"content": content(&["*/*"], DELETE_OPTIONS)})),
        Body::Patch => Some(json!({"content": content(patch_types(op), PATCH), "required": true})),
    };
    if let Some(body) = body {
        doc.insert("requestBody".into(), body);
    }
    let mut responses = Map::new();
    for code in op.codes {
        responses.insert(code.to_string(), response(op, *code));
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    doc.insert("responses".into(), Value::Object(responses));
    doc.insert("x-kubernetes-action".into(), op.action.into());
    let gvk = json!({"group": op.gvk.group, "version": op.gvk.version, "kind": op.gvk.kind});
    doc.insert("x-kubernetes-group-version-kind".into(), gvk);
    Value::Object(doc)
}

/// The media types of a patch.
pub(crate) fn patch_types(op: &Operation) -> &'static [&'static str] {
    const ALL: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
        "application/strategic-merge-patch+json",
    ];
    if op.custom { &ALL[..3] } else { ALL }
}

/// The media types of an answer.
pub(crate) fn answer_types(op: &Operation) -> Vec<&'static str> {
    if op.answer.is_none() {
        return vec![if op.action == "connect" { "*/*" } else { "text/plain" }];
    }
    let streams = if op.action == "list" { STREAM_TYPES } else { &[] };
    let custom = |t: &&&str| !op.custom || !t.contains("protobuf");
    DOCUMENT_TYPES.iter().chain(streams).filter(custom).copied().collect()
}

/// The text of a status code.
pub(crate) fn code_text(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

fn response(op: &Operation, code: u16) -> Value {
    let types = answer_types(op);
    let body = match &op.answer {
        Some(definition) => content(&types, definition),
        None => types.iter().map(|t| ((*t).to_owned(), json!({"schema": {"type": "string"}}))).collect(),
    };
    json!({"description": code_text(code), "content": body})
}

fn content(types: &[&str], definition: &str) -> Map<String, Value> {
    let schema = json!({"schema": {"$ref": format!("{V3_PREFIX}{definition}")}});
    types.iter().map(|t| ((*t).to_owned(), schema.clone())).collect()
}
