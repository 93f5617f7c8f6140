//! The decision about one pod. Pure: values in, a node or the reasons against every node out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cache::{NodeInfo, Snapshot};
use crate::plugins::{PLUGINS, Prepared};
use crate::pod::{PodInfo, Selectable};

/// Highest score of a node by one plugin.
pub const MAX_SCORE: i64 = 100;
/// Below this number of nodes all are looked at.
const MIN_FEASIBLE: usize = 100;

/// What a decision may look at.
pub struct Cycle<'a> {
    /// The pod to place.
    pub pod: &'a PodInfo,
    /// All nodes.
    pub nodes: &'a [Arc<NodeInfo>],
    /// On how many nodes each image is.
    pub image_spread: &'a HashMap<String, usize>,
    /// Labels of a namespace.
    pub namespace_labels: &'a (dyn Fn(&str) -> Option<Selectable> + Sync),
}

/// Why a node cannot take a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As told to users; the number of nodes is put before it.
    pub reasons: Vec<String>,
    /// Whether evicting pods could help.
    pub resolvable: bool,
}

impl Refusal {
    /// A refusal that evicting pods could lift.
    pub fn resolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: true }
    }

    /// A refusal that stands whatever runs on the node.
    pub fn fixed(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }
}

/// The plugins that have something to say about a pod, ready to say it.
pub type Panel<'a> = Vec<(usize, Box<dyn Prepared + 'a>)>;

/// No node can take the pod.
#[derive(Debug, Clone, Default)]
pub struct NoFit {
    /// Number of nodes.
    pub nodes: usize,
    /// How many nodes were refused for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Plugins that refused, as bits by their place in the table.
    pub plugins: u64,
    /// Indices of nodes where evicting pods could help.
    pub resolvable: Vec<usize>,
}

impl NoFit {
    /// The message for the condition and the event, without what preemption has to say.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        format!("0/{} nodes are available: {}.", self.nodes, histogram(&self.reasons))
    }
}

/// `1 Insufficient cpu, 2 node(s) were unschedulable`, sorted as text.
pub fn histogram(reasons: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<_> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    all.sort();
    all.join(", ")
}

/// The place that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Node name.
    pub node: String,
    /// Nodes looked at.
    pub evaluated: usize,
    /// Nodes that could have taken the pod, among them.
    pub feasible: usize,
}

/// How many feasible nodes are enough: the share falls from a half to a twentieth as the cluster grows, so that the
/// work for one pod is bounded.
pub fn enough(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Prepares the plugins for a pod.
pub fn panel<'a>(cycle: &'a Cycle<'a>) -> Panel<'a> {
    PLUGINS.iter().enumerate().filter_map(|(i, plugin)| Some((i, (plugin.prepare)(cycle)?))).collect()
}

/// Asks every plugin about a node; the first refusal counts.
pub fn filter(panel: &Panel<'_>, node: &NodeInfo) -> Result<(), (usize, Refusal)> {
    for (i, plugin) in panel {
        plugin.filter(node).map_err(|refusal| (*i, refusal))?;
    }
    Ok(())
}

/// Finds a node. `start` is where to begin looking, so that over many pods all nodes get their turn; `pick` chooses
/// among so many equally good nodes.
///
/// # Errors
/// No node fits, with all reasons.
pub fn decide(cycle: &Cycle<'_>, start: usize, pick: impl FnOnce(usize) -> usize) -> Result<Choice, NoFit> {
    let nodes = cycle.nodes;
    let mut nofit = NoFit { nodes: nodes.len(), ..NoFit::default() };
    if nodes.is_empty() {
        return Err(nofit);
    }
    let panel = panel(cycle);
    let wanted = enough(nodes.len());
    let (mut feasible, mut evaluated) = (Vec::new(), 0);
    for step in 0..nodes.len() {
        let at = (start + step) % nodes.len();
        evaluated += 1;
        match filter(&panel, &nodes[at]) {
            Ok(()) => feasible.push(at),
            Err((plugin, refusal)) => {
                nofit.plugins |= 1 << plugin;
                if refusal.resolvable {
                    nofit.resolvable.push(at);
                }
                for reason in refusal.reasons {
                    *nofit.reasons.entry(reason).or_insert(0) += 1;
                }
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    let node = |at: usize| nodes[at].name().to_owned();
    let choice = |at: usize| Choice { node: node(at), evaluated, feasible: feasible.len() };
    match feasible.as_slice() {
        [] => Err(nofit),
        [only] => Ok(choice(*only)),
        _ => Ok(choice(best(cycle, &panel, &feasible, pick))),
    }
}

fn best(
    cycle: &Cycle<'_>,
    panel: &Panel<'_>,
    feasible: &[usize],
    pick: impl FnOnce(usize) -> usize,
) -> usize {
    let mut totals = vec![0_i64; feasible.len()];
    for (i, plugin) in panel {
        let weight = PLUGINS[*i].weight;
        if weight == 0 {
            continue;
        }
        let mut scores: Vec<i64> = feasible.iter().map(|at| plugin.score(&cycle.nodes[*at])).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score.clamp(0, MAX_SCORE);
        }
    }
    let top = totals.iter().copied().max().unwrap_or(0);
    let equal: Vec<usize> =
        totals.iter().zip(feasible).filter(|(t, _)| **t == top).map(|(_, at)| *at).collect();
    equal.get(pick(equal.len())).or(equal.first()).copied().unwrap_or(feasible[0])
}

/// Scales scores so that the highest is [`MAX_SCORE`]; reversed, so that the highest count scores lowest.
pub fn spread_scores(scores: &mut [i64], reverse: bool) {
    let top = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if top == 0 { 0 } else { *score * MAX_SCORE / top };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

/// A cycle over a snapshot, for tests and preemption.
pub fn over<'a>(
    pod: &'a PodInfo,
    nodes: &'a Snapshot,
    image_spread: &'a HashMap<String, usize>,
    namespace_labels: &'a (dyn Fn(&str) -> Option<Selectable> + Sync),
) -> Cycle<'a> {
    Cycle { pod, nodes, image_spread, namespace_labels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::testing::{node, node_with, pod};
    use serde_json::json;

    fn run(cache: &Cache, pod: &PodInfo) -> Result<String, String> {
        let (nodes, spread) = (cache.snapshot(), cache.image_spread());
        let labels = |_: &str| None;
        decide(&over(pod, &nodes, &spread, &labels), 0, |_| 0).map(|c| c.node).map_err(|n| n.message())
    }

    #[test]
    fn messages() {
        let mut cache = Cache::default();
        let p = pod(
            "p",
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}]}),
        );
        assert_eq!(run(&cache, &p).unwrap_err(), "no nodes available to schedule pods");
        cache.set_node(node("a", json!({"cpu": "1", "memory": "1Gi"})));
        assert_eq!(
            run(&cache, &p).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
        );
        cache.set_node(node_with("b", json!({"cpu": "8", "memory": "8Gi"}), json!({}), json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]})));
        assert_eq!(
            run(&cache, &p).unwrap_err(),
            "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) were unschedulable."
        );
        cache.set_node(node("c", json!({"cpu": "4", "memory": "8Gi"})));
        assert_eq!(run(&cache, &p).unwrap(), "c");
    }

    #[test]
    fn the_emptier_node_wins() {
        let mut cache = Cache::default();
        cache.set_node(node("a", json!({"cpu": "4", "memory": "8Gi"})));
        cache.set_node(node("b", json!({"cpu": "4", "memory": "8Gi"})));
        cache.place(pod("x", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}]})), "a");
        assert_eq!(run(&cache, &pod("p", json!({}))).unwrap(), "b");
    }

    #[test]
    fn work_is_bounded() {
        for (nodes, expected) in [(1, 1), (99, 99), (100, 100), (1000, 420), (5000, 500), (10_000, 500)] {
            assert_eq!(enough(nodes), expected, "{nodes}");
        }
    }

    #[test]
    fn thousands_of_nodes_cost_a_bounded_look() {
        let mut cache = Cache::default();
        for i in 0..5000 {
            cache.set_node(node(&format!("n{i}"), json!({"cpu": "4", "memory": "8Gi"})));
        }
        let (mut start, begin) = (0, std::time::Instant::now());
        for i in 0..200 {
            let p = pod(
                &format!("p{i}"),
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}),
            );
            let (nodes, spread) = (cache.snapshot(), cache.image_spread());
            let choice = decide(&over(&p, &nodes, &spread, &|_| None), start, |_| 0).unwrap();
            assert_eq!(choice.evaluated, 500);
            start = (start + choice.evaluated) % nodes.len();
            drop(nodes);
            cache.place(p, &choice.node);
        }
        eprintln!("{:?} a pod", begin.elapsed() / 200);
        assert_eq!(cache.snapshot().iter().map(|n| n.pods.len()).max(), Some(1));
    }
}
