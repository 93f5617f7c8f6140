//! Checks that the device kinds share.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// A taint of devices.
pub(super) fn taint(errors: &mut Errors, taint: &Value, path: &Path) {
    let (key, value) = (text(taint, "/key"), text(taint, "/value"));
    check::qualified_name(errors, key, &path.child("key"));
    check::names(errors, names::is_label_value(value), value.into(), &path.child("value"));
    let effects = ["NoExecute", "NoSchedule", "None"];
    check::one_of(errors, text(taint, "/effect"), &path.child("effect"), &effects, Some(""));
}

/// The spec of a claim, also in templates.
pub(super) fn claim_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    let at = path.child("devices").child("requests");
    let requests = list(spec, "/devices/requests");
    if requests.len() > 32 {
        errors.push(FieldError::too_many(&at, requests.len(), 32));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let here = at.index(i);
        let given = text(request, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&here.child("name"), ""));
        } else {
            check::dns_label(errors, given, &here.child("name"));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&here.child("name"), given));
        }
        seen.push(given);
        let alternatives = list(request, "/firstAvailable");
        match request.get("exactly").filter(|e| !e.is_null()) {
            Some(_) if !alternatives.is_empty() => errors.push(FieldError::invalid(
                &here,
                request.clone(),
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            )),
            Some(exactly) => exact(errors, exactly, &here.child("exactly")),
            None if alternatives.is_empty() => {
                let detail = "exactly one of `exactly` or `firstAvailable` is required";
                errors.push(FieldError::required(&here, detail));
            }
            None => {
                if alternatives.len() > 8 {
                    errors.push(FieldError::too_many(&here.child("firstAvailable"), alternatives.len(), 8));
                }
                for (j, a) in alternatives.iter().enumerate() {
                    exact(errors, a, &here.child("firstAvailable").index(j));
                }
            }
        }
    }
}

fn exact(errors: &mut Errors, request: &Value, path: &Path) {
    let class = text(request, "/deviceClassName");
    if class.is_empty() {
        errors.push(FieldError::required(&path.child("deviceClassName"), ""));
    } else {
        check::dns_subdomain(errors, class, &path.child("deviceClassName"));
    }
    let count = int(request, "/count").unwrap_or(0);
    match text(request, "/allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&path.child("count"), count, detail));
        }
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(&path.child("count"), count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => {
            let at = path.child("allocationMode");
            errors.push(FieldError::not_supported(&at, other, &["All", "ExactCount"]));
        }
    }
}

/// The spec of a slice.
pub(super) fn slice_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    let driver = text(spec, "/driver");
    if driver.is_empty() {
        errors.push(FieldError::required(&path.child("driver"), ""));
    } else {
        check::dns_subdomain(errors, driver, &path.child("driver"));
    }
    let pool = path.child("pool");
    if text(spec, "/pool/name").is_empty() {
        errors.push(FieldError::required(&pool.child("name"), ""));
    }
    if let Some(n) = int(spec, "/pool/resourceSliceCount").or(Some(0)).filter(|n| *n <= 0) {
        errors.push(FieldError::invalid(&pool.child("resourceSliceCount"), n, "must be greater than zero"));
    }
    check::non_negative(errors, int(spec, "/pool/generation"), &pool.child("generation"));
    let ways = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let chosen =
        ways.iter().filter(|k| spec.get(**k).is_some_and(|v| !v.is_null() && v != false && v != "")).count();
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match chosen {
        0 => errors.push(FieldError::required(path, detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, spec.clone(), detail)),
    }
    let devices = list(spec, "/devices");
    if devices.len() > 128 {
        errors.push(FieldError::too_many(&path.child("devices"), devices.len(), 128));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, device) in devices.iter().enumerate() {
        let here = path.child("devices").index(i);
        let given = text(device, "/name");
        check::dns_label(errors, given, &here.child("name"));
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&here.child("name"), given));
        }
        seen.push(given);
        for (j, t) in list(device, "/taints").iter().enumerate() {
            taint(errors, t, &here.child("taints").index(j));
        }
    }
}
