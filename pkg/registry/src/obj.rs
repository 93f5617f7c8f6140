//! Small accessors on documents; absent fields read as empty.

use serde_json::{Map, Value};

/// The string at `metadata.<field>`, "" if absent.
pub fn meta_str<'a>(obj: &'a Value, field: &str) -> &'a str {
    obj.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata.name`.
pub fn name(obj: &Value) -> &str {
    meta_str(obj, "name")
}

/// `metadata.namespace`.
pub fn namespace(obj: &Value) -> &str {
    meta_str(obj, "namespace")
}

/// `metadata.uid`.
pub fn uid(obj: &Value) -> &str {
    meta_str(obj, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(obj: &Value) -> &str {
    meta_str(obj, "resourceVersion")
}

/// `metadata.generation`, 0 if absent.
pub fn generation(obj: &Value) -> i64 {
    obj.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.deletionTimestamp`, if set.
pub fn deletion_timestamp(obj: &Value) -> Option<&str> {
    let text = meta_str(obj, "deletionTimestamp");
    (!text.is_empty()).then_some(text)
}

/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> Vec<String> {
    strings(obj.pointer("/metadata/finalizers"))
}

/// The strings of a list, other items left out.
pub fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .map(|l| l.iter().filter_map(|v| v.as_str().map(str::to_string)).collect())
        .unwrap_or_default()
}

/// The metadata map; made when it is missing or no map. `obj` that is no map becomes one.
pub fn meta_mut(obj: &mut Value) -> &mut Map<String, Value> {
    map_mut(map_mut(obj).entry("metadata").or_insert_with(|| Value::Object(Map::new())))
}

/// The value as a map; anything else is replaced by an empty one.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Made an object just above.
        _ => unreachable!(),
    }
}

/// Sets `metadata.<field>`; an empty string removes it.
pub fn set_meta(obj: &mut Value, field: &str, value: &str) {
    let meta = meta_mut(obj);
    if value.is_empty() {
        meta.remove(field);
    } else {
        meta.insert(field.to_string(), Value::String(value.to_string()));
    }
}

/// Copies `metadata.<field>` from `from`, removing it where `from` has none.
pub fn copy_meta(obj: &mut Value, from: &Value, field: &str) {
    match from.get("metadata").and_then(|m| m.get(field)) {
        Some(value) => {
            meta_mut(obj).insert(field.to_string(), value.clone());
        }
        None => {
            meta_mut(obj).remove(field);
        }
    }
}

/// Sets or removes (empty) `metadata.finalizers`.
pub fn set_finalizers(obj: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        meta_mut(obj).remove("finalizers");
    } else {
        meta_mut(obj).insert("finalizers".into(), finalizers.into());
    }
}

/// Sets `apiVersion` and `kind`.
pub fn set_gvk(obj: &mut Value, gvk: &knarr_machinery::GroupVersionKind) {
    let map = map_mut(obj);
    map.insert("apiVersion".into(), gvk.group_version().to_string().into());
    map.insert("kind".into(), gvk.kind.to_string().into());
}

/// The value at a dotted path such as `spec.replicas` (a leading dot is allowed).
pub fn at<'a>(obj: &'a Value, path: &str) -> Option<&'a Value> {
    path.trim_start_matches('.').split('.').try_fold(obj, |v, part| v.get(part))
}

/// Sets the value at a dotted path, making maps on the way.
pub fn set_at(obj: &mut Value, path: &str, value: Value) {
    let mut parts: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let Some(last) = parts.pop() else { return };
    let mut target = obj;
    for part in parts {
        target = map_mut(target).entry(part).or_insert_with(|| Value::Object(Map::new()));
    }
    map_mut(target).insert(last.to_string(), value);
}
