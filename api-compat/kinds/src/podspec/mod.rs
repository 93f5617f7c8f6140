//! Pod specs: defaults and validation, for pods and for every template that holds one.
//!
//! Start at [`default_template`], [`validate_template`] and [`validate_new_pod`].

mod affinity;
mod annotations;
mod containers;
mod defaults;
mod env;
mod label_keys;
mod mounts;
mod probes;
mod projected;
mod qos;
mod resize;
pub(crate) mod resources;
mod scene;
mod scheduling;
mod security;
mod sources;
mod spec;
mod status;
mod update;
mod volumes;
pub(crate) mod warnings;
mod windows;

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::Errors;
use crate::value::{list, text};

pub(crate) use affinity::validate_node_selector;
pub(crate) use defaults::{canonical_quantities, default_pod, default_spec, default_volume_claim};
pub(crate) use label_keys::merge as merge_label_keys;
pub(crate) use qos::qos_class;
pub(crate) use resize::{keep_all_but_resources, validate_resize_update};
pub(crate) use scheduling::validate_effect;
pub(crate) use status::validate_status_update;
pub(crate) use update::{validate_ephemeral_update, validate_pod_update};

/// Defaults of a pod template.
pub(crate) fn default_template(template: &mut Value) {
    crate::value::fill(template, "metadata", serde_json::Map::new());
    crate::value::with(template, "/spec", default_spec);
}

/// Errors of a pod template: labels, annotations and spec.
pub(crate) fn validate_template(template: &Value, path: &Path) -> Vec<FieldError> {
    validate_new_template(template, None, path)
}

/// Errors of a pod template that replaces an old one.
pub(crate) fn validate_new_template(template: &Value, old: Option<&Value>, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    spec::validate_template_meta(&mut errors, template, path);
    let (meta, pod_spec) =
        (template.get("metadata").unwrap_or(&Value::Null), template.get("spec").unwrap_or(&Value::Null));
    let old_meta = old.and_then(|o| o.get("metadata"));
    annotations::validate(&mut errors, meta, pod_spec, old_meta, &path.child("annotations"));
    let at = path.child("spec");
    errors.extend(spec::validate(pod_spec, old.and_then(|o| o.get("spec")), None, &at));
    annotations::validate_agreement(&mut errors, meta, pod_spec, &at);
    if !list(pod_spec, "/ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&at.child("ephemeralContainers"), detail));
    }
    errors
}

/// Errors of a pod, new (`old` is None) or changed, before it is asked what may change.
fn validate_pod(pod: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let (meta, pod_spec) =
        (pod.get("metadata").unwrap_or(&Value::Null), pod.get("spec").unwrap_or(&Value::Null));
    let at = Path::new("metadata").child("annotations");
    annotations::validate(&mut errors, meta, pod_spec, old.and_then(|o| o.get("metadata")), &at);
    let path = Path::new("spec");
    let before = old.and_then(|o| o.get("spec"));
    errors.extend(spec::validate(pod_spec, before, Some(text(pod, "/metadata/name")), &path));
    if text(pod_spec, "/serviceAccountName").is_empty() {
        for (i, v) in list(pod_spec, "/volumes").iter().enumerate() {
            for (j, s) in list(v, "/projected/sources").iter().enumerate() {
                if s.get("serviceAccountToken").is_some_and(|t| !t.is_null()) {
                    let at = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(&at.child("serviceAccountToken"), detail));
                }
            }
        }
    }
    for key in ["containers", "initContainers"] {
        for (i, c) in list(pod_spec, &format!("/{key}")).iter().enumerate() {
            containers::untrimmed_image(&mut errors, c, &path.child(key).index(i));
        }
    }
    errors
}

/// Errors of a new pod.
pub(crate) fn validate_new_pod(pod: &Value) -> Vec<FieldError> {
    let mut errors = validate_pod(pod, None);
    let path = Path::new("spec");
    if !list(pod, "/spec/ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(pod, "/spec/nodeName").is_empty() && !list(pod, "/spec/schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    let (meta, pod_spec) =
        (pod.get("metadata").unwrap_or(&Value::Null), pod.get("spec").unwrap_or(&Value::Null));
    annotations::validate_agreement(&mut errors, meta, pod_spec, &path);
    errors
}

/// Whether the pod is the API's picture of a static pod.
fn is_mirror(pod: &Value) -> bool {
    crate::value::map(pod, "/metadata/annotations").is_some_and(|a| a.contains_key(annotations::MIRROR))
}
