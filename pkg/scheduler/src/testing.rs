//! Objects for tests.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::pod::PodInfo;

pub(crate) fn node(name: &str, allocatable: Value) -> Arc<Node> {
    node_with(name, allocatable, json!({}), json!({}))
}

pub(crate) fn node_with(name: &str, mut allocatable: Value, labels: Value, spec: Value) -> Arc<Node> {
    if allocatable.get("pods").is_none() {
        allocatable["pods"] = json!("110");
    }
    Arc::new(
        serde_json::from_value::<Node>(json!({
            "metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"allocatable": allocatable},
        }))
        .unwrap(),
    )
}

pub(crate) fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    pod_with(name, json!({}), spec)
}

pub(crate) fn pod_with(name: &str, labels: Value, mut spec: Value) -> Arc<PodInfo> {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec,
    }))
    .unwrap();
    Arc::new(PodInfo::new(&pod))
}
