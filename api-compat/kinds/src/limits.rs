//! Defaults and validation of LimitRange items.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::kind::Ctx;
use crate::podspec::canonical_quantities;
use crate::value::{each, fill, list, map, sub, text};

/// For containers: default falls back to max, defaultRequest to default, then to min.
pub(crate) fn default(obj: &mut Value) {
    each(obj, "/spec/limits", |item| {
        for key in ["/max", "/min", "/default", "/defaultRequest", "/maxLimitRequestRatio"] {
            canonical_quantities(item, key);
        }
        if text(item, "/type") != "Container" {
            return;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(source) = map(item, &format!("/{from}")).filter(|m| !m.is_empty()).cloned() else {
                continue;
            };
            let target = sub(item, to);
            for (key, value) in source {
                fill(target, &key, value);
            }
        }
    });
}

/// All errors of a LimitRange.
pub(crate) fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, item) in list(obj, "/spec/limits").iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        let kind = text(item, "/type");
        if kind.is_empty() {
            errors.push(FieldError::required(&at.child("type"), ""));
        } else {
            check::qualified_name(&mut errors, kind, &at.child("type"));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
        seen.push(kind);
        if kind == "Pod" {
            for key in ["default", "defaultRequest"] {
                if map(item, &format!("/{key}")).is_some_and(|m| !m.is_empty()) {
                    errors.push(FieldError::forbidden(
                        &at.child(key),
                        "may not be specified when `type` is 'Pod'",
                    ));
                }
            }
        }
        validate_order(&mut errors, item, &at);
    }
    errors
}

fn validate_order(errors: &mut Vec<FieldError>, item: &Value, at: &Path) {
    let get = |field: &str, key: &str| {
        map(item, &format!("/{field}")).and_then(|m| m.get(key)).and_then(|v| Quantity::from_json(v).ok())
    };
    let mut keys: Vec<&String> = ["max", "min", "default", "defaultRequest"]
        .iter()
        .flat_map(|f| map(item, &format!("/{f}")).into_iter().flatten().map(|(k, _)| k))
        .collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        for (low, high) in [
            ("min", "max"),
            ("min", "defaultRequest"),
            ("defaultRequest", "max"),
            ("defaultRequest", "default"),
            ("min", "default"),
            ("default", "max"),
        ] {
            let (Some(l), Some(h)) = (get(low, key), get(high, key)) else { continue };
            if l > h {
                let (field, value, detail) = match (low, high) {
                    ("min", "defaultRequest") => {
                        (high, &h, format!("min value {l} is greater than default request value {h}"))
                    }
                    ("defaultRequest", "max") => {
                        (low, &l, format!("default request value {l} is greater than max value {h}"))
                    }
                    ("defaultRequest", "default") => (
                        low,
                        &l,
                        format!("default request value {l} is greater than default limit value {h}"),
                    ),
                    ("min", "default") => {
                        ("default", &l, format!("min value {l} is greater than default value {h}"))
                    }
                    ("default", "max") => {
                        ("default", &l, format!("default value {l} is greater than max value {h}"))
                    }
                    _ => ("min", &l, format!("min value {l} is greater than max value {h}")),
                };
                errors.push(FieldError::invalid(&at.child(field).key(key), value.to_string(), detail));
            }
        }
    }
}
