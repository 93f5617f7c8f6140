//! Field ownership of a write: the machinery's bookkeeping with the paths that the endpoint ignores.

use knarr_machinery::ApiError;
use knarr_machinery::apply::{self, Request};
use knarr_machinery::fieldset::FieldSet;
use serde_json::Value;

use crate::registry::WriteContext;

/// The paths that this endpoint ignores. Status of a custom resource is one only where it has the subresource, which
/// in turn ignores everything but the status.
fn reset(w: &WriteContext<'_>) -> FieldSet {
    let info = &w.kind.info;
    if !info.custom {
        return apply::default_reset(&info.types, w.subresource);
    }
    match w.subresource {
        Some("status") => FieldSet::of_fields(&[&["metadata"], &["spec"]]),
        _ if info.subresource("status").is_some() => FieldSet::of_fields(&[&["status"]]),
        _ => FieldSet::default(),
    }
}

fn request<'a>(w: &'a WriteContext<'_>, api_version: &'a str, now: &'a str) -> Request<'a> {
    Request {
        types: &w.kind.info.types,
        api_version,
        manager: w.manager,
        subresource: w.subresource,
        now,
        reset: reset(w),
    }
}

/// Records a create, update or patch.
pub(crate) fn update(w: &WriteContext<'_>, live: Option<&Value>, new: Value, now: &str) -> Value {
    let version = w.api_version();
    apply::update_request(&request(w, &version, now), live, new)
}

/// Carries out an apply.
///
/// # Errors
/// 409 with all conflicts, and what is wrong with the document.
pub(crate) fn apply(
    w: &WriteContext<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    now: &str,
) -> Result<Value, ApiError> {
    let version = w.api_version();
    apply::apply_request(&request(w, &version, now), live, applied, force)
}
