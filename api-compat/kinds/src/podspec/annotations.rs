//! Annotations of pods that mean something: mirror pods, deletion cost, seccomp and AppArmor of old.

use knarr_machinery::{FieldError, Path};
use serde_json::{Map, Value};

use super::mounts::local_path;
use super::scene::{containers, given};
use crate::check::Errors;
use crate::value::{map, text};

/// Set by kubelets on the API object of a static pod.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn annotations(meta: &Value) -> impl Iterator<Item = (&String, &str)> {
    map(meta, "/annotations").into_iter().flatten().map(|(k, v)| (k, v.as_str().unwrap_or_default()))
}

/// The values of the annotations of a pod or template.
pub(super) fn validate(errors: &mut Errors, meta: &Value, spec: &Value, old: Option<&Value>, path: &Path) {
    for (key, value) in annotations(meta) {
        if key == MIRROR && text(spec, "/nodeName").is_empty() {
            let detail = "must set spec.nodeName if mirror pod annotation is set";
            errors.push(FieldError::invalid(&path.key(key), value, detail));
        } else if key == DELETION_COST && !is_cost(value) {
            let before = old.and_then(|o| map(o, "/annotations")?.get(DELETION_COST)?.as_str());
            if before.is_none_or(is_cost) {
                errors.push(FieldError::invalid(&path.key(key), value, "must be a 32bit integer"));
            }
        } else if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            seccomp(errors, value, &path.child(key));
        } else if let Some(container) = key.strip_prefix(APP_ARMOR) {
            if !containers(spec).any(|(_, _, c)| text(c, "/name") == container) {
                errors.push(FieldError::invalid(&path.key(key), container, "container not found"));
            }
            if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
                let detail = format!("invalid AppArmor profile name: {value:?}");
                errors.push(FieldError::invalid(&path.key(key), value, detail));
            }
        }
    }
}

/// A 32-bit number in its shortest spelling.
fn is_cost(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let leading = digits.starts_with(|c: char| ('1'..='9').contains(&c)) || value == "0";
    leading && value.parse::<i32>().is_ok()
}

fn seccomp(errors: &mut Errors, profile: &str, path: &Path) {
    match profile.strip_prefix("localhost/") {
        Some(file) => local_path(errors, file, path),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errors.push(FieldError::invalid(path, profile, "must be a valid seccomp profile")),
    }
}

/// Annotations that an update may neither add, change nor remove.
pub(super) fn validate_change(errors: &mut Errors, meta: &Value, old: &Value, path: &Path) {
    let empty = Map::new();
    let (new, before) =
        (map(meta, "/annotations").unwrap_or(&empty), map(old, "/annotations").unwrap_or(&empty));
    let mut refuse = |key: &str, verb: &str| {
        let what = if key.starts_with(APP_ARMOR) { "AppArmor annotations" } else { "mirror pod annotation" };
        if key.starts_with(APP_ARMOR) || key == MIRROR {
            errors.push(FieldError::forbidden(&path.key(key), format!("may not {verb} {what}")));
        }
    };
    for key in before.iter().filter(|(k, v)| new.get(*k) != Some(v)).map(|(k, _)| k) {
        refuse(key, "remove or update");
    }
    for key in new.keys().filter(|k| !before.contains_key(*k)) {
        refuse(key, "add");
    }
}

/// A profile given both as field and as annotation is the same in both.
pub(super) fn validate_agreement(errors: &mut Errors, meta: &Value, spec: &Value, path: &Path) {
    let annotation = |key: &str| map(meta, "/annotations").and_then(|a| a.get(key)).and_then(Value::as_str);
    let context = spec.get("securityContext").unwrap_or(&Value::Null);
    let of_pod = path.child("securityContext");
    if let (Some(field), Some(value)) = (given(context, "seccompProfile"), annotation(SECCOMP_POD)) {
        agree(errors, field, value, "seccomp", &of_pod.child("seccompProfile"));
    }
    let windows = text(spec, "/os/name") == "windows";
    for (key, i, c) in containers(spec) {
        let own = c.get("securityContext").unwrap_or(&Value::Null);
        let at = path.child(key).index(i).child("securityContext");
        let name = text(c, "/name");
        let seccomp = annotation(&format!("{SECCOMP_CONTAINER}{name}"));
        if let (Some(field), Some(value)) = (given(own, "seccompProfile"), seccomp) {
            agree(errors, field, value, "seccomp", &at.child("seccompProfile"));
        }
        let profile = given(own, "appArmorProfile").or_else(|| given(context, "appArmorProfile"));
        if let (Some(field), Some(value), false) =
            (profile, annotation(&format!("{APP_ARMOR}{name}")), windows)
        {
            agree(errors, field, value, "apparmor", &at.child("appArmorProfile"));
        }
    }
}

fn agree(errors: &mut Errors, field: &Value, annotation: &str, what: &str, path: &Path) {
    let same = match text(field, "/type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            Some(file) if file == text(field, "/localhostProfile") => true,
            Some(_) => {
                let detail = format!("{what} profile in annotation and field must match");
                errors.push(FieldError::forbidden(&path.child("localhostProfile"), detail));
                true
            }
            None => false,
        },
        _ => true,
    };
    if !same {
        let detail = format!("{what} type in annotation and field must match");
        errors.push(FieldError::forbidden(&path.child("type"), detail));
    }
}
