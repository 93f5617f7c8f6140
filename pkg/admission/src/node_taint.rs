//! TaintNodesByCondition: a new node takes no pods until somebody finds it ready.

use async_trait::async_trait;
use knarr_machinery::ApiError;
use serde_json::{Value, json};

use crate::Plugin;
use crate::request::{Operation, Request};

/// The plugin.
pub(crate) struct TaintNodesByCondition;

fn taint(node: &mut Value) {
    let not_ready = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if !taints.iter().any(|t| t["key"] == not_ready["key"] && t["effect"] == not_ready["effect"]) {
        let mut taints = taints;
        taints.push(not_ready);
        node["spec"]["taints"] = taints.into();
    }
}

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if request.is_main("", "nodes")
            && let Some(node) = request.object.as_mut()
        {
            taint(node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once() {
        let mut node = json!({"metadata": {"name": "n"}});
        taint(&mut node);
        taint(&mut node);
        assert_eq!(
            node["spec"]["taints"],
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
        );
    }
}
