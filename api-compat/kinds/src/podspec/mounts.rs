//! Validation of volume mounts and block devices of a container.

use std::collections::{BTreeMap, BTreeSet};

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::scene::{Volumes, given};
use crate::check::{self, Errors};
use crate::value::{flag, list, text};

/// `volumeMounts` and `volumeDevices`, which may not overlap.
pub(super) fn validate(errors: &mut Errors, c: &Value, volumes: &Volumes<'_>, path: &Path) {
    let by_name = |list_name: &str, key: &str| -> BTreeMap<&str, &str> {
        list(c, list_name).iter().map(|m| (text(m, "/name"), text(m, key))).collect()
    };
    let mounts = by_name("/volumeMounts", "/mountPath");
    let devices = by_name("/volumeDevices", "/devicePath");
    let privileged = flag(c, "/securityContext/privileged");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let all = path.child("volumeMounts");
    for (i, m) in list(c, "/volumeMounts").iter().enumerate() {
        let at = all.index(i);
        validate_mount(errors, m, volumes, &at);
        if !seen.insert(text(m, "/mountPath")) {
            errors.push(FieldError::invalid(&at.child("mountPath"), text(m, "/mountPath"), "must be unique"));
        }
        overlap(
            errors,
            (text(m, "/name"), text(m, "/mountPath")),
            &devices,
            "volumeDevices",
            "mountPath",
            &at,
        );
        validate_mount_options(errors, m, privileged, &at, &all);
    }
    validate_devices(errors, list(c, "/volumeDevices"), &mounts, volumes, &path.child("volumeDevices"));
}

/// The same volume or path may not be in the other list too.
fn overlap(
    errors: &mut Errors,
    (name, place): (&str, &str),
    others: &BTreeMap<&str, &str>,
    other: &str,
    key: &str,
    path: &Path,
) {
    if others.contains_key(name) {
        let detail = format!("must not already exist in {other}");
        errors.push(FieldError::invalid(&path.child("name"), name, detail));
    }
    if others.values().any(|p| *p == place) {
        let detail = format!("must not already exist as a path in {other}");
        errors.push(FieldError::invalid(&path.child(key), place, detail));
    }
}

fn validate_mount(errors: &mut Errors, m: &Value, volumes: &Volumes<'_>, at: &Path) {
    let name = text(m, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), ""));
    }
    if !volumes.contains_key(name) {
        errors.push(FieldError::not_found(&at.child("name"), name));
    }
    if text(m, "/mountPath").is_empty() {
        errors.push(FieldError::required(&at.child("mountPath"), ""));
    }
}

/// Errors of these options are reported at the list and not at its item, as upstream does.
fn validate_mount_options(errors: &mut Errors, m: &Value, privileged: bool, at: &Path, all: &Path) {
    let (sub, expr) = (text(m, "/subPath"), text(m, "/subPathExpr"));
    if !sub.is_empty() {
        local_path(errors, sub, &all.child("subPath"));
    }
    if !expr.is_empty() {
        if !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&at.child("subPathExpr"), expr, detail));
        }
        local_path(errors, expr, &all.child("subPathExpr"));
    }
    let propagation = text(m, "/mountPropagation");
    let place = all.child("mountPropagation");
    if given(m, "mountPropagation").is_some() {
        let modes = ["Bidirectional", "HostToContainer", "None"];
        if !modes.contains(&propagation) {
            errors.push(FieldError::not_supported(&place, propagation, &modes));
        }
        if propagation == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(&place, detail));
        }
    }
    if given(m, "recursiveReadOnly").is_some() {
        recursive_read_only(errors, m, &all.child("recursiveReadOnly"));
    }
}

fn recursive_read_only(errors: &mut Errors, m: &Value, path: &Path) {
    match text(m, "/recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(m, "/readOnly") {
                errors.push(FieldError::forbidden(path, "may only be specified when readOnly is true"));
            }
            if !matches!(text(m, "/mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
        other => {
            errors.push(FieldError::not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn validate_devices(
    errors: &mut Errors,
    devices: &[Value],
    mounts: &BTreeMap<&str, &str>,
    volumes: &Volumes<'_>,
    path: &Path,
) {
    let (mut names, mut places): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for (i, d) in devices.iter().enumerate() {
        let at = path.index(i);
        let (name, place) = (text(d, "/name"), text(d, "/devicePath"));
        let claim = volumes
            .get(name)
            .map(|v| given(v, "persistentVolumeClaim").or_else(|| given(v, "ephemeral")).is_some());
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        if names.contains(name) {
            errors.push(FieldError::invalid(&at.child("name"), name, "must be unique"));
        }
        match claim {
            None => errors.push(FieldError::not_found(&at.child("name"), name)),
            Some(false) => errors.push(FieldError::invalid(
                &at.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
            Some(true) => {}
        }
        if place.is_empty() {
            errors.push(FieldError::required(&at.child("devicePath"), ""));
        }
        if places.contains(place) {
            errors.push(FieldError::invalid(&at.child("devicePath"), place, "must be unique"));
        }
        if has_backsteps(place) {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(&at.child("devicePath"), place, detail));
        } else {
            places.insert(place);
        }
        overlap(errors, (name, place), mounts, "volumeMounts", "devicePath", &at);
        if !name.is_empty() {
            names.insert(name);
        }
    }
}

fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// No element of the path is `..`.
pub(super) fn no_backsteps(errors: &mut Errors, value: &str, path: &Path) {
    if has_backsteps(value) {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

/// A relative path without `..`.
pub(super) fn local_path(errors: &mut Errors, value: &str, path: &Path) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(errors, value, path);
}

/// A relative path without `..` that does not begin with two dots either.
pub(super) fn unreserved_path(errors: &mut Errors, value: &str, path: &Path) {
    local_path(errors, value, path);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

/// Mode bits of files.
pub(super) fn file_mode(errors: &mut Errors, value: Option<i64>, path: &Path) {
    if let Some(n) = value.filter(|n| !(0..=0o777).contains(n)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, n, detail));
    }
}

/// A field that may not be "".
pub(super) fn needed(errors: &mut Errors, obj: &Value, key: &str, path: &Path) {
    if crate::value::is_empty(obj.get(key)) {
        errors.push(FieldError::required(&path.child(key), ""));
    }
}

/// A name of an object that is a DNS subdomain, "" included in what is wrong.
pub(super) fn object_name(errors: &mut Errors, obj: &Value, path: &Path) {
    check::dns_subdomain(errors, text(obj, "/name"), &path.child("name"));
}
