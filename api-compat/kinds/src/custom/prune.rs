//! What decoding does to a custom resource: unknown fields go, nulls that nobody allowed go, metadata takes its
//! typed form, integral numbers take the integer form.

use knarr_machinery::types::TypeRef;
use knarr_machinery::{FieldError, Path, decode};
use serde_json::{Map, Value};

use crate::custom::schema::{Additional, Schema};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes fields that the schema does not know; returns their paths, sorted. The document is a resource.
pub(crate) fn prune(obj: &mut Value, schema: &Schema) -> Vec<String> {
    let mut walk = Walk { path: Vec::new(), unknown: Vec::new() };
    if schema.preserve_unknown {
        walk.skip(obj, schema, true);
    } else {
        walk.value(obj, Some(schema), true);
    }
    walk.unknown.sort();
    walk.unknown
}

/// Removes fields of a part of a resource, such as a default.
pub(crate) fn prune_part(value: &mut Value, schema: &Schema) {
    let mut walk = Walk { path: Vec::new(), unknown: Vec::new() };
    walk.value(value, Some(schema), schema.embedded);
}

struct Walk {
    path: Vec<String>,
    unknown: Vec<String>,
}

impl Walk {
    fn note(&mut self, key: &str) {
        self.path.push(if self.path.is_empty() { key.to_string() } else { format!(".{key}") });
        self.unknown.push(self.path.concat());
        self.path.pop();
    }

    fn below(&mut self, key: &str, f: impl FnOnce(&mut Self)) {
        self.path.push(if self.path.is_empty() { key.to_string() } else { format!(".{key}") });
        f(self);
        self.path.pop();
    }

    fn item(&mut self, i: usize, f: impl FnOnce(&mut Self)) {
        self.path.push(format!("[{i}]"));
        f(self);
        self.path.pop();
    }

    /// `resource`: the value is a whole resource, whose kind and metadata are known without a schema.
    fn value(&mut self, value: &mut Value, schema: Option<&Schema>, resource: bool) {
        if let Some(s) = schema.filter(|s| s.preserve_unknown) {
            self.skip(value, s, resource);
            return;
        }
        match value {
            Value::Object(map) => self.map(map, schema, resource),
            Value::Array(items) => {
                let below = schema.and_then(|s| s.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    self.item(i, |w| w.value(item, below, below.is_some_and(|s| s.embedded)));
                }
            }
            _ => {}
        }
    }

    fn map(&mut self, map: &mut Map<String, Value>, schema: Option<&Schema>, resource: bool) {
        let Some(schema) = schema else {
            map.keys().for_each(|k| self.note(k));
            map.clear();
            return;
        };
        let mut gone = Vec::new();
        for (key, value) in map.iter_mut() {
            if resource && META.contains(&key.as_str()) {
                continue;
            }
            if let Some(below) = schema.properties.get(key) {
                self.below(key, |w| w.value(value, Some(below), below.embedded));
            } else if let Some(additional) = &schema.additional {
                let below = match additional {
                    Additional::Schema(s) => Some(&**s),
                    Additional::Bool(_) => None,
                };
                self.below(key, |w| w.value(value, below, below.is_some_and(|s| s.embedded)));
            } else {
                gone.push(key.clone());
            }
        }
        for key in gone {
            if !META.contains(&key.as_str()) || !self.path.is_empty() {
                self.note(&key);
            }
            map.remove(&key);
        }
    }

    /// Below a node that keeps unknown fields, what is known is pruned nevertheless.
    fn skip(&mut self, value: &mut Value, schema: &Schema, resource: bool) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if resource && META.contains(&key.as_str()) {
                        continue;
                    }
                    if let Some(below) = schema.properties.get(key) {
                        self.below(key, |w| w.value(value, Some(below), below.embedded));
                    } else if let Some(Additional::Schema(below)) = &schema.additional {
                        self.below(key, |w| w.value(value, Some(below), below.embedded));
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = schema.items.as_deref() else { return };
                for (i, item) in items.iter_mut().enumerate() {
                    self.item(i, |w| w.skip(item, below, below.embedded));
                }
            }
            _ => {}
        }
    }
}

fn field<'a>(schema: Option<&'a Schema>, key: &str) -> Option<&'a Schema> {
    let s = schema?;
    s.properties.get(key).or_else(|| s.additional_schema())
}

/// Removes nulls where the schema neither allows nor defaults them.
pub(crate) fn drop_nulls(value: &mut Value, schema: Option<&Schema>) {
    match value {
        Value::Object(map) => map.retain(|key, v| {
            let below = field(schema, key);
            if v.is_null() && below.is_some_and(|s| !s.nullable && s.default.is_none()) {
                return false;
            }
            drop_nulls(v, below);
            true
        }),
        Value::Array(items) => {
            let below = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|v| drop_nulls(v, below));
        }
        _ => {}
    }
}

/// Fills defaults; nulls that are not allowed count as absent.
pub(crate) fn default(value: &mut Value, schema: &Schema) {
    let hollow = |v: &Value, s: &Schema| v.is_null() && !s.nullable;
    match value {
        Value::Object(map) => {
            for (key, s) in &schema.properties {
                if let Some(d) = &s.default
                    && map.get(key).is_none_or(|v| hollow(v, s))
                {
                    map.insert(key.clone(), d.clone());
                }
            }
            for (key, v) in map.iter_mut() {
                if let Some(s) = schema.properties.get(key) {
                    default(v, s);
                } else if let Some(s) = schema.additional_schema() {
                    if hollow(v, s) {
                        *v = s.default.clone().unwrap_or_default();
                    }
                    default(v, s);
                }
            }
        }
        Value::Array(items) => {
            let Some(s) = schema.items.as_deref() else { return };
            for v in items {
                if hollow(v, s) {
                    *v = s.default.clone().unwrap_or_default();
                }
                default(v, s);
            }
        }
        _ => {}
    }
}

/// Numbers without a fraction take the integer form, as a Go server writes them.
pub(crate) fn integral_numbers(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => {
            let f = n.as_f64().unwrap_or(0.5);
            // Beyond 2^53 the form would claim digits that a double does not have.
            if f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 {
                *value = Value::from(f as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(integral_numbers),
        Value::Object(map) => map.values_mut().for_each(integral_numbers),
        _ => {}
    }
}

/// Brings `metadata` to its typed form; returns paths of fields it does not have.
///
/// # Errors
/// Why it is no object metadata, as Go's decoder says.
pub(crate) fn coerce_metadata(
    types: &TypeRef,
    obj: &mut Map<String, Value>,
    prefix: &str,
) -> Result<Vec<String>, String> {
    let Some(metadata) = obj.get_mut("metadata") else { return Ok(Vec::new()) };
    if metadata.is_null() {
        *metadata = Value::Object(Map::new());
    }
    let found = decode::prune(types, metadata).map_err(|e| e.message)?;
    let path = |message: &str| {
        let name = message.split('"').nth(1).unwrap_or_default();
        if prefix.is_empty() { format!("metadata.{name}") } else { format!("{prefix}.metadata.{name}") }
    };
    Ok(found.iter().map(|f| path(&f.message)).collect())
}

/// Types and metadata of the resources embedded in a resource; returns paths of unknown fields.
///
/// # Errors
/// The first part that is no type or no metadata.
pub(crate) fn coerce_embedded(
    types: &TypeRef,
    value: &mut Value,
    schema: &Schema,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                for key in ["apiVersion", "kind"] {
                    if let Some(v) = map.get(key).filter(|v| !v.is_string()) {
                        return Err(FieldError::invalid(&path.child(key), v.clone(), "must be a string"));
                    }
                }
                let given = map.get("metadata").cloned().unwrap_or_default();
                let found = coerce_metadata(types, map, path.as_str())
                    .map_err(|e| FieldError::invalid(&path.child("metadata"), given, e))?;
                unknown.extend(found);
            }
            for (key, v) in map.iter_mut() {
                if let Some(s) = schema.properties.get(key) {
                    coerce_embedded(types, v, s, &path.child(key), unknown)?;
                } else if let Some(s) = schema.additional_schema() {
                    coerce_embedded(types, v, s, &path.key(key), unknown)?;
                }
            }
        }
        Value::Array(items) => {
            let Some(s) = schema.items.as_deref() else { return Ok(()) };
            for (i, v) in items.iter_mut().enumerate() {
                coerce_embedded(types, v, s, &path.index(i), unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}
