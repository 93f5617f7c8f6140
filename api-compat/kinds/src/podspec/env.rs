//! Validation of environment variables and their sources.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::text;

/// The list `env`.
pub(super) fn validate(errors: &mut Errors, env: &[Value], path: &Path) {
    for (i, var) in env.iter().enumerate() {
        let at = path.index(i);
        let given = text(var, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            check::names(errors, names::is_relaxed_env_var_name(given), given.into(), &at.child("name"));
        }
        if let Some(source) = var.get("valueFrom").filter(|v| !v.is_null()) {
            validate_source(errors, source, text(var, "/value"), &at.child("valueFrom"));
        }
    }
}

fn validate_source(errors: &mut Errors, source: &Value, value: &str, path: &Path) {
    let mut count = 0;
    let given = |key: &str| source.get(key).filter(|v| !v.is_null());
    if let Some(f) = given("fieldRef") {
        count += 1;
        validate_field_ref(errors, f, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(r) = given("resourceFieldRef") {
        count += 1;
        validate_resource_ref(errors, r, &path.child("resourceFieldRef"), false);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(r) = given(key) {
            count += 1;
            let at = path.child(key);
            if text(r, "/name").is_empty() {
                errors.push(FieldError::required(&at.child("name"), ""));
            }
            let entry = text(r, "/key");
            if entry.is_empty() {
                errors.push(FieldError::required(&at.child("key"), ""));
            } else {
                check::names(errors, names::is_config_map_key(entry), entry.into(), &at.child("key"));
            }
        }
    }
    if let Some(f) = given("fileKeyRef") {
        count += 1;
        for key in ["volumeName", "path", "key"] {
            if text(f, &format!("/{key}")).is_empty() {
                errors.push(FieldError::required(&path.child("fileKeyRef").child(key), ""));
            }
        }
    }
    if count == 0 {
        errors.push(FieldError::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if !value.is_empty() {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if count > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

/// Fields that environment variables may take.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that downward API volumes may take.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// A reference to a field of the pod.
pub(super) fn validate_field_ref(errors: &mut Errors, field: &Value, allowed: &[&str], path: &Path) {
    let (version, given) = (text(field, "/apiVersion"), text(field, "/fieldPath"));
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    if given.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = given.strip_suffix("']").and_then(|g| {
        g.strip_prefix("metadata.labels['").or_else(|| g.strip_prefix("metadata.annotations['"))
    });
    match subscript {
        Some(key) => check::qualified_name(errors, &key.to_lowercase(), &at),
        None if allowed.contains(&given) => {}
        None if version == "v1" && known_path(given) => {
            errors.push(FieldError::not_supported(&at, given, allowed));
        }
        None => errors.push(FieldError::invalid(
            &at,
            given,
            format!("error converting fieldPath: field label not supported: {given}"),
        )),
    }
}

/// Whether the path names a field of pods at all.
fn known_path(path: &str) -> bool {
    matches!(
        path,
        "metadata.annotations"
            | "metadata.labels"
            | "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "spec.nodeName"
            | "spec.restartPolicy"
            | "spec.serviceAccountName"
            | "spec.schedulerName"
            | "spec.hostNetwork"
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
            | "status.nominatedNodeName"
    )
}

/// A reference to a resource of a container.
pub(super) fn validate_resource_ref(errors: &mut Errors, field: &Value, path: &Path, volume: bool) {
    if volume && text(field, "/containerName").is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    }
    let resource = text(field, "/resource");
    let all = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !all.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &all));
    }
}

/// The list `envFrom`.
pub(super) fn validate_from(errors: &mut Errors, sources: &[Value], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = text(source, "/prefix");
        if !prefix.is_empty() {
            check::names(errors, names::is_relaxed_env_var_name(prefix), prefix.into(), &at.child("prefix"));
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if let Some(r) = source.get(key).filter(|r| !r.is_null()) {
                count += 1;
                if text(r, "/name").is_empty() {
                    errors.push(FieldError::required(&at.child(key).child("name"), ""));
                }
            }
        }
        match count {
            0 => errors.push(FieldError::invalid(
                path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => errors.push(FieldError::invalid(
                path,
                "",
                "may not have more than one field specified at a time",
            )),
        }
    }
}
