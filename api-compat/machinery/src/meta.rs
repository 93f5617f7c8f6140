//! Access to `metadata` of any document, and the checks every object's metadata undergoes.
//!
//! Readers take a missing or mistyped field for empty; writers create what is missing.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::field::{FieldError, Path};
use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::names;

/// Most bytes that all annotations of an object may take together.
pub const TOTAL_ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// Finalizer of foreground deletion.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of orphaning deletion.
pub const FINALIZER_ORPHAN: &str = "orphan";
/// Detail of a change to a field that must not change.
pub const IMMUTABLE: &str = "field is immutable";

/// `metadata`, or null.
pub fn metadata(obj: &Value) -> &Value {
    &obj["metadata"]
}

/// `metadata` to write to; created when missing. An `obj` that is no document becomes one.
pub fn object_meta_mut(obj: &mut Value) -> &mut Map<String, Value> {
    object_at(object_at_value(obj), "metadata")
}

fn object_at_value(v: &mut Value) -> &mut Map<String, Value> {
    if !v.is_object() {
        *v = Value::Object(Map::new());
    }
    match v {
        Value::Object(m) => m,
        // The value was made an object above.
        _ => unreachable!(),
    }
}

/// The object at `key`, created when missing or of another type.
pub fn object_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    object_at_value(map.entry(key).or_insert(Value::Null))
}

/// A string field of metadata, "" when missing.
pub fn str_field<'a>(obj: &'a Value, field: &str) -> &'a str {
    obj["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.name`.
pub fn name(obj: &Value) -> &str {
    str_field(obj, "name")
}

/// `metadata.generateName`.
pub fn generate_name(obj: &Value) -> &str {
    str_field(obj, "generateName")
}

/// `metadata.namespace`.
pub fn namespace(obj: &Value) -> &str {
    str_field(obj, "namespace")
}

/// `metadata.uid`.
pub fn uid(obj: &Value) -> &str {
    str_field(obj, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(obj: &Value) -> &str {
    str_field(obj, "resourceVersion")
}

/// `metadata.generation`, 0 when missing.
pub fn generation(obj: &Value) -> i64 {
    obj["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// `metadata.creationTimestamp`.
pub fn creation_timestamp(obj: &Value) -> Option<&str> {
    obj["metadata"]["creationTimestamp"].as_str()
}

/// `metadata.deletionTimestamp`.
pub fn deletion_timestamp(obj: &Value) -> Option<&str> {
    obj["metadata"]["deletionTimestamp"].as_str()
}

/// `metadata.deletionGracePeriodSeconds`.
pub fn deletion_grace_seconds(obj: &Value) -> Option<i64> {
    obj["metadata"]["deletionGracePeriodSeconds"].as_i64()
}

/// `apiVersion`.
pub fn api_version(obj: &Value) -> &str {
    obj["apiVersion"].as_str().unwrap_or_default()
}

/// `kind`.
pub fn kind(obj: &Value) -> &str {
    obj["kind"].as_str().unwrap_or_default()
}

/// Group, version and kind of a document; None when apiVersion is malformed or one is missing.
pub fn gvk(obj: &Value) -> Option<GroupVersionKind> {
    let gv = GroupVersion::parse(api_version(obj))?;
    let kind = kind(obj);
    (!kind.is_empty()).then(|| GroupVersionKind::new(gv.group, gv.version, kind.to_string()))
}

fn string_map(v: &Value) -> BTreeMap<String, String> {
    let entries = v.as_object().into_iter().flatten();
    entries.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
}

/// `metadata.labels`.
pub fn labels(obj: &Value) -> BTreeMap<String, String> {
    string_map(&obj["metadata"]["labels"])
}

/// `metadata.annotations`.
pub fn annotations(obj: &Value) -> BTreeMap<String, String> {
    string_map(&obj["metadata"]["annotations"])
}

/// One label.
pub fn label<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    obj["metadata"]["labels"].get(key)?.as_str()
}

/// One annotation.
pub fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    obj["metadata"]["annotations"].get(key)?.as_str()
}

/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> Vec<&str> {
    obj["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `metadata.ownerReferences`.
pub fn owner_references(obj: &Value) -> &[Value] {
    obj["metadata"]["ownerReferences"].as_array().map_or(&[], Vec::as_slice)
}

/// The owner reference with `controller: true`.
pub fn controller_of(obj: &Value) -> Option<&Value> {
    owner_references(obj).iter().find(|r| r["controller"] == true)
}

/// Sets a field of metadata; null removes it.
pub fn set_field(obj: &mut Value, field: &str, value: Value) {
    let meta = object_meta_mut(obj);
    if value.is_null() {
        meta.remove(field);
    } else {
        meta.insert(field.to_string(), value);
    }
}

/// Sets a string field of metadata; "" removes it.
pub fn set_str(obj: &mut Value, field: &str, value: &str) {
    set_field(obj, field, if value.is_empty() { Value::Null } else { value.into() });
}

/// Sets an annotation.
pub fn set_annotation(obj: &mut Value, key: &str, value: &str) {
    object_at(object_meta_mut(obj), "annotations").insert(key.to_string(), value.into());
}

/// Sets a label.
pub fn set_label(obj: &mut Value, key: &str, value: &str) {
    object_at(object_meta_mut(obj), "labels").insert(key.to_string(), value.into());
}

/// Sets the finalizers; none removes the field.
pub fn set_finalizers(obj: &mut Value, finalizers: &[&str]) {
    let list = if finalizers.is_empty() { Value::Null } else { Value::from(finalizers.to_vec()) };
    set_field(obj, "finalizers", list);
}

/// Follows a dotted path (`spec.replicas`) of plain field names.
pub fn at<'a>(obj: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(obj, |v, p| &v[p])
}

/// Sets the value at a dotted path, creating objects on the way; null removes.
pub fn set_at(obj: &mut Value, path: &str, value: Value) {
    let mut map = object_at_value(obj);
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() {
            map = object_at(map, part);
        } else if value.is_null() {
            map.remove(part);
            return;
        } else {
            map.insert(part.to_string(), value);
            return;
        }
    }
}

/// Errors of a map of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (k, v) in labels {
        for m in names::is_qualified_name(k) {
            errors.push(FieldError::invalid(path, k.as_str(), m));
        }
        let v = v.as_str().unwrap_or_default();
        for m in names::is_label_value(v) {
            errors.push(FieldError::invalid(path, v, m));
        }
    }
    errors
}

/// Errors of a map of annotations.
pub fn validate_annotations(annotations: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut total = 0;
    for (k, v) in annotations.as_object().into_iter().flatten() {
        for m in names::is_qualified_name(&k.to_lowercase()) {
            errors.push(FieldError::invalid(path, k.as_str(), m));
        }
        total += k.len() + v.as_str().map_or(0, str::len);
    }
    if total > TOTAL_ANNOTATION_BYTES_MAX {
        errors.push(FieldError::too_long(path, TOTAL_ANNOTATION_BYTES_MAX));
    }
    errors
}

fn validate_owner(r: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let text = |f: &str| r[f].as_str().unwrap_or_default();
    let gv = GroupVersion::parse(text("apiVersion"));
    if text("apiVersion").is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), "must not be empty"));
    } else if gv.is_none() {
        let detail = "must be <group>/<version> or <version>";
        errors.push(FieldError::invalid(&path.child("apiVersion"), text("apiVersion"), detail));
    }
    for field in ["kind", "name", "uid"] {
        if text(field).is_empty() {
            errors.push(FieldError::required(&path.child(field), "must not be empty"));
        }
    }
    if text("apiVersion") == "v1" && text("kind") == "Event" {
        errors.push(FieldError::invalid(
            path,
            r.clone(),
            "/v1, Kind=Event is disallowed from being an owner",
        ));
    }
    errors
}

/// Drops owner references that are there twice; the warning that tells of it.
pub fn dedup_owner_references(obj: &mut Value) -> Option<String> {
    let owners = obj.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut repeated: Vec<String> = Vec::new();
    for owner in std::mem::take(owners) {
        if !seen.contains(&owner) {
            seen.push(owner);
            continue;
        }
        let uid = owner["uid"].as_str().unwrap_or_default().to_string();
        if !repeated.contains(&uid) {
            repeated.push(uid);
        }
    }
    *owners = seen;
    (!repeated.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

/// Errors of `ownerReferences`.
pub fn validate_owner_references(refs: &[Value], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut first = String::new();
    for (i, r) in refs.iter().enumerate() {
        errors.extend(validate_owner(r, &path.index(i)));
        if r["controller"] != true {
            continue;
        }
        let text = |f: &str| r[f].as_str().unwrap_or_default();
        let this = format!("{}/{}", text("kind"), text("name"));
        if first.is_empty() {
            first = this;
        } else {
            let detail = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
            );
            errors.push(FieldError::invalid(path, refs.to_vec(), detail).shown_as(shown_owners(refs)));
        }
    }
    errors
}

/// Owner references with their fields in the order of the API's types.
fn shown_owners(refs: &[Value]) -> String {
    let keys = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let one = |r: &Value| {
        let fields = keys.iter().filter_map(|k| r.get(*k).map(|v| format!("\"{k}\":{v}")));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    };
    format!("[{}]", refs.iter().map(one).collect::<Vec<_>>().join(","))
}

fn validate_finalizers(list: &[&str], path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for f in list {
        for m in names::is_qualified_name(f) {
            errors.push(FieldError::invalid(path, *f, m));
        }
    }
    if list.contains(&FINALIZER_FOREGROUND) && list.contains(&FINALIZER_ORPHAN) {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(path, list.to_vec(), detail));
    }
    errors
}

fn validate_managed_fields(entries: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, e) in entries.as_array().into_iter().flatten().enumerate() {
        let path = path.index(i);
        let text = |f: &str| e[f].as_str().unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            let detail = "must be `Apply` or `Update`";
            errors.push(FieldError::invalid(&path.child("operation"), text("operation"), detail));
        }
        if !matches!(text("fieldsType"), "" | "FieldsV1") {
            let detail = "must be `FieldsV1`";
            errors.push(FieldError::invalid(&path.child("fieldsType"), text("fieldsType"), detail));
        }
        errors.extend(validate_field_manager(text("manager"), &path.child("manager")));
        if text("subresource").len() > 256 {
            errors.push(FieldError::too_long(&path.child("subresource"), 256));
        }
    }
    errors
}

/// Errors of a field manager's name.
pub fn validate_field_manager(manager: &str, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > 128 {
        errors.push(FieldError::too_long(path, 128));
    }
    // Upstream counts the position of the first character that cannot be printed.
    if let Some((i, _)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character at position {i}: should only contain printable characters");
        errors.push(FieldError::invalid(path, manager, detail));
    }
    errors
}

fn validate_common(meta: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(g) = meta["generation"].as_i64().filter(|g| *g < 0) {
        errors.push(FieldError::invalid(&path.child("generation"), g, "must be greater than or equal to 0"));
    }
    if let Some(labels) = meta["labels"].as_object() {
        errors.extend(validate_labels(labels, &path.child("labels")));
    }
    errors.extend(validate_annotations(&meta["annotations"], &path.child("annotations")));
    let owners = meta["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    errors.extend(validate_owner_references(owners, &path.child("ownerReferences")));
    errors
}

/// Errors of a new object's metadata. `name_fn` is the rule of its kind for `name` and (true) `generateName`.
pub fn validate_object_meta(
    obj: &Value,
    namespaced: bool,
    name_fn: &dyn Fn(&str, bool) -> Vec<String>,
    path: &Path,
) -> Vec<FieldError> {
    let meta = metadata(obj);
    let mut errors = Vec::new();
    let generate = generate_name(obj);
    if !generate.is_empty() {
        for m in name_fn(generate, true) {
            errors.push(FieldError::invalid(&path.child("generateName"), generate, m));
        }
    }
    if name(obj).is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        for m in name_fn(name(obj), false) {
            errors.push(FieldError::invalid(&path.child("name"), name(obj), m));
        }
    }
    let ns = namespace(obj);
    if namespaced && ns.is_empty() {
        errors.push(FieldError::required(&path.child("namespace"), ""));
    } else if namespaced {
        for m in names::is_dns1123_label(ns) {
            errors.push(FieldError::invalid(&path.child("namespace"), ns, m));
        }
    } else if !ns.is_empty() {
        errors.push(FieldError::forbidden(&path.child("namespace"), "not allowed on this type"));
    }
    errors.extend(validate_common(meta, path));
    errors.extend(validate_finalizers(&finalizers(obj), &path.child("finalizers")));
    errors.extend(validate_managed_fields(&meta["managedFields"], &path.child("managedFields")));
    errors
}

/// Error when a field changed that must not.
pub fn validate_immutable(new: &Value, old: &Value, path: &Path) -> Option<FieldError> {
    (new != old).then(|| FieldError::invalid(path, new.clone(), IMMUTABLE))
}

/// Errors of a changed object's metadata.
pub fn validate_object_meta_update(obj: &Value, old: &Value, path: &Path) -> Vec<FieldError> {
    let (meta, was) = (metadata(obj), metadata(old));
    let mut errors = Vec::new();
    if deletion_timestamp(old).is_some() {
        let before = finalizers(old);
        let mut added: Vec<&str> = finalizers(obj).into_iter().filter(|f| !before.contains(f)).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if resource_version(obj).is_empty() {
        let detail = "must be specified for an update";
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", detail));
    }
    if generation(obj) < generation(old) {
        let detail = "must not be decremented";
        errors.push(FieldError::invalid(&path.child("generation"), generation(obj), detail));
    }
    for field in ["name", "namespace", "uid"] {
        // Absent and empty are the same.
        if str_field(obj, field) != str_field(old, field) {
            errors.push(FieldError::invalid(&path.child(field), str_field(obj, field), IMMUTABLE));
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        errors.extend(validate_immutable(&meta[field], &was[field], &path.child(field)));
    }
    errors.extend(validate_common(meta, path));
    errors.extend(validate_managed_fields(&meta["managedFields"], &path.child("managedFields")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn access() {
        let mut o = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a",
            "labels": {"x": "y"}, "finalizers": ["f"], "ownerReferences": [{"controller": true, "name": "o"}]}});
        assert_eq!((name(&o), namespace(&o), uid(&o)), ("a", "", ""));
        assert_eq!(label(&o, "x"), Some("y"));
        assert_eq!(finalizers(&o), ["f"]);
        assert_eq!(controller_of(&o).unwrap()["name"], "o");
        assert_eq!(gvk(&o).unwrap().to_string(), "apps/v1, Kind=Deployment");
        set_str(&mut o, "namespace", "n");
        set_finalizers(&mut o, &[]);
        set_annotation(&mut o, "k", "v");
        set_at(&mut o, "spec.replicas", json!(3));
        assert_eq!(at(&o, "spec.replicas"), 3);
        assert_eq!(o["metadata"]["namespace"], "n");
        assert!(o["metadata"].get("finalizers").is_none());
        let mut empty = Value::Null;
        set_label(&mut empty, "a", "b");
        assert_eq!(empty, json!({"metadata": {"labels": {"a": "b"}}}));
    }

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn create_errors() {
        let check = |v: Value, ns: bool| {
            texts(validate_object_meta(&v, ns, &names::name_is_dns_label, &Path::new("metadata")))
        };
        assert_eq!(
            check(json!({"metadata": {}}), true),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        assert_eq!(
            check(json!({"metadata": {"name": "a", "namespace": "b"}}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let two = json!({"metadata": {"name": "a", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1", "controller": true},
            {"apiVersion": "v1", "kind": "Pod", "name": "y", "uid": "2", "controller": true}]}});
        assert!(check(two, false)[0].ends_with("in references for Pod/x and Pod/y"));
        assert_eq!(
            check(json!({"metadata": {"name": "a", "annotations": {"k": "v".repeat(300_000)}}}), false),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn update_errors() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "resourceVersion": "1", "finalizers": ["a/b"],
            "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(
            texts(validate_object_meta_update(&new, &old, &Path::new("metadata"))),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a/b\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable"
            ]
        );
    }
}
