//! `authorization.k8s.io/v1`: asked, never stored.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::value::text;

pub(crate) mod localsubjectaccessreview;
pub(crate) mod selfsubjectaccessreview;
pub(crate) mod selfsubjectrulesreview;
pub(crate) mod subjectaccessreview;

/// Exactly one kind of attributes, and a subject where one is asked for.
fn validate_review(obj: &Value, with_subject: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let given = |key: &str| obj.pointer(key).is_some_and(|v| !v.is_null());
    let (resource, other) = (given("/spec/resourceAttributes"), given("/spec/nonResourceAttributes"));
    if resource && other {
        errors.push(FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            obj.pointer("/spec/nonResourceAttributes").cloned().unwrap_or_default(),
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource && !other {
        errors.push(FieldError::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let no_groups = obj.pointer("/spec/groups").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if with_subject && text(obj, "/spec/user").is_empty() && no_groups {
        errors.push(FieldError::invalid(
            &spec.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    errors
}
