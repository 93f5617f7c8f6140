//! Subresources that write with rules of their own: binding, namespace finalize, certificate approval.

use knarr_machinery::ApiError;
use knarr_machinery::field::{FieldError, Path};
use serde_json::{Value, json};

use crate::obj;
use crate::registry::{Outcome, Registry, WriteContext, now};
use crate::update::Change;

impl Registry {
    /// Binds a pod to a node (`pods/binding`, or a `Binding` that was posted).
    ///
    /// # Errors
    /// 409 for pods that are bound or on their way out, 422 for a target that is no node.
    pub async fn bind(&self, w: &WriteContext<'_>, binding: &Value) -> Result<Outcome, ApiError> {
        check_binding(w, binding)?;
        let edit = |pod: &Value| bind_pod(w, pod, binding);
        let outcome = self.change(w, Change::Edit(&edit)).await?;
        let object =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(Outcome { object, created: true, ..outcome })
    }

    /// Replaces `spec.finalizers` of a namespace (`namespaces/finalize`).
    ///
    /// # Errors
    /// As an update.
    pub async fn finalize_namespace(&self, w: &WriteContext<'_>, sent: &Value) -> Result<Outcome, ApiError> {
        let edit = |old: &Value| {
            let mut object = old.clone();
            let finalizers = sent.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            let empty = finalizers.as_array().is_none_or(Vec::is_empty);
            if empty {
                obj::map_mut(obj::map_mut(&mut object).entry("spec").or_insert_with(|| json!({})))
                    .remove("finalizers");
            } else {
                obj::set_at(&mut object, "spec.finalizers", finalizers);
            }
            let version = obj::resource_version(sent);
            if !version.is_empty() {
                obj::set_meta(&mut object, "resourceVersion", version);
            }
            Ok(object)
        };
        self.change(w, Change::Edit(&edit)).await
    }
}

fn check_binding(w: &WriteContext<'_>, binding: &Value) -> Result<(), ApiError> {
    let target = Path::new("target");
    let mut errors = Vec::new();
    let kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or("");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if binding.pointer("/target/name").and_then(Value::as_str).unwrap_or("").is_empty() {
        errors.push(FieldError::required(&target.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&knarr_machinery::GroupKind::new("", "Binding"), w.name, &errors))
}

fn bind_pod(w: &WriteContext<'_>, pod: &Value, binding: &Value) -> Result<Value, ApiError> {
    let conflict = |cause: String| {
        let mut error =
            ApiError::conflict(&knarr_machinery::GroupResource::new("", "pods/binding"), w.name, &cause);
        if let Some(details) = &mut error.details {
            details.kind = "pods/binding".into();
        }
        Err(error)
    };
    let uid = obj::uid(binding);
    if !uid.is_empty() && uid != obj::uid(pod) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            obj::uid(pod)
        ));
    }
    if obj::deletion_timestamp(pod).is_some() {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", w.name));
    }
    let bound = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if !bound.is_empty() {
        return conflict(format!("pod {} is already assigned to node \"{bound}\"", w.name));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {} has non-empty .spec.schedulingGates", w.name));
    }
    let mut pod = pod.clone();
    let node = binding.pointer("/target/name").cloned().unwrap_or_default();
    obj::set_at(&mut pod, "spec.nodeName", node);
    // Labels of the node's topology come from admission.
    for field in ["annotations", "labels"] {
        let Some(given) = binding["metadata"][field].as_object().filter(|m| !m.is_empty()) else { continue };
        let target = obj::map_mut(obj::meta_mut(&mut pod).entry(field).or_insert_with(|| json!({})));
        for (key, value) in given {
            target.insert(key.clone(), value.clone());
        }
    }
    set_condition(&mut pod, "PodScheduled", "True");
    Ok(pod)
}

/// Sets a condition of `status.conditions`; its transition time changes with its status only.
fn set_condition(object: &mut Value, kind: &str, status: &str) {
    let mut conditions =
        object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let stamp = now();
    match conditions.iter_mut().find(|c| c.get("type").and_then(Value::as_str) == Some(kind)) {
        Some(c) if c.get("status").and_then(Value::as_str) == Some(status) => {}
        Some(c) => {
            *c = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": stamp})
        }
        None => conditions.push(
            json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": stamp}),
        ),
    }
    obj::set_at(object, "status.conditions", conditions.into());
}
