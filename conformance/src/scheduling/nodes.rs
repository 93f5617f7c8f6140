//! What tests change on nodes, and take back.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::NODES;
use crate::pods::{container, pod};

/// A pod that sleeps, with these requests (and limits) and further fields of its spec.
pub fn pause(name: &str, amounts: Value, fields: Value) -> Value {
    let mut main = container("pause", PAUSE, &[]);
    if !amounts.is_null() {
        main["resources"] = json!({"requests": amounts, "limits": amounts});
    }
    let mut pod = pod(name, json!([main]));
    if let (Some(spec), Some(fields)) = (pod["spec"].as_object_mut(), fields.as_object()) {
        spec.extend(fields.clone());
    }
    pod
}

/// Affinity to one node by its name.
pub fn on_node(node: &str) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
}

/// The name of a node.
pub fn name(node: &Value) -> &str {
    text(node, "/metadata/name")
}

/// Advertises (or with null takes back) an extended resource of a node.
pub async fn advertise(c: &Context, node: &str, resource: &str, amount: Value) -> Result<()> {
    let status = json!({"status": {"capacity": {resource: amount}, "allocatable": {resource: amount}}});
    c.api(&NODES).patch(&format!("{node}/status"), Patch::Merge(status)).await?;
    Ok(())
}

/// Sets (or with null removes) a label of a node.
pub async fn label(c: &Context, node: &str, key: &str, value: Value) -> Result<()> {
    c.api(&NODES).patch(node, Patch::Merge(json!({"metadata": {"labels": {key: value}}}))).await?;
    Ok(())
}

/// The scheduler says that the pod fits nowhere, and it stays so for a while.
pub async fn stays_pending(c: &Context, pod: &str) -> Result<()> {
    let what = "the scheduler must say that the pod is unschedulable";
    let refused = |p: &Value| {
        let condition = crate::api::condition(p, "PodScheduled");
        condition["status"] == "False" && condition["reason"] == "Unschedulable"
    };
    c.pods().wait(pod, crate::context::POD_START, what, |p| Ok(p.is_some_and(refused))).await?;
    let time = std::time::Duration::from_secs(15);
    let scheduled = |p: Option<&Value>| p.is_some_and(|p| !text(p, "/spec/nodeName").is_empty());
    c.pods().never(pod, time, "the pod was scheduled", scheduled).await
}
