//! The `resize` subresource: cpu and memory of running containers.

use knarr_machinery::{FieldError, Path};
use serde_json::{Map, Value};

use super::{is_mirror, validate_pod};
use crate::check::{self, Errors};
use crate::value::{drop_key, list, map, text};

/// A resize writes only resources and resize policies. Containers that were renamed or counted differently stay as
/// they came, for validation to refuse.
pub(crate) fn keep_all_but_resources(obj: &mut Value, old: &Value) {
    let names = |v: &Value, key: &str| -> Vec<String> {
        list(v, &format!("/spec/{key}")).iter().map(|c| text(c, "/name").to_string()).collect()
    };
    let lists = ["containers", "initContainers"];
    if lists.iter().any(|key| names(obj, key).len() != names(old, key).len()) {
        return;
    }
    let mut spec = old.get("spec").cloned().unwrap_or_default();
    let take = |from: &Value, to: &mut Value, key: &str| match from.get(key) {
        Some(v) => to[key] = v.clone(),
        None => drop_key(to, key),
    };
    for key in lists {
        let given = list(obj, &format!("/spec/{key}"));
        if names(obj, key) != names(old, key) {
            spec[key] = given.to_vec().into();
            continue;
        }
        for (to, from) in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(given) {
            take(from, to, "resources");
            take(from, to, "resizePolicy");
        }
    }
    if let Some(from) = obj.get("spec") {
        take(from, &mut spec, "resources");
    }
    obj["spec"] = spec;
}

/// Update of `resize`: only cpu and memory, none removed, and the quality-of-service class stays.
pub(crate) fn validate_resize_update(obj: &Value, old: &Value) -> Errors {
    let refuse = |detail: &str| vec![FieldError::forbidden(&Path::new(""), detail)];
    if is_mirror(old) {
        return refuse("static pods cannot be resized");
    }
    if text(old, "/spec/os/name") == "windows" {
        return refuse("windows pods cannot be resized");
    }
    let mut errors = validate_pod(obj, Some(old));
    let path = Path::new("spec");
    let (new, before) = (obj.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
    if super::qos_class(new) != super::qos_class(before) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, text(old, "/status/qosClass"), detail));
    }
    // A node that can resize reports the resources of its running containers.
    let running = list(old, "/status/containerStatuses")
        .iter()
        .find(|s| s.pointer("/state/running").is_some_and(|r| !r.is_null()));
    if running.is_some_and(|s| s.get("resources").is_none_or(Value::is_null)) {
        errors.push(FieldError::forbidden(&path, "Pod running on node without support for resize"));
    }
    removed(&mut errors, new, before, &path.child("resources"));
    for key in ["initContainers", "containers"] {
        let pointer = format!("/{key}");
        let (now, was) = (list(new, &pointer), list(before, &pointer));
        if now.len() != was.len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&path.child(key), detail));
            continue;
        }
        for (i, (n, w)) in now.iter().zip(was).enumerate() {
            container(&mut errors, n, w, key == "containers", &path, &path.child(key).index(i));
        }
    }
    errors
}

fn container(errors: &mut Errors, new: &Value, old: &Value, app: bool, spec: &Path, path: &Path) {
    let sidecar = !app && text(old, "/restartPolicy") == "Always";
    if app || sidecar {
        removed(errors, new, old, &path.child("resources"));
    }
    let mut munged = new.clone();
    if app || sidecar {
        for key in ["limits", "requests"] {
            keep_compute(&mut munged, old, key);
        }
    }
    if !check::same(Some(&munged), Some(old)) {
        let detail = if app {
            "only cpu and memory resources are mutable"
        } else if sidecar {
            "only cpu and memory resources for sidecar containers are mutable"
        } else {
            "resources for non-sidecar init containers are immutable"
        };
        errors.push(FieldError::forbidden(spec, detail));
    }
}

/// Requests and limits that were there stay there.
fn removed(errors: &mut Errors, new: &Value, old: &Value, path: &Path) {
    for key in ["requests", "limits"] {
        let pointer = format!("/resources/{key}");
        let (now, was) = (map(new, &pointer), map(old, &pointer));
        if was.into_iter().flatten().any(|(k, _)| now.is_none_or(|n| !n.contains_key(k))) {
            let detail = format!("resource {key} cannot be removed");
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    }
}

/// Makes cpu and memory what they were.
fn keep_compute(c: &mut Value, old: &Value, key: &str) {
    let pointer = format!("/resources/{key}");
    let Some(was) = map(old, &pointer) else {
        if let Some(resources) = c.get_mut("resources") {
            drop_key(resources, key);
        }
        return;
    };
    let mut now: Map<String, Value> = map(c, &pointer).cloned().unwrap_or_default();
    for resource in ["cpu", "memory"] {
        now.remove(resource);
        if let Some(v) = was.get(resource) {
            now.insert(resource.to_string(), v.clone());
        }
    }
    crate::value::sub(c, "resources")[key] = Value::Object(now);
}
