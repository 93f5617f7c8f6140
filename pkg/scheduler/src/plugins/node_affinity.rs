//! NodeAffinity: `nodeSelector` and node affinity.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PreferredSchedulingTerm,
};

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::{Refusal, spread_scores};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeAffinity",
    weight: 2,
    admits: admits_all,
    prepare: |cycle| {
        let pod = &cycle.pod.pod;
        (has_required(pod) || preferred(pod).next().is_some())
            .then(|| Box::new(Wishes { pod }) as Box<dyn Prepared>)
    },
    wakes: |change, pod| match change {
        Change::Node { new, .. } => fits(&pod.pod, new),
        _ => false,
    },
};

struct Wishes<'a> {
    pod: &'a Pod,
}

fn has_required(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_selector.as_ref()).is_some_and(|s| !s.is_empty()) || required(pod).is_some()
}

fn required(pod: &Pod) -> Option<&Vec<NodeSelectorTerm>> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    Some(&affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms)
}

fn preferred(pod: &Pod) -> impl Iterator<Item = &PreferredSchedulingTerm> {
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    affinity
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
}

/// Whether the pod's selector and required affinity accept the node.
pub fn fits(pod: &Pod, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key));
    let selector = pod.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    selector.into_iter().flatten().all(|(k, v)| label(k) == Some(v))
        && required(pod).is_none_or(|terms| terms.iter().any(|t| term_fits(t, node)))
}

/// A term without any requirement fits no node.
fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    let field =
        |key: &str| (key == "metadata.name").then(|| node.metadata.name.as_deref().unwrap_or_default());
    expressions.iter().all(|r| requirement_fits(r, label(&r.key)))
        && fields.iter().all(|r| requirement_fits(r, field(&r.key)))
}

fn requirement_fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, bound)| have > bound),
        "Lt" => numbers().is_some_and(|(have, bound)| have < bound),
        _ => false,
    }
}

impl Prepared for Wishes<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.node.as_ref().is_some_and(|n| fits(self.pod, n)) {
            Ok(())
        } else {
            Err(Refusal::fixed("node(s) didn't match Pod's node affinity/selector"))
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let Some(node) = node.node.as_ref() else { return 0 };
        let granted = preferred(self.pod).filter(|p| {
            let empty = p.preference.match_expressions.is_none() && p.preference.match_fields.is_none();
            empty || term_fits(&p.preference, node)
        });
        granted.map(|p| i64::from(p.weight)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        spread_scores(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node_with, pod};
    use serde_json::{Value, json};

    #[test]
    fn terms() {
        let node = node_with("n", json!({}), json!({"zone": "a", "gen": "7"}), json!({}));
        let check = |spec: Value, expected: bool| {
            assert_eq!(fits(&pod("p", spec.clone()).pod, &node), expected, "{spec}");
        };
        let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        check(json!({}), true);
        check(json!({"nodeSelector": {"zone": "a"}}), true);
        check(json!({"nodeSelector": {"zone": "b"}}), false);
        check(
            required(json!([{"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["6"]}]}])),
            true,
        );
        check(
            required(json!([{"matchExpressions": [{"key": "gen", "operator": "Lt", "values": ["6"]}]}])),
            false,
        );
        check(
            required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])),
            true,
        );
        check(
            required(
                json!([{"matchExpressions": [{"key": "x", "operator": "Exists"}]}, {"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}]),
            ),
            true,
        );
        check(required(json!([{}])), false);
    }
}
