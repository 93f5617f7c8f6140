//! Validation of resource requirements.

use std::collections::BTreeMap;

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::{self, Errors};

/// Resources that may be asked for more than once over.
fn is_overcommittable(resource: &str) -> bool {
    !resource.contains('/') && !resource.starts_with("hugepages-")
}

/// A map of quantities: known names, parsable, not negative.
pub(crate) fn validate_list<'a>(
    errors: &mut Errors,
    value: Option<&'a Value>,
    path: &Path,
) -> BTreeMap<&'a str, Quantity> {
    let mut parsed = BTreeMap::new();
    for (key, v) in value.and_then(Value::as_object).into_iter().flatten() {
        let at = path.key(key);
        resource_name(errors, key, &at);
        match Quantity::from_json(v) {
            Ok(q) => {
                if q.sign() < 0 {
                    errors.push(FieldError::invalid(&at, v.clone(), "must be greater than or equal to 0"));
                }
                if !is_overcommittable(key) && !q.is_integer() {
                    errors.push(FieldError::invalid(&at, v.clone(), "must be an integer"));
                }
                parsed.insert(key.as_str(), q);
            }
            Err(e) => errors.push(FieldError::invalid(&at, v.clone(), e)),
        }
    }
    parsed
}

fn resource_name(errors: &mut Errors, key: &str, path: &Path) {
    check::qualified_name(errors, key, path);
    if !key.contains('/')
        && !matches!(key, "cpu" | "memory" | "ephemeral-storage" | "storage" | "pods")
        && !key.starts_with("hugepages-")
    {
        errors.push(FieldError::invalid(path, key, "must be a standard resource type or fully qualified"));
    }
}

/// Limits and requests; a request may not be above its limit.
pub(crate) fn validate_requirements(errors: &mut Errors, resources: &Value, path: &Path) {
    let limits = validate_list(errors, resources.get("limits"), &path.child("limits"));
    let requests = validate_list(errors, resources.get("requests"), &path.child("requests"));
    for (key, request) in &requests {
        let at = path.child("requests");
        match limits.get(key) {
            Some(limit) if !is_overcommittable(key) && request != limit => {
                errors.push(FieldError::invalid(
                    &at,
                    request.to_string(),
                    format!("must be equal to {key} limit of {limit}"),
                ));
            }
            Some(limit) if request > limit => {
                errors.push(FieldError::invalid(
                    &at,
                    request.to_string(),
                    format!("must be less than or equal to {key} limit of {limit}"),
                ));
            }
            None if !is_overcommittable(key) => {
                errors.push(FieldError::required(
                    &path.child("limits"),
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
}
