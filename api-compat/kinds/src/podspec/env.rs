//! Validation of environment variables and their sources.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::mounts::{needed, object_name, unreserved_path};
use super::scene::{Scene, given};
use crate::check::{self, Errors};
use crate::value::text;

/// The list `env`.
pub(super) fn validate(errors: &mut Errors, env: &[Value], scene: &Scene<'_>, path: &Path) {
    for (i, var) in env.iter().enumerate() {
        let at = path.index(i);
        let name = text(var, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            check::names(errors, names::is_relaxed_env_var_name(name), name.into(), &at.child("name"));
        }
        if let Some(source) = given(var, "valueFrom") {
            validate_source(errors, source, text(var, "/value"), scene, &at.child("valueFrom"));
        }
    }
}

fn validate_source(errors: &mut Errors, source: &Value, value: &str, scene: &Scene<'_>, path: &Path) {
    let mut count = 0;
    if let Some(f) = given(source, "fieldRef") {
        count += 1;
        validate_field_ref(errors, f, ENV_FIELDS, &path.child("fieldRef"));
    }
    if let Some(r) = given(source, "resourceFieldRef") {
        count += 1;
        validate_resource_ref(errors, r, &path.child("resourceFieldRef"), false);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let Some(r) = given(source, key) else { continue };
        count += 1;
        let at = path.child(key);
        object_name(errors, r, &at);
        let entry = text(r, "/key");
        if entry.is_empty() {
            errors.push(FieldError::required(&at.child("key"), ""));
        } else {
            check::names(errors, names::is_config_map_key(entry), entry.into(), &at.child("key"));
        }
    }
    if let Some(f) = given(source, "fileKeyRef") {
        count += 1;
        validate_file_ref(errors, f, scene, &path.child("fileKeyRef"));
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

/// A variable from a file in an emptyDir volume.
fn validate_file_ref(errors: &mut Errors, file: &Value, scene: &Scene<'_>, path: &Path) {
    let key = text(file, "/key");
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        check::names(errors, names::is_relaxed_env_var_name(key), key.into(), &path.child("key"));
    }
    let volume = text(file, "/volumeName");
    if volume.is_empty() {
        errors.push(FieldError::required(&path.child("volumeName"), ""));
    } else if !scene.volumes.contains_key(volume) {
        errors.push(FieldError::not_found(&path.child("volumeName"), volume));
    } else if scene.volumes.get(volume).is_some_and(|v| given(v, "emptyDir").is_none()) {
        let detail = "referenced volume must be of type emptyDir";
        errors.push(FieldError::invalid(&path.child("volumeName"), volume, detail));
    }
    needed(errors, file, "path", path);
    unreserved_path(errors, text(file, "/path"), &path.child("path"));
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
    let (version, label) = (text(field, "/apiVersion"), text(field, "/fieldPath"));
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let at = path.child("fieldPath");
    if label.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    let subscript = label.strip_suffix("']").and_then(|l| l.split_once("['")).filter(|(p, _)| !p.is_empty());
    let problem = match subscript {
        _ if version != "v1" => format!("unsupported pod version: {version}"),
        Some(("metadata.annotations", key)) => {
            return check::qualified_name(errors, &key.to_lowercase(), path);
        }
        Some(("metadata.labels", key)) => return check::qualified_name(errors, key, path),
        Some(_) => format!("field label does not support subscript: {label}"),
        None if label == "spec.host" || known_path(label) => {
            let label = if label == "spec.host" { "spec.nodeName" } else { label };
            if !allowed.contains(&label) {
                errors.push(FieldError::not_supported(&at, label, allowed));
            }
            return;
        }
        None => format!("field label not supported: {label}"),
    };
    errors.push(FieldError::invalid(&at, label, format!("error converting fieldPath: {problem}")));
}

/// Whether the downward API knows the path at all.
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
            | "status.phase"
            | "status.hostIP"
            | "status.hostIPs"
            | "status.podIP"
            | "status.podIPs"
    )
}

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A reference to a resource of a container.
pub(super) fn validate_resource_ref(errors: &mut Errors, field: &Value, path: &Path, volume: bool) {
    let resource = text(field, "/resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if volume && text(field, "/containerName").is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
    let Some(divisor) = given(field, "divisor").and_then(|d| Quantity::from_json(d).ok()) else { return };
    if divisor.is_zero() {
        return;
    }
    let at = path.child("divisor");
    let divisor = divisor.to_string();
    if matches!(resource, "limits.cpu" | "requests.cpu") {
        if !matches!(divisor.as_str(), "1" | "1m") {
            let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
            errors.push(FieldError::invalid(&at, resource, detail));
        }
        return;
    }
    const SIZES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let what = match resource {
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if huge => "hugepages",
        _ => return,
    };
    if !SIZES.contains(&divisor.as_str()) {
        let detail =
            format!("only divisor's values {} are supported with the {what} resource", SIZES.join(", "));
        errors.push(FieldError::invalid(&at, resource, detail));
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
            let Some(r) = given(source, key) else { continue };
            count += 1;
            let (name, here) = (text(r, "/name"), at.child(key).child("name"));
            if name.is_empty() {
                errors.push(FieldError::required(&here, ""));
            } else {
                check::names(errors, names::name_is_dns_subdomain(name, true), name.into(), &here);
            }
        }
        let detail = match count {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(path, "", detail));
    }
}
