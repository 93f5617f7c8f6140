//! What every node has and carries, kept up to date by events and by the scheduler's own decisions.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;

/// A node and the pods on it.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The node; `None` while only pods that name it are known.
    pub node: Option<Arc<Node>>,
    /// Pods on it, assumed ones included.
    pub pods: Vec<Arc<PodInfo>>,
    /// Sum of requests.
    pub requested: Resources,
    /// Sum of weights.
    pub weight: Resources,
    /// What the node offers.
    pub allocatable: Resources,
    /// Host ports taken.
    pub ports: Vec<HostPort>,
    /// Image name to size in bytes.
    pub images: Arc<HashMap<String, i64>>,
    /// Pods on it with pod affinity of any sort.
    pub with_affinity: usize,
}

impl NodeInfo {
    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default()
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        self.allocatable = Resources::of(status.and_then(|s| s.allocatable.as_ref()));
        let images = status.and_then(|s| s.images.as_ref()).into_iter().flatten();
        let sizes = images.flat_map(|i| {
            let size = i.size_bytes.unwrap_or(0);
            i.names.iter().flatten().map(move |name| (name.clone(), size))
        });
        self.images = Arc::new(sizes.collect());
        self.node = Some(node);
    }

    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.weight.add(&pod.weight);
        self.ports.extend(pod.ports.iter().cloned());
        self.with_affinity += usize::from(has_affinity(&pod));
        self.pods.push(pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|p| p.uid() == uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests);
        self.weight.sub(&pod.weight);
        self.with_affinity -= usize::from(has_affinity(&pod));
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

fn has_affinity(pod: &PodInfo) -> bool {
    let a = &pod.affinities;
    !(a.required.is_empty()
        && a.required_anti.is_empty()
        && a.preferred.is_empty()
        && a.preferred_anti.is_empty())
}

/// All nodes at one moment.
pub type Snapshot = Arc<Vec<Arc<NodeInfo>>>;

struct Placed {
    node: String,
    pod: Arc<PodInfo>,
}

/// Nodes by name and pods by uid. A snapshot is a shared pointer; only nodes that change while one is held are
/// copied.
#[derive(Default)]
pub struct Cache {
    nodes: Snapshot,
    at: HashMap<String, usize>,
    pods: HashMap<String, Placed>,
    /// Pods on nodes that are not known (yet).
    waiting: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Number of nodes that hold an image.
    spread: Arc<HashMap<String, usize>>,
}

impl Cache {
    /// All nodes now.
    pub fn snapshot(&self) -> Snapshot {
        self.nodes.clone()
    }

    /// On how many nodes each image is.
    pub fn image_spread(&self) -> Arc<HashMap<String, usize>> {
        self.spread.clone()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.at.get(name).map(|at| &self.nodes[*at])
    }

    fn edit(&mut self, name: &str) -> Option<&mut NodeInfo> {
        let at = *self.at.get(name)?;
        Some(Arc::make_mut(&mut Arc::make_mut(&mut self.nodes)[at]))
    }

    fn count_images(&mut self, images: &HashMap<String, i64>, add: bool) {
        if images.is_empty() {
            return;
        }
        let spread = Arc::make_mut(&mut self.spread);
        for name in images.keys() {
            let count = spread.entry(name.clone()).or_insert(0);
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                spread.remove(name);
            }
        }
    }

    /// A node was added or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(info) = self.edit(&name) {
            let same = info.node.as_ref().is_some_and(|n| {
                n.status.as_ref().map(|s| &s.images) == node.status.as_ref().map(|s| &s.images)
            });
            if same {
                // Heartbeats come often and images are many: the table of images stays.
                info.allocatable = Resources::of(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
                info.node = Some(node);
                return;
            }
            let old = info.images.clone();
            info.set_node(node);
            let new = info.images.clone();
            self.count_images(&old, false);
            self.count_images(&new, true);
            return;
        }
        let mut info = NodeInfo::default();
        info.set_node(node);
        for pod in self.waiting.remove(&name).unwrap_or_default() {
            info.add(pod);
        }
        let images = info.images.clone();
        let nodes = Arc::make_mut(&mut self.nodes);
        self.at.insert(name, nodes.len());
        nodes.push(Arc::new(info));
        self.count_images(&images, true);
    }

    /// A node is gone; its pods are kept until they are gone, too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.at.remove(name) else { return };
        let nodes = Arc::make_mut(&mut self.nodes);
        let info = nodes.swap_remove(at);
        if let Some(moved) = nodes.get(at) {
            self.at.insert(moved.name().to_owned(), at);
        }
        if !info.pods.is_empty() {
            self.waiting.insert(name.to_owned(), info.pods.clone());
        }
        self.count_images(&info.images.clone(), false);
    }

    /// A pod is on a node: by an event, or because the scheduler has just decided so.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(pod.uid());
        self.pods.insert(pod.uid().to_owned(), Placed { node: node.to_owned(), pod: pod.clone() });
        match self.edit(node) {
            Some(info) => info.add(pod),
            None => self.waiting.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// A pod is gone, or could not be bound.
    pub fn remove(&mut self, uid: &str) {
        let Some(placed) = self.pods.remove(uid) else { return };
        if let Some(info) = self.edit(&placed.node) {
            info.remove(uid);
        } else if let Some(pods) = self.waiting.get_mut(&placed.node) {
            pods.retain(|p| p.uid() != uid);
            if pods.is_empty() {
                self.waiting.remove(&placed.node);
            }
        }
    }

    /// The essentials of a placed pod.
    pub fn placed(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid).map(|p| &p.pod.pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    #[test]
    fn sums_follow_pods() {
        let mut cache = Cache::default();
        let p = pod(
            "p",
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}, "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
        );
        cache.place(p.clone(), "a");
        cache.set_node(node("a", json!({"cpu": "4"})));
        cache.set_node(node("b", json!({"cpu": "4"})));
        let before = cache.snapshot();
        assert_eq!(before[0].requested.milli_cpu, 1000);
        cache.place(p.clone(), "b");
        assert_eq!(cache.node("a").unwrap().requested.milli_cpu, 0);
        assert_eq!(cache.node("b").unwrap().ports.len(), 1);
        assert_eq!(before[0].requested.milli_cpu, 1000, "a snapshot does not change");
        cache.remove_node("a");
        assert_eq!(cache.node("b").unwrap().name(), "b");
        cache.remove(p.uid());
        assert_eq!(cache.node("b").unwrap().requested, Resources::default());
        assert!(cache.node("b").unwrap().ports.is_empty());
    }
}
