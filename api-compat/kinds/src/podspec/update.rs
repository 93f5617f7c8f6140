//! What an update of a pod may change.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{int, list, map, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Update of the main resource: images, deadline, tolerations, gates.
pub(crate) fn validate_pod_update(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    for key in ["containers", "initContainers"] {
        let at = spec.child(key);
        let pointer = format!("/spec/{key}");
        let (new, before) = (list(obj, &pointer), list(old, &pointer));
        if new.len() != before.len() {
            errors.push(FieldError::forbidden(&at, "pod updates may not add or remove containers"));
            return errors;
        }
        for (i, c) in new.iter().enumerate() {
            let image = text(c, "/image");
            if image.is_empty() {
                errors.push(FieldError::required(&at.index(i).child("image"), ""));
            } else if image.trim() != image {
                errors.push(FieldError::invalid(
                    &at.index(i).child("image"),
                    image,
                    "must not have leading or trailing whitespace",
                ));
            }
        }
    }
    deadline(&mut errors, obj, old, &spec.child("activeDeadlineSeconds"));
    let gated = !list(old, "/spec/schedulingGates").is_empty();
    gates(&mut errors, obj, old, &spec.child("schedulingGates"));
    tolerations(&mut errors, obj, old, &spec.child("tolerations"));
    if !errors.is_empty() {
        return errors;
    }
    let mut munged = obj.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    munge(&mut munged, &before, gated);
    let mut changed = Vec::new();
    difference(&munged, &before, "", &mut changed);
    if !changed.is_empty() {
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}", changed.join("\n"));
        errors.push(FieldError::forbidden(&spec, detail));
    }
    errors
}

fn deadline(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let (new, before) = (int(obj, "/spec/activeDeadlineSeconds"), int(old, "/spec/activeDeadlineSeconds"));
    match (new, before) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(FieldError::invalid(path, n, "must be between 0 and 2147483647, inclusive"));
        }
        (Some(n), Some(b)) if n > b => {
            errors.push(FieldError::invalid(path, n, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => errors.push(FieldError::invalid(
            path,
            Value::Null,
            "must not update from a positive integer to nil value",
        )),
        _ => {}
    }
}

fn gates(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let before: Vec<&str> = list(old, "/spec/schedulingGates").iter().map(|g| text(g, "/name")).collect();
    for (i, gate) in list(obj, "/spec/schedulingGates").iter().enumerate() {
        let given = text(gate, "/name");
        if !before.contains(&given) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{given}'");
            errors.push(FieldError::forbidden(&path.index(i), detail));
        }
    }
}

fn tolerations(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        if let Some(m) = t.as_object_mut() {
            m.remove("tolerationSeconds");
        }
        t
    };
    let new = list(obj, "/spec/tolerations");
    for before in list(old, "/spec/tolerations") {
        if !new.iter().any(|t| check::same(Some(&bare(t)), Some(&bare(before)))) {
            errors.push(FieldError::forbidden(
                path,
                "existing toleration can not be modified except its tolerationSeconds",
            ));
            return;
        }
    }
    if new != list(old, "/spec/tolerations") {
        errors.extend(super::validate_tolerations(new, path));
    }
}

/// Makes what may change equal to what was.
fn munge(spec: &mut Value, before: &Value, gated: bool) {
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> =
            list(before, &format!("/{key}")).iter().map(|c| c["image"].clone()).collect();
        for (c, image) in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(images) {
            c["image"] = image;
        }
    }
    let mut take = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if int(before, "/terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(spec, "/terminationGracePeriodSeconds") == Some(1)
    {
        take.push("terminationGracePeriodSeconds");
    }
    if gated {
        let (new, old) = (map(spec, "/nodeSelector"), map(before, "/nodeSelector"));
        let kept = old.into_iter().flatten().all(|(k, v)| new.and_then(|n| n.get(k)) == Some(v));
        if kept {
            take.push("nodeSelector");
        }
        if before.pointer("/affinity/nodeAffinity").is_none_or(Value::is_null) {
            take.push("affinity");
        }
    }
    for key in take {
        crate::ruleset::keep(spec, before, key);
    }
}

/// Paths at which two documents differ.
fn difference(new: &Value, old: &Value, path: &str, out: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for k in keys {
                let (x, y) = (a.get(k), b.get(k));
                if !check::same(x, y) {
                    let at = if path.is_empty() { k.to_string() } else { format!("{path}.{k}") };
                    difference(x.unwrap_or(&Value::Null), y.unwrap_or(&Value::Null), &at, out);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                difference(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ if !check::same(Some(new), Some(old)) => out.push(format!("- {path}: {old}\n+ {path}: {new}")),
        _ => {}
    }
}

/// Update of `ephemeralcontainers`: containers may only be added.
pub(crate) fn validate_ephemeral_update(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("ephemeralContainers");
    let new = list(obj, "/spec/ephemeralContainers");
    for before in list(old, "/spec/ephemeralContainers") {
        let given = text(before, "/name");
        match new.iter().find(|c| text(c, "/name") == given) {
            None => errors.push(FieldError::forbidden(
                &path,
                format!("existing ephemeral containers {given:?} may not be removed\n"),
            )),
            Some(c) if !check::same(Some(c), Some(before)) => {
                errors.push(FieldError::forbidden(
                    &path,
                    format!("existing ephemeral containers {given:?} may not be changed\n"),
                ));
            }
            Some(_) => {}
        }
    }
    errors
}

/// Update of `resize`: only cpu and memory of containers, and the quality-of-service class stays.
pub(crate) fn validate_resize_update(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let mut munged = obj.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    for key in ["containers", "initContainers"] {
        let resources: Vec<Option<Value>> =
            list(&before, &format!("/{key}")).iter().map(|c| c.get("resources").cloned()).collect();
        let items = munged.get_mut(key).and_then(Value::as_array_mut);
        for (c, r) in items.into_iter().flatten().zip(resources) {
            c["resources"] = r.unwrap_or_default();
        }
    }
    let mut changed = Vec::new();
    difference(&munged, &before, "", &mut changed);
    if !changed.is_empty() {
        errors.push(FieldError::forbidden(
            &spec,
            format!("only cpu and memory resources are mutable\n{}", changed.join("\n")),
        ));
    }
    let (new, was) = (super::qos_class(&obj["spec"]), super::qos_class(&before));
    if new != was {
        errors.push(FieldError::invalid(&spec, new, "Pod QOS Class may not change as a result of resizing"));
    }
    errors
}
