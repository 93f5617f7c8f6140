//! TaintToleration: taints keep pods away that do not tolerate them.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::{Refusal, spread_scores};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "TaintToleration",
    weight: 3,
    admits: admits_all,
    prepare: |cycle| Some(Box::new(Tolerations { all: cycle.pod.tolerations() })),
    wakes: |change, pod| match change {
        Change::Node { new, .. } => untolerated(new, pod.tolerations()).is_none(),
        _ => false,
    },
};

/// Whether one of the tolerations covers the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| covers(t, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let value = taint.value.as_deref().unwrap_or_default();
    let own = toleration.value.as_deref().unwrap_or_default();
    let numbers = || Some((value.parse::<i64>().ok()?, own.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => own == value,
        "Lt" => numbers().is_some_and(|(taint, own)| taint < own),
        "Gt" => numbers().is_some_and(|(taint, own)| taint > own),
        _ => false,
    }
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.as_ref().and_then(|s| s.taints.as_ref()).into_iter().flatten()
}

/// The first taint that keeps the pod away.
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints(node)
        .filter(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|t| !tolerates(tolerations, t))
}

struct Tolerations<'a> {
    all: &'a [Toleration],
}

impl Prepared for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match node.node.as_ref().and_then(|n| untolerated(n, self.all)) {
            Some(_) => Err(Refusal::fixed("node(s) had untolerated taint(s)")),
            None => Ok(()),
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.node.as_ref().into_iter().flat_map(|n| taints(n));
        let count = soft.filter(|t| t.effect == "PreferNoSchedule" && !tolerates(self.all, t)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        spread_scores(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "5", "effect": "NoSchedule"})).unwrap();
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "5"}), true),
            (json!({"key": "k", "value": "5", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "5", "effect": "NoExecute"}), false),
            (json!({"key": "k", "value": "6"}), false),
            (json!({"key": "x", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Lt", "value": "6"}), true),
            (json!({"key": "k", "operator": "Gt", "value": "6"}), false),
        ] {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(std::slice::from_ref(&toleration), &taint), expected, "{toleration:?}");
        }
    }
}
