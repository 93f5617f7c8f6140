//! What the node has promised: which pods it admitted, with which resources, and what of that the runtime was told.
//!
//! A pod's promise is kept in a file of its directory, so that a resize that was under way, or not yet possible,
//! survives a restart. Entry points: [`Allocations::admit`], [`Allocations::resize`].

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::{
    fit::{self, Claim, Refusal, Used},
    resources::same_compute,
    status::is_last,
};

const FILE: &str = "allocation.json";

/// Resources of containers by name.
pub type ByContainer = BTreeMap<String, ResourceRequirements>;

/// What survives a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Promise {
    /// What the pod may have.
    allocated: ByContainer,
    /// What the runtime was told of running containers.
    #[serde(default)]
    actuated: ByContainer,
}

struct Held {
    promise: Promise,
    /// Not known before the pod itself is.
    claim: Option<Claim>,
}

/// How a pod's resources stand against its specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resize {
    /// As specified.
    None,
    /// Promised just now.
    Accepted,
    /// The node has no room now.
    Deferred(String),
    /// The node would not have room if it were empty.
    Infeasible(String),
}

/// The promises to all pods of the node.
pub struct Allocations {
    pods: PathBuf,
    held: Mutex<HashMap<String, Held>>,
    /// Pods whose resize waits for room.
    deferred: Mutex<HashMap<String, Arc<Notify>>>,
    ready: watch::Sender<bool>,
}

fn uid_of(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Containers whose resources can change while they live: all but ordinary init containers.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec
        .into_iter()
        .flat_map(|s| s.init_containers.iter().flatten())
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.into_iter().flat_map(|s| s.containers.iter()).chain(sidecars)
}

fn wanted(pod: &Pod) -> ByContainer {
    resizable(pod).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect()
}

/// The pod with the resources that it was promised.
fn applied(pod: &Arc<Pod>, allocated: &ByContainer) -> Arc<Pod> {
    if resizable(pod).all(|c| allocated.get(&c.name).is_none_or(|a| c.resources.as_ref() == Some(a))) {
        return pod.clone();
    }
    let mut pod = (**pod).clone();
    if let Some(spec) = &mut pod.spec {
        let sidecars = spec.init_containers.iter_mut().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        for container in spec.containers.iter_mut().chain(sidecars) {
            if let Some(resources) = allocated.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }
    Arc::new(pod)
}

impl Allocations {
    /// Reads what was promised before.
    pub fn load(root: &std::path::Path) -> io::Result<Self> {
        let pods = root.join("pods");
        let mut held = HashMap::new();
        let entries = match fs::read_dir(&pods) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let path = entry.path().join(FILE);
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            match serde_json::from_slice(&text) {
                Ok(promise) => {
                    let uid = entry.file_name().to_string_lossy().into_owned();
                    held.insert(uid, Held { promise, claim: None });
                }
                // As if it had never been: the pod runs, and is taken as it is.
                Err(error) => tracing::warn!(file = %path.display(), %error, "what was promised to a pod"),
            }
        }
        Ok(Self {
            pods,
            held: Mutex::new(held),
            deferred: Mutex::default(),
            ready: watch::Sender::new(false),
        })
    }

    /// A pod as the API has it, before its worker: what was promised to it counts from now on.
    pub fn seen(&self, pod: &Pod) {
        let over = pod.status.as_ref().is_some_and(is_last);
        let mut held = self.held.lock();
        if over {
            held.remove(uid_of(pod));
        } else if let Some(entry) = held.get_mut(uid_of(pod))
            && entry.claim.is_none()
        {
            let pod = applied(&Arc::new(pod.clone()), &entry.promise.allocated);
            entry.claim = Some(Claim::of(&pod));
        }
    }

    /// All pods of the API have been seen: new ones can be judged.
    pub fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Waits for that.
    pub async fn ready(&self) {
        let mut receiver = self.ready.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _closed = receiver.wait_for(|ready| *ready).await;
    }

    /// Whether the pod has been admitted.
    pub fn has(&self, uid: &str) -> bool {
        self.held.lock().contains_key(uid)
    }

    /// Admits a pod if it fits beside the others.
    pub fn admit(&self, pod: &Pod, node: &Node) -> Result<(), Refusal> {
        let claim = Claim::of(pod);
        let mut held = self.held.lock();
        fit::check(pod, &claim, &used(&held, uid_of(pod)), node)?;
        self.hold(&mut held, pod, claim, ByContainer::new());
        Ok(())
    }

    /// Takes a pod that runs here already, whatever it needs.
    pub fn take(&self, pod: &Pod) {
        self.hold(&mut self.held.lock(), pod, Claim::of(pod), wanted(pod));
    }

    fn hold(&self, held: &mut HashMap<String, Held>, pod: &Pod, claim: Claim, actuated: ByContainer) {
        let promise = Promise { allocated: wanted(pod), actuated };
        self.save(uid_of(pod), &promise);
        held.insert(uid_of(pod).to_owned(), Held { promise, claim: Some(claim) });
    }

    fn save(&self, uid: &str, promise: &Promise) {
        let dir = self.pods.join(uid);
        let write = || {
            fs::create_dir_all(&dir)?;
            let fresh = dir.join(format!("{FILE}.new"));
            fs::write(&fresh, serde_json::to_vec(promise)?)?;
            fs::rename(fresh, dir.join(FILE))
        };
        if let Err(error) = write() {
            // It is only needed after a restart; until then memory has it.
            tracing::warn!(uid, %error, "keeping what was promised to a pod");
        }
    }

    /// The pod no longer counts; those that wait for room are woken.
    pub fn release(&self, uid: &str) {
        if self.held.lock().remove(uid).is_some() {
            self.deferred.lock().remove(uid);
            self.wake_deferred();
        }
    }

    fn wake_deferred(&self) {
        self.deferred.lock().values().for_each(|wake| wake.notify_one());
    }

    /// The pod with what it was promised in place of what it asks for.
    pub fn applied(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.held.lock().get(uid_of(pod)) {
            Some(held) => applied(pod, &held.promise.allocated),
            None => pod.clone(),
        }
    }

    /// Promises what the pod asks for now, if there is room; one that must wait is woken by `wake` when there may be.
    pub fn resize(&self, pod: &Arc<Pod>, node: &Node, wake: &Arc<Notify>) -> Resize {
        let uid = uid_of(pod);
        let mut held = self.held.lock();
        let Some(entry) = held.get(uid) else { return Resize::None };
        let wanted = wanted(pod);
        let same = |(name, w): (&String, &ResourceRequirements)| {
            entry.promise.allocated.get(name).is_some_and(|a| same_compute(a, w))
        };
        if wanted.iter().all(same) {
            self.deferred.lock().remove(uid);
            return Resize::None;
        }
        let claim = Claim::of(pod);
        if let Some(message) = fit::infeasible(&claim, node) {
            self.deferred.lock().remove(uid);
            return Resize::Infeasible(message);
        }
        if let Err(refusal) = fit::check(pod, &claim, &used(&held, uid), node) {
            self.deferred.lock().insert(uid.to_owned(), wake.clone());
            return Resize::Deferred(refusal.message);
        }
        if let Some(entry) = held.get_mut(uid) {
            entry.promise.allocated = wanted;
            entry.claim = Some(claim);
            self.save(uid, &entry.promise);
        }
        drop(held);
        self.deferred.lock().remove(uid);
        // It may have become smaller.
        self.wake_deferred();
        Resize::Accepted
    }

    /// What the runtime was told of the pod's containers.
    pub fn actuated(&self, uid: &str) -> ByContainer {
        self.held.lock().get(uid).map(|h| h.promise.actuated.clone()).unwrap_or_default()
    }

    /// The runtime was told this of a container.
    pub fn set_actuated(&self, uid: &str, container: &str, resources: &ResourceRequirements) {
        let mut held = self.held.lock();
        if let Some(entry) = held.get_mut(uid)
            && entry.promise.actuated.get(container) != Some(resources)
        {
            entry.promise.actuated.insert(container.to_owned(), resources.clone());
            self.save(uid, &entry.promise);
        }
    }
}

fn used(held: &HashMap<String, Held>, but: &str) -> Used {
    let mut used = Used::default();
    held.iter()
        .filter(|(uid, _)| *uid != but)
        .filter_map(|(_, h)| h.claim.as_ref())
        .for_each(|c| used.add(c));
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Node {
        let status = json!({"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"}});
        serde_json::from_value(json!({"metadata": {"name": "n"}, "status": status})).unwrap()
    }

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [container]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn cpu(pod: &Pod) -> String {
        let resources = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap();
        resources.requests.unwrap()["cpu"].0.clone()
    }

    #[tokio::test]
    async fn promises_are_kept_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let all = Allocations::load(dir.path()).unwrap();
        let wake = Arc::new(Notify::new());
        all.admit(&pod("a", "600m"), &node()).unwrap();
        assert_eq!(all.admit(&pod("b", "600m"), &node()).unwrap_err().reason, "OutOfcpu");
        all.admit(&pod("b", "300m"), &node()).unwrap();
        assert_eq!(all.resize(&pod("b", "300m"), &node(), &wake), Resize::None);
        assert!(matches!(all.resize(&pod("b", "500m"), &node(), &wake), Resize::Deferred(_)));
        assert!(matches!(all.resize(&pod("b", "2"), &node(), &wake), Resize::Infeasible(_)));
        assert_eq!(cpu(&all.applied(&pod("b", "500m"))), "300m");

        let all = Allocations::load(dir.path()).unwrap();
        all.seen(&pod("a", "600m"));
        all.seen(&pod("b", "500m"));
        assert!(all.has("a") && all.has("b"));
        assert_eq!(cpu(&all.applied(&pod("b", "500m"))), "300m");
        assert_eq!(all.admit(&pod("c", "200m"), &node()).unwrap_err().reason, "OutOfcpu");
        assert!(matches!(all.resize(&pod("b", "500m"), &node(), &wake), Resize::Deferred(_)));
        all.release("a");
        tokio::time::timeout(std::time::Duration::from_secs(1), wake.notified()).await.unwrap();
        assert_eq!(all.resize(&pod("b", "500m"), &node(), &wake), Resize::Accepted);
        assert_eq!(cpu(&all.applied(&pod("b", "500m"))), "500m");
        all.set_actuated("b", "c", &ResourceRequirements::default());

        let all = Allocations::load(dir.path()).unwrap();
        assert_eq!(all.actuated("b").len(), 1);
        all.take(&pod("d", "5"));
        assert!(all.has("d"));
    }

    #[test]
    fn what_has_ended_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        Allocations::load(dir.path()).unwrap().admit(&pod("a", "1"), &node()).unwrap();
        let all = Allocations::load(dir.path()).unwrap();
        let mut ended = (*pod("a", "1")).clone();
        ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        all.seen(&ended);
        all.admit(&pod("b", "1"), &node()).unwrap();
    }
}
