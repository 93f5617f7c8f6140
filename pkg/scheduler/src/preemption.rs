//! DefaultPreemption: which pods of lower priority must go so that a pod fits. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::cache::{NodeInfo, Snapshot};
use crate::cycle::{NoFit, filter, histogram, over, panel};
use crate::pod::{PodInfo, Selectable};

/// Nodes that are tried at most.
const MAX_CANDIDATES: usize = 100;

/// A node and who must leave it.
#[derive(Debug, Clone)]
pub struct Eviction {
    /// Node name.
    pub node: String,
    /// Pods to delete, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// What preemption came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// These must go.
    Evict(Eviction),
    /// Pods that were told to go have not gone yet.
    Pending(String),
    /// It does not help; told after the reasons against the nodes.
    Useless(String),
}

/// Decides about a pod that fits nowhere. `nominated` is the node where an earlier preemption made room.
pub fn decide(
    pod: &PodInfo,
    nodes: &Snapshot,
    nofit: &NoFit,
    nominated: Option<&str>,
    image_spread: &HashMap<String, usize>,
    namespace_labels: &(dyn Fn(&str) -> Option<Selectable> + Sync),
) -> Outcome {
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Outcome::Useless("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let leaving =
        |p: &Arc<PodInfo>| p.priority() < pod.priority() && p.pod.metadata.deletion_timestamp.is_some();
    if nominated
        .and_then(|name| nodes.iter().find(|n| n.name() == name))
        .is_some_and(|n| n.pods.iter().any(leaving))
    {
        let why = "preemption: not eligible due to terminating pod on the nominated node.";
        return Outcome::Pending(why.to_owned());
    }
    let mut best: Option<Eviction> = None;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let hopeless = nofit.nodes - nofit.resolvable.len();
    if hopeless > 0 {
        reasons.insert("Preemption is not helpful for scheduling".to_owned(), hopeless);
    }
    let mut tried = 0;
    for at in &nofit.resolvable {
        if !nodes[*at].pods.iter().any(|p| p.priority() < pod.priority()) {
            *reasons.entry("No preemption victims found for incoming pod".to_owned()).or_insert(0) += 1;
            continue;
        }
        if tried >= MAX_CANDIDATES {
            break;
        }
        tried += 1;
        match victims(pod, nodes, *at, image_spread, namespace_labels) {
            Some(found) if best.as_ref().is_none_or(|b| cost(&found) < cost(b)) => best = Some(found),
            Some(_) => {}
            None => *reasons.entry("Insufficient room after preemption".to_owned()).or_insert(0) += 1,
        }
    }
    match best {
        Some(eviction) => Outcome::Evict(eviction),
        None => Outcome::Useless(format!(
            "preemption: 0/{} nodes are available: {}.",
            nofit.nodes,
            histogram(&reasons)
        )),
    }
}

/// Lower is better: the most important victim, all their importance, their number, and how long they have run.
fn cost(eviction: &Eviction) -> (i32, i64, usize, std::cmp::Reverse<Option<Timestamp>>) {
    let highest = eviction.victims.iter().map(|v| v.priority()).max().unwrap_or(i32::MIN);
    // Shifted, so that many victims of negative priority do not count as cheap.
    let sum = eviction.victims.iter().map(|v| i64::from(v.priority()) - i64::from(i32::MIN)).sum();
    let started = |v: &Arc<PodInfo>| v.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let top = eviction.victims.iter().filter(|v| v.priority() == highest);
    (highest, sum, eviction.victims.len(), std::cmp::Reverse(top.filter_map(started).min()))
}

/// The fewest pods of lower priority without which the pod fits on the node.
fn victims(
    pod: &PodInfo,
    nodes: &Snapshot,
    at: usize,
    image_spread: &HashMap<String, usize>,
    namespace_labels: &(dyn Fn(&str) -> Option<Selectable> + Sync),
) -> Option<Eviction> {
    let mut cleared = NodeInfo::clone(&nodes[at]);
    let mut lower: Vec<_> = cleared.pods.iter().filter(|p| p.priority() < pod.priority()).cloned().collect();
    for victim in &lower {
        cleared.remove(victim.uid());
    }
    let mut world = nodes.clone();
    let mut fits = |node: &NodeInfo| {
        // Copied once; nobody else holds it afterwards.
        Arc::make_mut(&mut world)[at] = Arc::new(node.clone());
        let cycle = over(pod, &world, image_spread, namespace_labels);
        let panel = panel(&cycle);
        filter(&panel, node).is_ok()
    };
    if !fits(&cleared) {
        return None;
    }
    // The most important ones are spared first, then those that have run longest.
    let started = |p: &Arc<PodInfo>| p.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    lower.sort_by(|a, b| b.priority().cmp(&a.priority()).then_with(|| started(a).cmp(&started(b))));
    let mut victims = Vec::new();
    for candidate in lower {
        let mut with = cleared.clone();
        with.add(candidate.clone());
        if fits(&with) {
            cleared = with;
        } else {
            victims.push(candidate);
        }
    }
    Some(Eviction { node: cleared.name().to_owned(), victims })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::testing::{node, pod};
    use serde_json::json;

    fn sized(name: &str, cpu: &str, priority: i32) -> Arc<PodInfo> {
        pod(
            name,
            json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}),
        )
    }

    fn run(cache: &Cache, p: &PodInfo) -> Result<(String, Vec<String>), String> {
        let (nodes, spread) = (cache.snapshot(), cache.image_spread());
        let nofit = crate::cycle::decide(&over(p, &nodes, &spread, &|_| None), 0, |_| 0).unwrap_err();
        match decide(p, &nodes, &nofit, None, &spread, &|_| None) {
            Outcome::Evict(e) => Ok((e.node, e.victims.iter().map(|v| v.name().to_owned()).collect())),
            Outcome::Useless(why) | Outcome::Pending(why) => Err(format!("{} {why}", nofit.message())),
        }
    }

    #[test]
    fn the_cheapest_victims_go() {
        let mut cache = Cache::default();
        for name in ["a", "b"] {
            cache.set_node(node(name, json!({"cpu": "4"})));
        }
        cache.place(sized("a1", "2", 5), "a");
        cache.place(sized("a2", "2", 1), "a");
        cache.place(sized("b1", "3", 5), "b");
        assert_eq!(run(&cache, &sized("p", "2", 10)).unwrap(), ("a".into(), vec!["a2".into()]));
        assert_eq!(run(&cache, &sized("p", "4", 10)).unwrap(), ("b".into(), vec!["b1".into()]));
        assert_eq!(
            run(&cache, &sized("p", "2", 0)).unwrap_err(),
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
        );
        assert_eq!(
            run(&cache, &sized("p", "9", 10)).unwrap_err(),
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        );
    }
}
