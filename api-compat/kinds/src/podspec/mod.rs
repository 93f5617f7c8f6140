//! Pod specs: defaults and validation, for pods and for every template that holds one.
//!
//! Start at [`default_template`], [`validate_template`] and [`validate_spec`].

mod affinity;
mod containers;
mod defaults;
mod env;
mod label_keys;
mod probes;
mod qos;
mod resources;
mod scheduling;
mod security;
mod spec;
mod update;
mod volumes;
pub(crate) mod warnings;

use knarr_machinery::{FieldError, Path, meta};
use serde_json::Value;

use crate::check;

pub(crate) use affinity::validate_node_selector;
pub(crate) use defaults::{canonical_quantities, default_pod, default_spec, default_volume_claim};
pub(crate) use label_keys::merge as merge_label_keys;
pub(crate) use qos::qos_class;
pub(crate) use scheduling::validate_tolerations;
pub(crate) use spec::validate_spec;
pub(crate) use update::{validate_ephemeral_update, validate_pod_update, validate_resize_update};

/// Defaults of a pod template.
pub(crate) fn default_template(template: &mut Value) {
    crate::value::fill(template, "metadata", serde_json::Map::new());
    crate::value::with(template, "/spec", default_spec);
}

/// Errors of a pod template: labels, annotations and spec.
pub(crate) fn validate_template(template: &Value, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = path.child("metadata");
    check::labels(&mut errors, template.pointer("/metadata/labels"), &metadata.child("labels"));
    if let Some(a) = template.pointer("/metadata/annotations") {
        errors.extend(meta::validate_annotations(a, &metadata.child("annotations")));
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    errors.extend(validate_spec(spec, &path.child("spec")));
    let ephemeral = crate::value::list(spec, "/ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
    errors
}
