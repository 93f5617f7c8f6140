//! Label selectors on typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// Whether labels fulfil a selector. A selector without any term matches everything.
/// A requirement with an operator that does not exist matches nothing (the API server refuses those).
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let exact = selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v));
    exact
        && selector.match_expressions.iter().flatten().all(|term| {
            let found = value(&term.key);
            let listed = |v: &String| term.values.iter().flatten().any(|x| x == v);
            match term.operator.as_str() {
                "In" => found.is_some_and(listed),
                "NotIn" => !found.is_some_and(listed),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector has no term at all, so that it would select everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// A selector of plain label values.
pub fn of_labels(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }
}

/// Whether labels carry all of these values.
pub fn has_all(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(k, v)| labels.and_then(|labels| labels.get(k)) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms() {
        let labels: Labels = serde_json::from_value(json!({"app": "web", "tier": "a"})).unwrap();
        let check = |selector: serde_json::Value, expected: bool| {
            let selector: LabelSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(matches(&selector, Some(&labels)), expected, "{selector:?}");
        };
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "db"}}), false);
        check(json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}), true);
        check(
            json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["a", "b"]}]}),
            false,
        );
        check(json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false);
    }
}
