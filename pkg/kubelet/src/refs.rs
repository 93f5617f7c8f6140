//! Wakes pods when an object of their volumes changes: of ConfigMaps and Secrets one watch an object, shared by all
//! its pods; the others are in [`crate::arrivals`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event},
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::arrivals::Arrivals;

type Key = (&'static str, String, String);

/// How a pod is told.
#[derive(Clone)]
pub struct Listener {
    /// The pod.
    pub(crate) uid: String,
    /// Its volumes are to be looked at.
    pub(crate) stale: Arc<AtomicBool>,
    /// Its worker's bell.
    pub(crate) wake: Arc<Notify>,
}

impl Listener {
    /// Something of the pod's volumes has changed.
    pub(crate) fn tell(&self) {
        self.stale.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

struct Watched {
    listeners: Vec<Listener>,
    _guard: DropGuard,
}

/// The watches of a node.
#[derive(Clone)]
pub struct Refs {
    client: kube::Client,
    shutdown: CancellationToken,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    arrivals: Arrivals,
}

impl Refs {
    /// No watches yet.
    pub fn new(client: kube::Client, arrivals: Arrivals, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, watched: Arc::default(), arrivals }
    }

    /// Has `wake` called, and `stale` set, whenever an object of the pod's volumes changes.
    pub fn add(&self, pod: &Pod, stale: &Arc<AtomicBool>, wake: &Arc<Notify>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let listener = Listener { uid: uid.clone(), stale: stale.clone(), wake: wake.clone() };
        self.arrivals.add(pod, listener.clone());
        for key in keys(pod) {
            let mut watched = self.watched.lock();
            let entry = watched.entry(key.clone()).or_insert_with(|| {
                let token = self.shutdown.child_token();
                self.spawn(key, token.clone());
                Watched { listeners: Vec::new(), _guard: token.drop_guard() }
            });
            if !entry.listeners.iter().any(|l| l.uid == uid) {
                entry.listeners.push(listener.clone());
            }
        }
    }

    /// The pod has gone; watches without a pod end.
    pub fn remove(&self, uid: &str) {
        self.arrivals.remove(uid);
        self.watched.lock().retain(|_, entry| {
            entry.listeners.retain(|l| l.uid != uid);
            !entry.listeners.is_empty()
        });
    }

    fn spawn(&self, key: Key, token: CancellationToken) {
        let this = self.clone();
        tokio::spawn(async move {
            if key.0 == "configmap" {
                this.follow::<ConfigMap>(key, token).await;
            } else {
                this.follow::<Secret>(key, token).await;
            }
        });
    }

    async fn follow<K>(&self, key: Key, token: CancellationToken)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Send
            + serde::de::DeserializeOwned
            + 'static,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.1);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.2));
        let mut events = watcher::watcher(api, config).boxed();
        // What the object was last; nothing while it does not exist, which optional sources may do.
        let mut version: Option<String> = None;
        let mut listed = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = token.cancelled() => return,
            };
            match event {
                Some(Ok(Event::Init)) => listed = false,
                Some(Ok(Event::InitApply(object))) => {
                    listed = true;
                    let new = object.meta().resource_version.clone();
                    // The first list shows what the volume was just written from.
                    if version.is_some() && version != new {
                        self.tell(&key);
                    }
                    version = new;
                }
                Some(Ok(Event::InitDone)) if !listed && version.is_some() => {
                    version = None;
                    self.tell(&key);
                }
                Some(Ok(Event::InitDone)) => {}
                Some(Ok(Event::Apply(object))) => {
                    let new = object.meta().resource_version.clone();
                    if version != new {
                        self.tell(&key);
                    }
                    version = new;
                }
                Some(Ok(Event::Delete(_))) => {
                    version = None;
                    self.tell(&key);
                }
                Some(Err(error)) => {
                    tracing::debug!(kind = key.0, namespace = key.1, name = key.2, %error, "watching an object of a volume");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                None => return,
            }
        }
    }

    fn tell(&self, key: &Key) {
        let listeners = self.watched.lock().get(key).map(|e| e.listeners.clone()).unwrap_or_default();
        listeners.iter().for_each(Listener::tell);
    }
}

/// The objects of a pod's volumes.
fn keys(pod: &Pod) -> Vec<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut keys = Vec::new();
    let mut add = |kind, name: &str| keys.push((kind, namespace.clone(), name.to_owned()));
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        volume.config_map.iter().for_each(|s| add("configmap", &s.name));
        volume.secret.iter().filter_map(|s| s.secret_name.as_deref()).for_each(|n| add("secret", n));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            source.config_map.iter().for_each(|s| add("configmap", &s.name));
            source.secret.iter().for_each(|s| add("secret", &s.name));
        }
    }
    keys.sort();
    keys.dedup();
    keys
}
