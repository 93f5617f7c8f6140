//! Checks that several kinds share.

use knarr_machinery::labels as selector;
use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::value::is_empty;

/// The list of errors that checks add to.
pub(crate) type Errors = Vec<FieldError>;

/// Turns messages about a value into errors.
pub(crate) fn names(errors: &mut Errors, messages: Vec<String>, value: Value, path: &Path) {
    errors.extend(messages.into_iter().map(|m| FieldError::invalid(path, value.clone(), m)));
}

/// A number that may not be below zero.
pub(crate) fn non_negative(errors: &mut Errors, value: Option<i64>, path: &Path) {
    if let Some(n) = value.filter(|n| *n < 0) {
        errors.push(FieldError::invalid(path, n, "must be greater than or equal to 0"));
    }
}

/// A number that must be above zero.
pub(crate) fn positive(errors: &mut Errors, value: Option<i64>, path: &Path) {
    if let Some(n) = value.filter(|n| *n <= 0) {
        errors.push(FieldError::invalid(path, n, "must be greater than 0"));
    }
}

/// A field that may not change. Absent, null and empty are the same.
pub(crate) fn immutable(errors: &mut Errors, new: Option<&Value>, old: Option<&Value>, path: &Path) {
    if !same(new, old) {
        errors.push(FieldError::invalid(path, new.cloned().unwrap_or_default(), "field is immutable"));
    }
}

/// Equality where absent, null and empty are the same, at every depth.
pub(crate) fn same(new: Option<&Value>, old: Option<&Value>) -> bool {
    if is_empty(new) && is_empty(old) {
        return true;
    }
    match (new, old) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same(Some(v), b.get(k)))
                && b.iter().all(|(k, v)| a.contains_key(k) || is_empty(Some(v)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same(Some(x), Some(y)))
        }
        _ => new == old,
    }
}

/// A string of an enumeration; absent is an error only when `required` says so in words.
pub(crate) fn one_of(errors: &mut Errors, value: &str, path: &Path, valid: &[&str], required: Option<&str>) {
    if value.is_empty() {
        if let Some(detail) = required {
            errors.push(FieldError::required(path, detail));
        }
    } else if !valid.contains(&value) {
        errors.push(FieldError::not_supported(path, value, valid));
    }
}

/// A LabelSelector document.
pub(crate) fn label_selector(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    if let Some(v) = value.filter(|v| !v.is_null()) {
        errors.extend(selector::validate_label_selector(v, path));
    }
}

/// A label map.
pub(crate) fn labels(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    if let Some(map) = value.and_then(Value::as_object) {
        errors.extend(selector::validate_labels(map, path));
    }
}

/// A port number.
pub(crate) fn port(errors: &mut Errors, value: i64, path: &Path) {
    names(errors, names::is_valid_port_num(value), value.into(), path);
}

/// A port number or a port name.
pub(crate) fn port_or_name(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    match value {
        Some(Value::String(s)) => names(errors, names::is_valid_port_name(s), s.as_str().into(), path),
        Some(v) => port(errors, v.as_i64().unwrap_or(0), path),
        None => port(errors, 0, path),
    }
}

/// A DNS label.
pub(crate) fn dns_label(errors: &mut Errors, value: &str, path: &Path) {
    names(errors, names::is_dns1123_label(value), value.into(), path);
}

/// A DNS subdomain.
pub(crate) fn dns_subdomain(errors: &mut Errors, value: &str, path: &Path) {
    names(errors, names::is_dns1123_subdomain(value), value.into(), path);
}

/// A qualified name such as a label key.
pub(crate) fn qualified_name(errors: &mut Errors, value: &str, path: &Path) {
    names(errors, names::is_qualified_name(value), value.into(), path);
}

/// A transport protocol.
pub(crate) fn protocol(errors: &mut Errors, value: &str, path: &Path) {
    one_of(errors, value, path, &["SCTP", "TCP", "UDP"], Some(""));
}
