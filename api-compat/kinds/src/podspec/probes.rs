//! Validation of probes and lifecycle hooks.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// A probe or `lifecycle`, by its field name.
pub(super) fn validate(errors: &mut Errors, key: &str, value: &Value, path: &Path) {
    if key == "lifecycle" {
        for hook in ["postStart", "preStop"] {
            if let Some(h) = value.get(hook).filter(|h| !h.is_null()) {
                handler(errors, h, &["exec", "httpGet", "tcpSocket", "sleep"], &path.child(hook));
            }
        }
        return;
    }
    handler(errors, value, &["exec", "httpGet", "tcpSocket", "grpc"], path);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::non_negative(errors, int(value, &format!("/{field}")), &path.child(field));
    }
    let grace = int(value, "/terminationGracePeriodSeconds");
    if key == "readinessProbe" {
        if let Some(g) = grace {
            errors.push(FieldError::invalid(
                &path.child("terminationGracePeriodSeconds"),
                g,
                "must not be set for readinessProbes",
            ));
        }
    } else {
        if let Some(g) = grace.filter(|g| *g <= 0) {
            errors.push(FieldError::invalid(
                &path.child("terminationGracePeriodSeconds"),
                g,
                "must be greater than 0",
            ));
        }
        if let Some(n) = int(value, "/successThreshold").filter(|n| *n != 1) {
            errors.push(FieldError::invalid(&path.child("successThreshold"), n, "must be 1"));
        }
    }
}

fn handler(errors: &mut Errors, value: &Value, kinds: &[&str], path: &Path) {
    let mut count = 0;
    for kind in kinds {
        let Some(h) = value.get(*kind).filter(|h| !h.is_null()) else { continue };
        let at = path.child(kind);
        if count > 0 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        count += 1;
        match *kind {
            "exec" => {
                if list(h, "/command").is_empty() {
                    errors.push(FieldError::required(&at.child("command"), ""));
                }
            }
            "httpGet" => http_get(errors, h, &at),
            "tcpSocket" => check::port_or_name(errors, h.get("port"), &at.child("port")),
            "grpc" => check::port(errors, int(h, "/port").unwrap_or(0), &at.child("port")),
            _ => {
                if let Some(s) = int(h, "/seconds").filter(|s| *s < 0) {
                    errors.push(FieldError::invalid(&at, s, "must be greater than or equal to 0"));
                }
            }
        }
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(errors: &mut Errors, h: &Value, path: &Path) {
    if text(h, "/path").is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    check::port_or_name(errors, h.get("port"), &path.child("port"));
    check::one_of(errors, text(h, "/scheme"), &path.child("scheme"), &["HTTP", "HTTPS"], Some(""));
    for (i, header) in list(h, "/httpHeaders").iter().enumerate() {
        let given = text(header, "/name");
        check::names(
            errors,
            names::is_http_header_name(given),
            given.into(),
            &path.child("httpHeaders").index(i),
        );
    }
}
