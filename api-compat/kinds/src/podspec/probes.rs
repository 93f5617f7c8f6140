//! Validation of probes and lifecycle hooks.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::scene::given;
use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// A probe or `lifecycle`, by its field name.
pub(super) fn validate(errors: &mut Errors, key: &str, value: &Value, grace: Option<i64>, path: &Path) {
    if key == "lifecycle" {
        for hook in ["postStart", "preStop"] {
            if let Some(h) = given(value, hook) {
                handler(errors, h, &["exec", "httpGet", "tcpSocket", "sleep"], grace, &path.child(hook));
            }
        }
        return;
    }
    handler(errors, value, &["exec", "httpGet", "tcpSocket", "grpc"], grace, path);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::non_negative(errors, int(value, &format!("/{field}")), &path.child(field));
    }
    let own = int(value, "/terminationGracePeriodSeconds");
    let at = path.child("terminationGracePeriodSeconds");
    if let Some(g) = own.filter(|g| *g <= 0) {
        errors.push(FieldError::invalid(&at, g, "must be greater than 0"));
    }
    if key == "readinessProbe" {
        if let Some(g) = own {
            errors.push(FieldError::invalid(&at, g, "must not be set for readinessProbes"));
        }
    } else if let Some(n) = int(value, "/successThreshold").filter(|n| *n != 1) {
        errors.push(FieldError::invalid(&path.child("successThreshold"), n, "must be 1"));
    }
}

fn handler(errors: &mut Errors, value: &Value, kinds: &[&str], grace: Option<i64>, path: &Path) {
    let mut count = 0;
    for kind in kinds {
        let Some(h) = given(value, kind) else { continue };
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
                let seconds = int(h, "/seconds").unwrap_or(0);
                if let Some(g) = grace.filter(|g| seconds < 0 || seconds > *g) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({g})");
                    errors.push(FieldError::invalid(&at, seconds, detail));
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
    let scheme = text(h, "/scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in list(h, "/httpHeaders") {
        let name = text(header, "/name");
        let messages = names::is_http_header_name(name);
        check::names(errors, messages, name.into(), &path.child("httpHeaders"));
    }
}
