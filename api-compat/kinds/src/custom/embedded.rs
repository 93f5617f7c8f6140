//! Checks of resources that are embedded in a resource.

use knarr_machinery::{FieldError, Path, meta, names};
use serde_json::{Map, Value};

use crate::custom::schema::Schema;

/// Errors of type and metadata of embedded resources; the root itself is none.
pub(crate) fn validate(schema: &Schema, value: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(schema, value, path, &mut errors);
    errors
}

fn walk(schema: &Schema, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                resource(map, path, errors);
            }
            for (key, v) in map {
                if let Some(s) = schema.properties.get(key) {
                    walk(s, v, &path.child(key), errors);
                } else if let Some(s) = schema.additional_schema() {
                    walk(s, v, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(s) = &schema.items else { return };
            items.iter().enumerate().for_each(|(i, v)| walk(s, v, &path.index(i), errors));
        }
        _ => {}
    }
}

fn resource(map: &Map<String, Value>, path: &Path, errors: &mut Vec<FieldError>) {
    for key in ["apiVersion", "kind"] {
        let at = path.child(key);
        match map.get(key) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(s)) if s.is_empty() => {
                errors.push(FieldError::invalid(&at, "", "must not be empty"));
            }
            Some(Value::String(s)) if key == "apiVersion" => {
                if s.matches('/').count() > 1 {
                    let text = format!("unexpected GroupVersion string: {s}");
                    errors.push(FieldError::invalid(&at, s.as_str(), text));
                }
            }
            Some(Value::String(s)) => {
                let found = names::is_dns1035_label(&s.to_lowercase());
                if !found.is_empty() {
                    let text =
                        format!("may have mixed case, but should otherwise match: {}", found.join(","));
                    errors.push(FieldError::invalid(&at, s.as_str(), text));
                }
            }
            Some(other) => errors.push(FieldError::invalid(&at, other.clone(), "must be a string")),
        }
    }
    if let Some(Value::Object(given)) = map.get("metadata") {
        let mut given = given.clone();
        if given.get("name").and_then(Value::as_str).unwrap_or("").is_empty() {
            given.insert("name".into(), "fakename".into());
        }
        let namespaced = given.get("namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
        let doc = serde_json::json!({"metadata": given});
        let name = |n: &str, prefix: bool| names::path_segment_name(n, prefix);
        errors.extend(meta::validate_object_meta(&doc, namespaced, &name, &path.child("metadata")));
    }
}
