//! Component schemas: the built-in ones and those of custom resources, with everything they refer to.

use std::collections::BTreeMap;

use knarr_kinds::kind::KindInfo;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::operations::{Body, Operation, Path, list_definition};
use crate::{Catalog, Error};

pub(crate) const V3_PREFIX: &str = "#/components/schemas/";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Finds schemas by definition name.
pub(crate) struct Schemas<'a> {
    builtin: BTreeMap<String, Box<RawValue>>,
    catalog: Catalog<'a>,
}

impl<'a> Schemas<'a> {
    pub(crate) fn open(catalog: &Catalog<'a>) -> Result<Self, Error> {
        Ok(Self { builtin: knarr_schema::openapi_schemas()?, catalog: *catalog })
    }

    fn find(&self, name: &str) -> Result<Option<Value>, Error> {
        if let Some(raw) = self.builtin.get(name) {
            return serde_json::from_str(raw.get())
                .map(Some)
                .map_err(|source| Error::Schema { name: name.to_owned(), source });
        }
        let custom = self.catalog.kinds.iter().map(|k| &*k.info).filter(|i| i.custom);
        for info in custom {
            if info.definition == name {
                return Ok(Some(custom_schema(info, (self.catalog.custom_schema)(info))));
            }
            if list_definition(info) == name {
                return Ok(Some(custom_list(info)));
            }
        }
        Ok(None)
    }

    /// The schemas that the operations name, and all that these refer to.
    pub(crate) fn closure(&self, paths: &[Path]) -> Result<BTreeMap<String, Value>, Error> {
        let mut wanted: Vec<String> =
            paths.iter().flat_map(|p| &p.operations).flat_map(definitions_of).collect();
        let mut found = BTreeMap::new();
        while let Some(name) = wanted.pop() {
            if found.contains_key(&name) {
                continue;
            }
            if let Some(schema) = self.find(&name)? {
                references(&schema, &mut wanted);
                found.insert(name, schema);
            }
        }
        Ok(found)
    }
}

fn definitions_of(op: &Operation) -> Vec<String> {
    let body = match &op.body {
        Body::None => None,
        Body::Document(d) => Some(d.clone()),
        Body::DeleteOptions => Some(crate::operations::DELETE_OPTIONS.to_owned()),
        Body::Patch => Some(crate::operations::PATCH.to_owned()),
    };
    let own = op.custom.then(|| op.answer.clone()).flatten();
    // A watch answers with events.
    let event = (op.action == "list").then(|| "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent".to_owned());
    body.into_iter().chain(op.answer.clone()).chain(own).chain(event).collect()
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value.as_str()) {
                    ("$ref", Some(target)) => {
                        out.extend(target.strip_prefix(V3_PREFIX).map(str::to_owned));
                    }
                    _ => references(value, out),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

fn gvk_list(info: &KindInfo, kind: &str) -> Value {
    json!([{"group": info.gvk.group, "version": info.gvk.version, "kind": kind}])
}

/// What upstream says of the three fields that every published custom resource has: `kubectl explain` prints it, and
/// clients and the official tests look for it.
const API_VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA_TEXT: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn type_meta() -> [(String, Value); 2] {
    [
        ("apiVersion".into(), json!({"type": "string", "description": API_VERSION_TEXT})),
        ("kind".into(), json!({"type": "string", "description": KIND_TEXT})),
    ]
}

/// The schema of a CRD's version as it is published: with object metadata and the kind's name. Without a schema no
/// property is named, or clients would think that there are no others.
fn custom_schema(info: &KindInfo, schema: Option<Value>) -> Value {
    let mut schema = match schema {
        Some(Value::Object(mut map)) => {
            embedded(&mut map);
            let properties = map.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(properties) = properties {
                properties.extend(type_meta());
                properties.insert("metadata".into(), object_meta());
            }
            map
        }
        _ => Map::from_iter([("type".into(), "object".into())]),
    };
    if !info.selectable_fields.is_empty() {
        let path = |f: &knarr_machinery::Str| json!({"fieldPath": f.trim_start_matches('.')});
        let fields: Vec<Value> = info.selectable_fields.iter().map(path).collect();
        schema.insert("x-kubernetes-selectable-fields".into(), fields.into());
    }
    schema.insert("x-kubernetes-group-version-kind".into(), gvk_list(info, &info.gvk.kind));
    Value::Object(schema)
}

fn object_meta() -> Value {
    json!({"$ref": format!("{V3_PREFIX}{OBJECT_META}"), "description": METADATA_TEXT})
}

/// Whole objects inside an object have their kind and metadata too.
fn embedded(map: &mut Map<String, Value>) {
    each_child(map, &mut |child| {
        if let Value::Object(child) = child {
            embedded(child);
        }
    });
    if map.get("x-kubernetes-embedded-resource") != Some(&Value::Bool(true)) {
        return;
    }
    if let Value::Object(properties) = map.entry("properties").or_insert_with(|| json!({})) {
        properties.extend(type_meta());
        properties.insert("metadata".into(), object_meta());
    }
    if let Value::Array(required) = map.entry("required").or_insert_with(|| json!([])) {
        for key in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == key) {
                required.push(key.into());
            }
        }
    }
}

fn custom_list(info: &KindInfo) -> Value {
    let mut properties = Map::from_iter(type_meta());
    properties.insert(
        "metadata".into(),
        json!({"$ref": format!("{V3_PREFIX}{LIST_META}"), "description": "List metadata."}),
    );
    let items = json!({
        "type": "array",
        "description": "The objects.",
        "items": {"$ref": format!("{V3_PREFIX}{}", info.definition)},
    });
    properties.insert("items".into(), items);
    json!({
        "type": "object",
        "description": format!("{} is a list of {}", info.list_kind, info.gvk.kind),
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": gvk_list(info, &info.list_kind),
    })
}

/// The keys under which a schema holds further schemas.
pub(crate) fn each_child(map: &mut Map<String, Value>, f: &mut dyn FnMut(&mut Value)) {
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "patternProperties" | "definitions", Value::Object(children)) => {
                children.values_mut().for_each(&mut *f);
            }
            ("items" | "additionalProperties" | "not", value @ Value::Object(_)) => f(value),
            ("allOf" | "anyOf" | "oneOf" | "items", Value::Array(list)) => list.iter_mut().for_each(&mut *f),
            _ => {}
        }
    }
}
