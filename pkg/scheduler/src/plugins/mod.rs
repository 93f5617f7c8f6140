//! The plugins, one file each, and their table.

pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod pod_topology_spread;
pub mod priority_sort;
pub mod scheduling_gates;
pub mod taint_toleration;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cache::NodeInfo;
use crate::cycle::{Cycle, Refusal};
use crate::pod::PodInfo;

/// A plugin that knows the pod and judges nodes.
pub trait Prepared: Sync {
    /// Whether the node can take the pod.
    ///
    /// # Errors
    /// Why not.
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let _ = node;
        Ok(())
    }

    /// How good the node is; only compared with the scores of other nodes for the same pod.
    fn score(&self, node: &NodeInfo) -> i64 {
        let _ = node;
        0
    }

    /// Brings the scores of all feasible nodes into 0..=100.
    fn normalize(&self, scores: &mut [i64]) {
        let _ = scores;
    }
}

/// Something happened that may let a pod fit which did not before.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A node was added (`old` is `None`) or changed.
    Node {
        /// Now.
        new: &'a Node,
        /// Before.
        old: Option<&'a Node>,
    },
    /// A pod is on a node, or its labels changed.
    PodPlaced(&'a PodInfo),
    /// A pod has left its node.
    PodGone(&'a PodInfo),
    /// The waiting pod itself was changed.
    Own,
}

/// A row of the plugin table.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// Weight of its scores; 0 when it gives none.
    pub weight: i64,
    /// Whether a pod may enter the queue at all.
    pub admits: fn(&Pod) -> bool,
    /// Looks at the pod; `None` when the plugin has nothing to say about it.
    pub prepare: for<'a> fn(&'a Cycle<'a>) -> Option<Box<dyn Prepared + 'a>>,
    /// Whether a change may lift this plugin's refusal of the pod.
    pub wakes: fn(&Change<'_>, &PodInfo) -> bool,
}

/// All plugins, in the order in which they judge a node: cheap and final refusals first.
pub const PLUGINS: &[Plugin] = &[
    scheduling_gates::PLUGIN,
    priority_sort::PLUGIN,
    node_unschedulable::PLUGIN,
    node_name::PLUGIN,
    taint_toleration::PLUGIN,
    node_affinity::PLUGIN,
    node_ports::PLUGIN,
    node_resources_fit::PLUGIN,
    pod_topology_spread::PLUGIN,
    inter_pod_affinity::PLUGIN,
    node_resources_balanced_allocation::PLUGIN,
    image_locality::PLUGIN,
];

/// Admits every pod.
pub(crate) fn admits_all(_: &Pod) -> bool {
    true
}

/// Is never the cause of waiting.
pub(crate) fn never(_: &Change<'_>, _: &PodInfo) -> bool {
    false
}
