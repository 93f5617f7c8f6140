//! A partial document laid over an object, as mutating admission policies do it.

use serde_json::Value;

use crate::typed::{Node, Walker};
use crate::types::TypeRef;

/// Lays a partial document over an object, as mutating admission policies do: no ownership is kept.
///
/// # Errors
/// A document that its type does not describe, or that would replace an atomic value.
pub fn lay_over(types: &TypeRef, object: &Value, patch: &Value) -> Result<Value, String> {
    let walker = Walker { set: &types.set };
    let root = Node::Typed(&types.root);
    let errors = walker.check(root, patch);
    if !errors.is_empty() {
        return Err(format!("failed to convert patch object to typed object: {}", errors.join(", ")));
    }
    let atomics = walker.atomics(root, patch);
    if !atomics.is_empty() {
        let text = "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs";
        return Err(format!("{text}: {}", atomics.join(", ")));
    }
    walker.merge(root, Some(object), Some(patch)).ok_or_else(|| "failed to merge patch".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use serde_json::json;

    #[test]
    fn lays_over() {
        let types = testing::pod_types();
        let object = json!({"metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d"}]}});
        let patch = json!({"metadata": {"labels": {"y": "2"}}, "spec": {"containers": [{"name": "c", "image": "j"}]}});
        let out = lay_over(&types, &object, &patch).unwrap();
        assert_eq!(out["metadata"], json!({"name": "a", "labels": {"x": "1", "y": "2"}}));
        assert_eq!(out["spec"]["containers"], json!([{"name": "c", "image": "j"}, {"name": "d"}]));
        let unknown = lay_over(&types, &object, &json!({"spec": {"nothing": 1}})).unwrap_err();
        assert!(unknown.contains("field not declared in schema"), "{unknown}");
        let atomic = json!({"spec": {"containers": [{"name": "c", "args": ["x"]}]}});
        let refused = lay_over(&types, &object, &atomic).unwrap_err();
        assert!(
            refused.ends_with("may not mutate atomic arrays, maps or structs: .spec.containers[0].args"),
            "{refused}"
        );
    }
}
