//! PodTopologySpread: pods of a kind are spread evenly over zones, hosts and other places.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use knarr_client::selector_of;
use knarr_machinery::labels::Selector;

use super::node_affinity::fits;
use super::taint_toleration::untolerated;
use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{PodInfo, matches};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "PodTopologySpread",
    weight: 2,
    admits: admits_all,
    prepare: |cycle| {
        let rules = rules(cycle.pod);
        (!rules.is_empty()).then(|| Box::new(Spread::new(cycle, rules)) as Box<dyn Prepared>)
    },
    wakes: |change, pod| match change {
        Change::Node { .. } | Change::Own => true,
        Change::PodPlaced(other) | Change::PodGone(other) => {
            other.namespace() == pod.namespace()
                && rules(pod).iter().any(|r| matches(&r.selector, &other.pod))
        }
    },
};

struct Rule {
    key: String,
    selector: Selector,
    max_skew: i64,
    min_domains: usize,
    hard: bool,
    follows_affinity: bool,
    follows_taints: bool,
    /// Whether the pod itself counts.
    own: bool,
}

fn rules(pod: &PodInfo) -> Vec<Rule> {
    let constraints = pod.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_ref());
    constraints.into_iter().flatten().map(|c| rule(&pod.pod, c)).collect()
}

fn rule(pod: &Pod, constraint: &TopologySpreadConstraint) -> Rule {
    let mut selector = constraint.label_selector.clone();
    if let Some(selector) = selector.as_mut() {
        for key in constraint.match_label_keys.iter().flatten() {
            if let Some(value) = pod.metadata.labels.as_ref().and_then(|l| l.get(key)) {
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: "In".to_owned(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
    }
    let selector = selector_of(selector.as_ref());
    Rule {
        key: constraint.topology_key.clone(),
        own: matches(&selector, pod),
        selector,
        max_skew: i64::from(constraint.max_skew),
        min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
        hard: constraint.when_unsatisfiable != "ScheduleAnyway",
        follows_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        follows_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// Pods per place, and the fewest in any place.
struct Counts {
    rule: Rule,
    by_place: HashMap<String, i64>,
    fewest: i64,
}

struct Spread {
    hard: Vec<Counts>,
    soft: Vec<Counts>,
}

impl Spread {
    fn new(cycle: &Cycle<'_>, rules: Vec<Rule>) -> Self {
        let (hard, soft): (Vec<_>, Vec<_>) =
            rules.into_iter().map(|r| count(cycle, r)).partition(|c| c.rule.hard);
        Self { hard, soft }
    }
}

fn count(cycle: &Cycle<'_>, rule: Rule) -> Counts {
    let mut by_place: HashMap<String, i64> = HashMap::new();
    for info in cycle.nodes {
        let (Some(place), Some(node)) = (info.label(&rule.key), info.node.as_ref()) else { continue };
        let counts = (!rule.follows_affinity || fits(&cycle.pod.pod, node))
            && (!rule.follows_taints || untolerated(node, cycle.pod.tolerations()).is_none());
        if !counts {
            continue;
        }
        let alike = info.pods.iter().filter(|p| {
            p.namespace() == cycle.pod.namespace()
                && p.pod.metadata.deletion_timestamp.is_none()
                && matches(&rule.selector, &p.pod)
        });
        let alike = i64::try_from(alike.count()).unwrap_or(i64::MAX);
        match by_place.get_mut(place) {
            Some(sum) => *sum += alike,
            None => {
                by_place.insert(place.to_owned(), alike);
            }
        }
    }
    let fewest =
        if by_place.len() < rule.min_domains { 0 } else { by_place.values().copied().min().unwrap_or(0) };
    Counts { rule, by_place, fewest }
}

impl Prepared for Spread {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
        for counts in &self.hard {
            let Some(place) = node.label(&counts.rule.key) else {
                return Err(Refusal::fixed(format!("{UNEVEN} (missing required label)")));
            };
            let here = counts.by_place.get(place).copied().unwrap_or(0);
            if here + i64::from(counts.rule.own) - counts.fewest > counts.rule.max_skew {
                return Err(Refusal::resolvable(UNEVEN));
            }
        }
        Ok(())
    }

    /// Pods alike that are near, weighted by the number of places; -1 for a node outside of all places.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn score(&self, node: &NodeInfo) -> i64 {
        let mut sum = 0.0;
        for counts in &self.soft {
            let Some(place) = node.label(&counts.rule.key) else { return -1 };
            let here = counts.by_place.get(place).copied().unwrap_or(0);
            let weight = ((counts.by_place.len() + 2) as f64).ln();
            sum += here as f64 * weight + (counts.rule.max_skew - 1) as f64;
        }
        sum.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        if self.soft.is_empty() {
            scores.fill(0);
            return;
        }
        let inside = || scores.iter().copied().filter(|s| *s >= 0);
        let (least, most) = (inside().min().unwrap_or(0), inside().max().unwrap_or(0));
        for score in scores.iter_mut() {
            *score = match *score {
                s if s < 0 => 0,
                _ if most == 0 => MAX_SCORE,
                s => MAX_SCORE * (most + least - s) / most,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::Cache;
    use crate::cycle::{decide, over};
    use crate::testing::{node_with, pod_with};
    use serde_json::json;

    #[test]
    fn zones_fill_evenly() {
        for (when, crowded) in [("DoNotSchedule", false), ("ScheduleAnyway", true)] {
            let mut cache = Cache::default();
            for (name, zone) in [("a", "x"), ("b", "y")] {
                cache.set_node(node_with(
                    name,
                    json!({"cpu": "8", "memory": "8Gi"}),
                    json!({"zone": zone}),
                    json!({}),
                ));
            }
            let spec = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "w"}}}]});
            for i in 0..6 {
                let p = pod_with(&format!("p{i}"), json!({"app": "w"}), spec.clone());
                let (nodes, spread) = (cache.snapshot(), cache.image_spread());
                let choice = decide(&over(&p, &nodes, &spread, &|_| None), 0, |_| 0).unwrap();
                cache.place(p, &choice.node);
            }
            let sizes: Vec<_> = cache.snapshot().iter().map(|n| n.pods.len()).collect();
            assert_eq!(sizes, [3, 3], "{when}");
            // With one zone closed, a hard rule refuses what a soft one allows.
            cache.set_node(node_with(
                "b",
                json!({"cpu": "8"}),
                json!({"zone": "y"}),
                json!({"unschedulable": true}),
            ));
            let p = pod_with("last", json!({"app": "w"}), spec.clone());
            cache.place(pod_with("one-more", json!({"app": "w"}), spec), "a");
            let (nodes, spread) = (cache.snapshot(), cache.image_spread());
            assert_eq!(decide(&over(&p, &nodes, &spread, &|_| None), 0, |_| 0).is_ok(), crowded, "{when}");
        }
    }
}
