//! All pods of the node: their watch, their workers, the runtime's events.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use knarr_cri::v1;
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    observed::{Observed, State, label},
    worker::{Node, Update, View, Worker},
};

/// The safety net under the runtime's events.
const RELIST: Duration = Duration::from_secs(60);

struct Handle {
    updates: watch::Sender<Update>,
    wake: Arc<Notify>,
    view: Arc<Mutex<View>>,
}

/// The workers of a node.
#[derive(Clone)]
pub struct Pods {
    node: Arc<Node>,
    workers: Arc<Mutex<HashMap<String, Handle>>>,
    /// Notified when the API's pods are known for the first time.
    listed: Arc<watch::Sender<bool>>,
}

impl Pods {
    /// No pods yet.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, workers: Arc::default(), listed: Arc::new(watch::Sender::new(false)) }
    }

    /// Follows the pods that are bound to this node, until shutdown.
    pub async fn watch(&self) {
        let api: Api<Pod> = Api::all(self.node.client.clone());
        let config =
            watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.config.node_name));
        let mut events = watcher::watcher(api, config).boxed();
        let mut listing = HashSet::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.node.shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(Event::Init)) => listing.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listing.extend(pod.metadata.uid.clone());
                    self.apply(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    self.end_all_but(&listing);
                    self.node.allocations.set_ready();
                    self.listed.send_replace(true);
                }
                Some(Ok(Event::Apply(pod))) => self.apply(pod),
                Some(Ok(Event::Delete(pod))) => {
                    self.gone(pod.metadata.uid.as_deref().unwrap_or_default(), Some(pod.clone()))
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watching pods");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                None => return,
            }
        }
    }

    /// Waits until the API's pods are known.
    pub async fn listed(&self) {
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    fn apply(&self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        self.node.status.seen(&pod);
        self.node.allocations.seen(&pod);
        let update = Update { pod: Arc::new(pod), gone: false };
        let mut workers = self.workers.lock();
        if let Some(handle) = workers.get(&uid) {
            let old = handle.updates.borrow().clone();
            // Our own status coming back is no news.
            let same = old.pod.spec == update.pod.spec && {
                let strip = |pod: &Pod| {
                    let mut meta = pod.metadata.clone();
                    meta.resource_version = None;
                    meta.managed_fields = None;
                    meta
                };
                strip(&old.pod) == strip(&update.pod)
            };
            let gates = update
                .pod
                .spec
                .as_ref()
                .is_some_and(|s| s.readiness_gates.as_ref().is_some_and(|g| !g.is_empty()));
            if !same || gates {
                handle.updates.send_replace(update);
            }
            return;
        }
        workers.insert(uid.clone(), self.spawn(uid, update));
    }

    fn spawn(&self, uid: String, update: Update) -> Handle {
        let (sender, receiver) = watch::channel(update);
        let (wake, view) = (Arc::new(Notify::new()), Arc::new(Mutex::new(View::default())));
        let worker = Worker::new(self.node.clone(), uid.clone(), receiver, wake.clone(), view.clone());
        let workers = self.workers.clone();
        tokio::spawn(async move {
            worker.run().await;
            workers.lock().remove(&uid);
        });
        Handle { updates: sender, wake, view }
    }

    /// The object is gone; whatever of it runs must end.
    fn gone(&self, uid: &str, pod: Option<Pod>) {
        self.node.allocations.release(uid);
        let workers = self.workers.lock();
        if let Some(handle) = workers.get(uid) {
            let pod = pod.map_or_else(|| handle.updates.borrow().pod.clone(), Arc::new);
            handle.updates.send_replace(Update { pod, gone: true });
        }
    }

    fn end_all_but(&self, listed: &HashSet<String>) {
        let missing: Vec<String> =
            self.workers.lock().keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        missing.iter().for_each(|uid| self.gone(uid, None));
    }

    /// Wakes workers by the runtime's events; relists after a lost subscription and, rarely, to be safe.
    pub async fn follow_runtime(&self) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.node.runtime.events().await {
                Ok(events) => {
                    let began = tokio::time::Instant::now();
                    if self.follow(events).await {
                        return;
                    }
                    if began.elapsed() > Duration::from_secs(10) {
                        pause = Duration::from_millis(100);
                    }
                }
                Err(error) => tracing::warn!(%error, "subscribing to runtime events"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(10)),
                () = self.node.shutdown.cancelled() => return,
            }
        }
    }

    /// Whether to stop for good.
    async fn follow(&self, mut events: knarr_cri::EventStream) -> bool {
        // The subscription begins with the first poll; what happened before is found by the relist.
        let relist_at = tokio::time::Instant::now() + Duration::from_millis(300);
        let mut relist = tokio::time::interval_at(relist_at, RELIST);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.wake_owner(&event.id).await,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "runtime events");
                        return false;
                    }
                    None => return false,
                },
                _ = relist.tick() => self.relist().await,
                () = self.node.shutdown.cancelled() => return true,
            }
        }
    }

    async fn wake_owner(&self, id: &str) {
        let known = self.node.owners.lock().get(id).cloned();
        if let Some(uid) = known
            && let Some(handle) = self.workers.lock().get(&uid)
        {
            handle.wake.notify_one();
        }
    }

    /// Compares states in two calls for the whole node, and wakes only pods that changed. Ends what has no pod.
    async fn relist(&self) {
        let listed = async {
            let sandboxes = self.node.runtime.list_pod_sandboxes(v1::PodSandboxFilter::default()).await?;
            let containers = self.node.runtime.list_containers(v1::ContainerFilter::default()).await?;
            Ok::<_, knarr_cri::Error>((sandboxes, containers))
        };
        let (sandboxes, containers) = match listed.await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "relisting the runtime");
                return;
            }
        };
        let mut seen: HashMap<String, HashSet<(String, bool)>> = HashMap::new();
        let mut pods: HashMap<String, (String, String)> = HashMap::new();
        for sandbox in &sandboxes {
            let Some(uid) = sandbox.labels.get(label::POD_UID) else { continue };
            seen.entry(uid.clone())
                .or_default()
                .insert((sandbox.id.clone(), sandbox.state() == v1::PodSandboxState::SandboxReady));
            let text = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
            pods.insert(uid.clone(), (text(label::POD_NAMESPACE), text(label::POD_NAME)));
        }
        for container in &containers {
            let Some(uid) = container.labels.get(label::POD_UID) else { continue };
            seen.entry(uid.clone())
                .or_default()
                .insert((container.id.clone(), container.state() == v1::ContainerState::ContainerRunning));
        }
        let mut workers = self.workers.lock();
        for (uid, handle) in workers.iter() {
            if fingerprint(&handle.view.lock().observed) != seen.remove(uid).unwrap_or_default() {
                handle.wake.notify_one();
            }
        }
        if !*self.listed.borrow() {
            return;
        }
        for uid in seen.into_keys() {
            let Some((namespace, name)) = pods.remove(&uid) else { continue };
            tracing::info!(namespace, pod = name, uid, "ending a pod that the API does not have");
            let mut pod = Pod::default();
            pod.metadata.name = Some(name);
            pod.metadata.namespace = Some(namespace);
            pod.metadata.uid = Some(uid.clone());
            workers.insert(uid.clone(), self.spawn(uid, Update { pod: Arc::new(pod), gone: true }));
        }
    }

    /// Every pod with its newest status.
    pub fn list(&self) -> Vec<Pod> {
        let workers = self.workers.lock();
        let pods = workers.values().filter(|h| !h.updates.borrow().gone);
        pods.map(|handle| {
            let mut pod = (*handle.updates.borrow().pod).clone();
            pod.status = Some(handle.view.lock().status.clone());
            pod
        })
        .collect()
    }

    /// A pod by name (and uid, where given), with what is observed of it.
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<(Arc<Pod>, Observed)> {
        let workers = self.workers.lock();
        let mut found: Vec<_> = workers
            .iter()
            .filter(|(own, handle)| {
                let meta = handle.updates.borrow().pod.metadata.clone();
                meta.namespace.as_deref() == Some(namespace)
                    && meta.name.as_deref() == Some(name)
                    && uid.is_none_or(|u| u == *own)
            })
            .map(|(_, handle)| handle)
            .collect();
        found.sort_by_key(|handle| handle.updates.borrow().gone);
        let handle = found.first()?;
        Some((handle.updates.borrow().pod.clone(), handle.view.lock().observed.clone()))
    }

    /// The uids of all pods that still have a worker.
    pub fn uids(&self) -> HashSet<String> {
        self.workers.lock().keys().cloned().collect()
    }

    /// What is observed of every pod.
    pub fn observed(&self) -> Vec<(Arc<Pod>, Observed)> {
        let workers = self.workers.lock();
        workers.values().map(|h| (h.updates.borrow().pod.clone(), h.view.lock().observed.clone())).collect()
    }
}

fn fingerprint(observed: &Observed) -> HashSet<(String, bool)> {
    let sandboxes = observed.sandboxes.iter().map(|s| (s.id.clone(), s.ready));
    sandboxes.chain(observed.instances.iter().map(|i| (i.id.clone(), i.state == State::Running))).collect()
}
