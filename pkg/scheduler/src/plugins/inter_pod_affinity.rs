//! InterPodAffinity: pods that want to be near others, or far from them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::{Cycle, MAX_SCORE, Refusal};
use crate::pod::{Affinities, PodInfo, Term};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "InterPodAffinity",
    weight: 2,
    admits: admits_all,
    prepare: |cycle| {
        let own = &cycle.pod.affinities;
        let others = cycle.nodes.iter().any(|n| n.with_affinity > 0);
        (others || !is_empty(own)).then(|| Box::new(Nearness::new(cycle)) as Box<dyn Prepared>)
    },
    wakes: |change, pod| match change {
        Change::Node { .. } | Change::Own | Change::PodGone(_) => true,
        // Namespace labels are not at hand here: any namespace will do.
        Change::PodPlaced(other) => pod
            .affinities
            .required
            .iter()
            .any(|t| t.namespace_selector.is_some() || t.matches(&other.pod, |_| None)),
    },
};

fn is_empty(a: &Affinities) -> bool {
    a.required.is_empty()
        && a.required_anti.is_empty()
        && a.preferred.is_empty()
        && a.preferred_anti.is_empty()
}

struct Nearness<'a> {
    own: &'a Affinities,
    /// For each required term, the places where a pod matches.
    near: Vec<HashSet<String>>,
    /// No pod anywhere matches, but the pod itself would: the first of a group may go anywhere.
    first_of_group: bool,
    /// For each required anti term, the places where a pod matches.
    far: Vec<HashSet<String>>,
    /// Places that pods there keep this pod away from.
    forbidden: HashMap<String, HashSet<String>>,
    /// Score by node label and its value.
    scores: HashMap<String, HashMap<String, i64>>,
}

/// Weight of a required term of a pod that is there already, when nodes are compared.
const HARD_WEIGHT: i64 = 1;

impl<'a> Nearness<'a> {
    fn new(cycle: &'a Cycle<'a>) -> Self {
        let own = &cycle.pod.affinities;
        let mut all = Self {
            own,
            near: vec![HashSet::new(); own.required.len()],
            first_of_group: false,
            far: vec![HashSet::new(); own.required_anti.len()],
            forbidden: HashMap::new(),
            scores: HashMap::new(),
        };
        let wishes = !is_empty(own);
        for node in cycle.nodes {
            // Without wishes of its own, only pods with wishes matter.
            if wishes || node.with_affinity > 0 {
                for other in &node.pods {
                    all.consider(cycle, node, other);
                }
            }
        }
        all.first_of_group = all.near.iter().all(HashSet::is_empty)
            && own.required.iter().all(|t| t.matches(&cycle.pod.pod, cycle.namespace_labels));
        all
    }

    fn consider(&mut self, cycle: &Cycle<'_>, node: &Arc<NodeInfo>, other: &PodInfo) {
        let of = |term: &Term| node.label(&term.topology_key).map(str::to_owned);
        let fits = |term: &Term| term.matches(&other.pod, cycle.namespace_labels);
        // A required term counts where one pod matches all required terms, as it is meant.
        if !self.own.required.is_empty() && self.own.required.iter().all(fits) {
            for (term, places) in self.own.required.iter().zip(&mut self.near) {
                places.extend(of(term));
            }
        }
        for (term, places) in self.own.required_anti.iter().zip(&mut self.far) {
            if fits(term) {
                places.extend(of(term));
            }
        }
        let mut score = |term: &Term, weight: i64| {
            if let Some(value) = of(term) {
                *self.scores.entry(term.topology_key.clone()).or_default().entry(value).or_insert(0) +=
                    weight;
            }
        };
        for term in self.own.preferred.iter().filter(|t| fits(t)) {
            score(term, term.weight);
        }
        for term in self.own.preferred_anti.iter().filter(|t| fits(t)) {
            score(term, -term.weight);
        }
        let theirs = &other.affinities;
        let wants = |term: &Term| term.matches(&cycle.pod.pod, cycle.namespace_labels);
        for term in theirs.required.iter().filter(|t| wants(t)) {
            score(term, HARD_WEIGHT);
        }
        for term in theirs.preferred.iter().filter(|t| wants(t)) {
            score(term, term.weight);
        }
        for term in theirs.preferred_anti.iter().filter(|t| wants(t)) {
            score(term, -term.weight);
        }
        for term in theirs.required_anti.iter().filter(|t| wants(t)) {
            if let Some(value) = of(term) {
                self.forbidden.entry(term.topology_key.clone()).or_default().insert(value);
            }
        }
    }
}

impl Prepared for Nearness<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for (term, places) in self.own.required.iter().zip(&self.near) {
            let here = node.label(&term.topology_key);
            let met = here.is_some_and(|value| self.first_of_group || places.contains(value));
            if !met {
                return Err(Refusal::fixed("node(s) didn't match pod affinity rules"));
            }
        }
        for (term, places) in self.own.required_anti.iter().zip(&self.far) {
            if node.label(&term.topology_key).is_some_and(|value| places.contains(value)) {
                return Err(Refusal::resolvable("node(s) didn't match pod anti-affinity rules"));
            }
        }
        for (key, places) in &self.forbidden {
            if node.label(key).is_some_and(|value| places.contains(value)) {
                return Err(Refusal::resolvable("node(s) didn't satisfy existing pods anti-affinity rules"));
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        self.scores.iter().filter_map(|(key, places)| places.get(node.label(key)?)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (least, most) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores.iter_mut() {
            *score = if most > least { MAX_SCORE * (*score - least) / (most - least) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::cycle::{decide, over};
    use crate::testing::{node_with, pod_with};
    use serde_json::{Value, json};

    fn cluster() -> Cache {
        let mut cache = Cache::default();
        for (name, zone) in [("a", "x"), ("b", "y")] {
            cache.set_node(node_with(
                name,
                json!({"cpu": "8", "memory": "8Gi"}),
                json!({"zone": zone}),
                json!({}),
            ));
        }
        cache
    }

    fn term(app: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "zone"})
    }

    fn run(cache: &Cache, pod: &PodInfo) -> Result<String, String> {
        let (nodes, spread) = (cache.snapshot(), cache.image_spread());
        decide(&over(pod, &nodes, &spread, &|_| None), 0, |_| 0).map(|c| c.node).map_err(|n| n.message())
    }

    #[test]
    fn near_and_far() {
        let required = |kind: &str, app: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app)]}}});
        let mut cache = cluster();
        cache.place(pod_with("db", json!({"app": "db"}), json!({})), "b");
        assert_eq!(run(&cache, &pod_with("p", json!({}), required("podAffinity", "db"))).unwrap(), "b");
        assert_eq!(run(&cache, &pod_with("p", json!({}), required("podAntiAffinity", "db"))).unwrap(), "a");
        let lonely = pod_with("p", json!({}), required("podAffinity", "none"));
        assert_eq!(
            run(&cache, &lonely).unwrap_err(),
            "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
        );
        let first = pod_with("p", json!({"app": "none"}), required("podAffinity", "none"));
        assert!(run(&cache, &first).is_ok(), "the first of a group may go anywhere");
        cache.place(pod_with("guard", json!({}), required("podAntiAffinity", "web")), "a");
        assert_eq!(run(&cache, &pod_with("w", json!({"app": "web"}), json!({}))).unwrap(), "b");
    }

    #[test]
    fn preferences() {
        let mut cache = cluster();
        cache.place(pod_with("db", json!({"app": "db"}), json!({})), "b");
        let spec = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term("db")}]}}});
        assert_eq!(run(&cache, &pod_with("p", json!({}), spec)).unwrap(), "b");
    }
}
