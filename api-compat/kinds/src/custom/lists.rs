//! Lists of type `set` and `map`: no item twice; and which old item is the counterpart of a new one.

use knarr_machinery::{FieldError, Path};
use serde_json::{Map, Value};

use crate::custom::schema::Schema;

/// Duplicates in the sets and keyed lists of a value.
pub(crate) fn validate(schema: &Schema, value: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    walk(schema, value, path, &mut errors);
    errors
}

fn walk(schema: &Schema, value: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                if let Some(s) = schema.properties.get(key) {
                    walk(s, v, &path.child(key), errors);
                } else if let Some(s) = schema.additional_schema() {
                    walk(s, v, &path.key(key), errors);
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => {
                    let all: Vec<&Value> = items.iter().collect();
                    for i in repeated(&all) {
                        errors.push(FieldError::duplicate(&path.index(i), items[i].clone()));
                    }
                }
                Some("map") => keyed(schema, items, path, errors),
                _ => {}
            }
            if let Some(s) = &schema.items {
                items.iter().enumerate().for_each(|(i, v)| walk(s, v, &path.index(i), errors));
            }
        }
        _ => {}
    }
}

/// The second place of each value that comes more than once.
fn repeated(items: &[&Value]) -> Vec<usize> {
    let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
    let mut found = Vec::new();
    for (i, v) in items.iter().enumerate() {
        let count = seen.entry(v.to_string()).or_default();
        *count += 1;
        if *count == 2 {
            found.push(i);
        }
    }
    found
}

/// The keys of an item as a document.
fn key_of(schema: &Schema, item: &Value) -> Value {
    let mut key = Map::new();
    for name in &schema.list_keys {
        if let Some(v) = item.get(name) {
            key.insert(name.clone(), v.clone());
        }
    }
    Value::Object(key)
}

fn keyed(schema: &Schema, items: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(i) = items.iter().position(|v| !v.is_object() && !v.is_null()) {
        let text = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(i), items[i].clone(), text));
        return;
    }
    let keys: Vec<Value> = items.iter().map(|v| key_of(schema, v)).collect();
    for i in repeated(&keys.iter().collect::<Vec<_>>()) {
        errors.push(FieldError::duplicate(&path.index(i), keys[i].clone()));
    }
}

/// The item of the old list with the same keys; only keyed lists have counterparts.
pub(crate) fn find_item<'a>(schema: &Schema, item: &Value, old: &'a [Value]) -> Option<&'a Value> {
    if schema.list_type.as_deref() != Some("map") {
        return None;
    }
    let key = key_of(schema, item);
    old.iter().find(|o| key_of(schema, o) == key)
}
