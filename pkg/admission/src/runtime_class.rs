//! RuntimeClass: a pod's overhead, node selector and tolerations from its runtime class.

use async_trait::async_trait;
use knarr_machinery::{ApiError, meta};
use serde_json::Value;

use crate::Plugin;
use crate::limits::resource_list;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

/// The plugin.
pub(crate) struct RuntimeClassPlugin {
    api: Api,
}

impl RuntimeClassPlugin {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }

    async fn class(&self, request: &Request<'_>) -> Result<Option<Value>, ApiError> {
        let name = request.new_object()["spec"]["runtimeClassName"].as_str().unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.api.get(&format!("/apis/node.k8s.io/v1/runtimeclasses/{name}")).await?;
        let missing = || request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"));
        found.map(Some).ok_or_else(missing)
    }
}

fn overhead_matches(pod: &Value, class: &Value) -> bool {
    resource_list(&pod["spec"]["overhead"]) == resource_list(&class["overhead"]["podFixed"])
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// Merges the class into the pod.
fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    let spec = &mut pod["spec"];
    let fixed = &class["overhead"]["podFixed"];
    if !fixed.is_null() && spec["overhead"].is_null() {
        spec["overhead"] = fixed.clone();
    }
    for (k, v) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        match spec["nodeSelector"].get(k) {
            Some(own) if own != v => {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{k}] = {}; pod.spec.nodeSelector[{k}] = {}",
                    text(v),
                    text(own)
                ));
            }
            _ => spec["nodeSelector"][k] = v.clone(),
        }
    }
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let before = tolerations.len();
    for t in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
        if !tolerations.contains(t) {
            tolerations.push(t.clone());
        }
    }
    if tolerations.len() > before {
        spec["tolerations"] = tolerations.into();
    }
    if overhead_matches(pod, class) { Ok(()) } else { Err(MISMATCH.to_string()) }
}

#[async_trait]
impl Plugin for RuntimeClassPlugin {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if !request.is_main("", "pods") {
            return Ok(());
        }
        let Some(class) = self.class(request).await? else { return Ok(()) };
        let outcome = request.object.as_mut().map_or(Ok(()), |pod| apply(pod, &class));
        outcome.map_err(|e| request.forbidden(e))
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if !request.is_main("", "pods") {
            return Ok(());
        }
        let pod = request.new_object();
        match self.class(request).await? {
            Some(class) if !overhead_matches(pod, &class) => Err(request.forbidden(MISMATCH)),
            None if !resource_list(&pod["spec"]["overhead"]).is_empty() => {
                let mirror = meta::annotation(pod, "kubernetes.io/config.mirror").is_some();
                let text =
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                if mirror { Ok(()) } else { Err(request.forbidden(text)) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merging() {
        let class = json!({"overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"a": "1"}, "tolerations": [{"key": "k"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"b": "2"}}});
        apply(&mut pod, &class).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"nodeSelector": {"a": "1", "b": "2"}, "tolerations": [{"key": "k"}], "overhead": {"cpu": "100m"}})
        );
        let mut pod = json!({"spec": {"nodeSelector": {"a": "2"}}});
        assert_eq!(
            apply(&mut pod, &class).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[a] = 1; pod.spec.nodeSelector[a] = 2"
        );
        let mut pod = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert_eq!(apply(&mut pod, &class).unwrap_err(), MISMATCH);
    }
}
