//! What is known of the API objects, and which of it is in force. Entry point: [`Shared`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use knarr_client::{Key, Sink};
use knarr_netlink::keep::Changes;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{self, Cluster, Labels};

#[derive(Default)]
struct State {
    cluster: Cluster,
    /// Goes up whenever something that counts changes.
    generation: u64,
}

/// Which kinds have been listed whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    policies: bool,
    pods: bool,
    namespaces: bool,
}

/// What the keeper, the watches and the gate share.
pub(crate) struct Shared {
    node: String,
    state: Mutex<State>,
    known: watch::Sender<Known>,
    /// The generation that is in force.
    in_force: watch::Sender<u64>,
    pub(crate) changes: Changes,
}

fn key_of(object: &impl Resource) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Puts or removes; true if something changed.
fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        Some(value) if map.get(&key) == Some(&value) => false,
        Some(value) => {
            map.insert(key, value);
            true
        }
        None => map.remove(&key).is_some(),
    }
}

async fn until<T>(sender: &watch::Sender<T>, reached: impl FnMut(&T) -> bool) {
    let mut receiver = sender.subscribe();
    // The sender outlives this, so waiting cannot fail.
    let _closed = receiver.wait_for(reached).await;
}

impl Shared {
    pub(crate) fn new(node: &str) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            state: Mutex::default(),
            known: watch::channel(Known::default()).0,
            in_force: watch::channel(0).0,
            changes: Changes::default(),
        })
    }

    /// Changes the state; `edit` tells whether it changed something that counts. Gives the generation.
    fn edit(&self, edit: impl FnOnce(&mut State) -> bool) -> u64 {
        let mut state = self.state.lock();
        if edit(&mut state) {
            state.generation += 1;
            self.changes.wake();
        }
        state.generation
    }

    fn know(&self, edit: impl FnOnce(&mut Known)) {
        self.known.send_modify(edit);
    }

    /// What `decide` makes of what is known, and the generation that it is made from.
    pub(crate) fn decide<T>(&self, decide: impl FnOnce(&Cluster) -> T) -> (u64, T) {
        let state = self.state.lock();
        (state.generation, decide(&state.cluster))
    }

    /// This generation is in force.
    pub(crate) fn applied(&self, generation: u64) {
        self.in_force.send_replace(generation);
    }

    pub(crate) async fn in_force(&self, generation: u64) {
        until(&self.in_force, |at| *at >= generation).await;
    }

    pub(crate) async fn policies_known(&self) {
        until(&self.known, |known| known.policies).await;
    }

    pub(crate) async fn all_known(&self) {
        let all = Known { policies: true, pods: true, namespaces: true };
        until(&self.known, |known| *known == all).await;
    }

    pub(crate) fn has_policies(&self) -> bool {
        !self.state.lock().cluster.policies.is_empty()
    }

    /// Which list is still awaited.
    pub(crate) fn awaits(&self) -> &'static str {
        let known = *self.known.borrow();
        match known {
            Known { policies: false, .. } => "the list of policies",
            Known { pods: false, .. } | Known { namespaces: false, .. } => "the list of pods and namespaces",
            _ => "the rules",
        }
    }

    /// A pod of this node has these addresses. Gives the generation that isolates it, or `None` if no policy selects
    /// it.
    pub(crate) fn admit(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Option<u64> {
        let namespace = pod.namespace().unwrap_or_default();
        let mut facts = model::pod(pod, addresses.clone())?;
        facts.node.clone_from(&self.node);
        let mut selected = false;
        let generation = self.edit(|state| {
            selected = state.cluster.policies_of(&namespace, &facts.labels).next().is_some();
            let (uid, local) = (facts.uid.clone(), (namespace.clone(), facts));
            set(&mut state.cluster.local, uid, Some(local))
        });
        selected.then_some(generation)
    }

    /// Nothing of a pod of this node is left.
    pub(crate) fn release(&self, uid: &str) {
        self.edit(|state| state.cluster.local.remove(uid).is_some());
    }

    pub(crate) fn policies(self: &Arc<Self>) -> Arc<Policies> {
        Arc::new(Policies(self.clone()))
    }

    pub(crate) fn pods(self: &Arc<Self>) -> Arc<Pods> {
        Arc::new(Pods(self.clone()))
    }

    pub(crate) fn namespaces(self: &Arc<Self>) -> Arc<Namespaces> {
        Arc::new(Namespaces(self.clone()))
    }
}

/// Keeps what the policies say.
pub(crate) struct Policies(Arc<Shared>);

impl Sink<NetworkPolicy> for Policies {
    fn keys(&self) -> BTreeSet<Key> {
        self.0.state.lock().cluster.policies.keys().cloned().collect()
    }

    fn apply(&self, object: NetworkPolicy) {
        let policy = model::policy(&object);
        self.0.edit(|state| set(&mut state.cluster.policies, key_of(&object), Some(policy)));
    }

    fn remove(&self, key: &Key, _last: Option<NetworkPolicy>) {
        self.0.edit(|state| state.cluster.policies.remove(key).is_some());
    }

    fn complete(&self) {
        self.0.know(|known| known.policies = true);
    }
}

/// Keeps the labels of namespaces.
pub(crate) struct Namespaces(Arc<Shared>);

impl Sink<Namespace> for Namespaces {
    fn keys(&self) -> BTreeSet<Key> {
        let state = self.0.state.lock();
        state.cluster.namespaces.keys().map(|name| (String::new(), name.clone())).collect()
    }

    fn apply(&self, object: Namespace) {
        let labels: Labels = object.metadata.labels.clone().unwrap_or_default();
        self.0.edit(|state| set(&mut state.cluster.namespaces, object.name_any(), Some(labels)));
    }

    fn remove(&self, key: &Key, _last: Option<Namespace>) {
        self.0.edit(|state| state.cluster.namespaces.remove(&key.1).is_some());
    }

    fn complete(&self) {
        self.0.know(|known| known.namespaces = true);
    }
}

/// Keeps what counts of pods.
pub(crate) struct Pods(Arc<Shared>);

impl Sink<Pod> for Pods {
    fn keys(&self) -> BTreeSet<Key> {
        self.0.state.lock().cluster.pods.keys().cloned().collect()
    }

    fn apply(&self, object: Pod) {
        let facts = model::pod(&object, model::addresses(&object));
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        self.0.edit(|state| {
            let mut relabelled = false;
            if let Some((_, local)) = state.cluster.local.get_mut(uid) {
                let labels = object.metadata.labels.clone().unwrap_or_default();
                relabelled = local.labels != labels;
                local.labels = labels;
            }
            set(&mut state.cluster.pods, key_of(&object), facts) || relabelled
        });
    }

    fn remove(&self, key: &Key, _last: Option<Pod>) {
        self.0.edit(|state| state.cluster.pods.remove(key).is_some());
    }

    fn complete(&self) {
        self.0.know(|known| known.pods = true);
    }
}
