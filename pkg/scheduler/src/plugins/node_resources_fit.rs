//! NodeResourcesFit: the pod's requests must fit what is left; emptier nodes are better (LeastAllocated).

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::{MAX_SCORE, Refusal};
use crate::pod::PodInfo;
use crate::resources::Resources;
use k8s_openapi::api::core::v1::Node;

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesFit",
    weight: 1,
    admits: admits_all,
    prepare: |cycle| Some(Box::new(Fit { pod: cycle.pod })),
    wakes: |change, pod| match change {
        Change::Node { new, old } => node_could_fit(pod, new, *old),
        Change::PodGone(_) | Change::Own => true,
        Change::PodPlaced(_) => false,
    },
};

struct Fit<'a> {
    pod: &'a PodInfo,
}

fn allocatable(node: &Node) -> Resources {
    Resources::of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()))
}

/// A node that is new, or offers something else than before, and is large enough when empty.
fn node_could_fit(pod: &PodInfo, new: &Node, old: Option<&Node>) -> bool {
    let room = allocatable(new);
    if old.is_some_and(|old| allocatable(old) == room) {
        return false;
    }
    shortages(&pod.requests, &Resources::default(), &room).is_empty()
}

/// What is missing, and whether the node could ever have enough.
fn shortages(wanted: &Resources, used: &Resources, room: &Resources) -> Vec<(String, bool)> {
    let mut missing = Vec::new();
    let mut check = |name: &str, wanted: i64, used: i64, room: i64| {
        if wanted > 0 && wanted > room - used {
            missing.push((format!("Insufficient {name}"), wanted <= room));
        }
    };
    check("cpu", wanted.milli_cpu, used.milli_cpu, room.milli_cpu);
    check("memory", wanted.memory, used.memory, room.memory);
    check("ephemeral-storage", wanted.ephemeral_storage, used.ephemeral_storage, room.ephemeral_storage);
    for (name, amount) in &wanted.scalar {
        let of = |r: &Resources| r.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(used), of(room));
    }
    missing
}

impl Prepared for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let mut missing = Vec::new();
        let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
        if count + 1 > node.allocatable.pods {
            missing.push(("Too many pods".to_owned(), node.allocatable.pods > 0));
        }
        missing.extend(shortages(&self.pod.requests, &node.requested, &node.allocatable));
        if missing.is_empty() {
            return Ok(());
        }
        let resolvable = missing.iter().all(|(_, could)| *could);
        Err(Refusal { reasons: missing.into_iter().map(|(reason, _)| reason).collect(), resolvable })
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |room: i64, used: i64| {
            if room <= 0 { None } else { Some((room - used).max(0) * MAX_SCORE / room) }
        };
        let parts = [
            free(node.allocatable.milli_cpu, node.weight.milli_cpu + self.pod.weight.milli_cpu),
            free(node.allocatable.memory, node.weight.memory + self.pod.weight.memory),
        ];
        let known: Vec<i64> = parts.into_iter().flatten().collect();
        match i64::try_from(known.len()) {
            Ok(n) if n > 0 => known.iter().sum::<i64>() / n,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn refusals() {
        let mut cache = Cache::default();
        cache.set_node(node("n", json!({"cpu": "2", "memory": "1Gi", "pods": "2", "x.io/gpu": "1"})));
        let want = |name: &str, requests: serde_json::Value| {
            pod(name, json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
        };
        cache.place(want("x", json!({"cpu": "1", "x.io/gpu": "1"})), "n");
        let check = |pod: &PodInfo, expected: Result<(), Refusal>| {
            assert_eq!(Fit { pod }.filter(cache.node("n").unwrap()), expected);
        };
        check(&want("a", json!({"cpu": "1"})), Ok(()));
        check(&want("b", json!({"cpu": "1500m"})), Err(Refusal::resolvable("Insufficient cpu")));
        check(&want("c", json!({"cpu": "3"})), Err(Refusal::fixed("Insufficient cpu")));
        check(&want("d", json!({"x.io/gpu": "1"})), Err(Refusal::resolvable("Insufficient x.io/gpu")));
        check(&want("e", json!({})), Ok(()));
    }
}
