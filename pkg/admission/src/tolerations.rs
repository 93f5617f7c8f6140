//! DefaultTolerationSeconds: pods stay 300 seconds on nodes that are not ready or not reachable.

use async_trait::async_trait;
use knarr_machinery::ApiError;
use serde_json::{Value, json};

use crate::Plugin;
use crate::request::{Operation, Request};

const SECONDS: i64 = 300;

/// The plugin.
pub(crate) struct DefaultTolerationSeconds;

fn tolerate(pod: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            let any_key = t["key"].as_str().unwrap_or_default();
            let effect = t["effect"].as_str().unwrap_or_default();
            (any_key == key || any_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        if !all.iter().any(covers) {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
            pod["spec"]["tolerations"] = all.into();
        }
    }
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if request.is_main("", "pods")
            && let Some(pod) = request.object.as_mut()
        {
            tolerate(pod);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let count = |t: Value| {
            let mut pod = json!({"spec": {"tolerations": t}});
            tolerate(&mut pod);
            pod["spec"]["tolerations"].as_array().unwrap().len()
        };
        assert_eq!(count(Value::Null), 2);
        assert_eq!(count(json!([{"operator": "Exists"}])), 1);
        assert_eq!(
            count(
                json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}])
            ),
            2
        );
        assert_eq!(count(json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])), 3);
    }
}
