//! Shared informers: one list-and-watch per kind, an indexed store, ordered event callbacks.

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::shelf::{Key, Known, Shelf};

/// A change of one object, in watch order.
#[derive(Debug, Clone)]
pub enum Event<K> {
    /// Added, modified, or seen again after a relist.
    Applied {
        /// The object now.
        new: Arc<K>,
        /// The object as it was known before.
        old: Option<Arc<K>>,
    },
    /// Gone; the last known state.
    Deleted(Arc<K>),
}

type Handler<K> = Box<dyn Fn(&Event<K>) + Send + Sync>;

/// What a stored kind must be able to do.
pub trait Cached:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// The current objects of one kind and the callbacks for their changes.
///
/// `metadata.managedFields` is dropped, as upstream's controllers do: it is often half of an object, nobody reads
/// it here, and an update without it keeps what the server has. Large sets are mostly kept packed (see [`Shelf`]).
pub struct Store<K> {
    state: RwLock<Shelf<K>>,
    /// Held while an event is delivered, so that a new handler sees a consistent beginning.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K: Cached> Store<K> {
    fn new() -> Self {
        Self {
            state: RwLock::new(Shelf::default()),
            handlers: Mutex::new(Vec::new()),
            synced: watch::channel(false).0,
        }
    }

    /// Waits until the first complete list has been delivered.
    pub async fn synced(&self) {
        let mut receiver = self.synced.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _closed = receiver.wait_for(|ready| *ready).await;
    }

    /// Whether the first complete list has been delivered.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// One object; `namespace` is "" for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = (namespace.to_string(), name.to_string());
        let known = self.state.read().peek(&key)?;
        match known {
            Known::Parsed(object) => Some(object),
            Known::Packed => self.state.write().open(&key),
        }
    }

    /// As [`Store::get`], for callers that go through many objects once: what is packed stays packed.
    pub fn read(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state.read().read(&(namespace.to_string(), name.to_string()))
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().range(None)
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_ns(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.read().range(Some(namespace))
    }

    /// Calls `look` with each object of a namespace, ordered by name, without holding them all.
    pub fn for_each_of(&self, namespace: &str, mut look: impl FnMut(&K)) {
        self.state.read().each(Some(namespace), |object| look(&object));
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every change from now on, after one `Applied` for each object that exists.
    /// A handler runs inside the watch task: it must not block, and must not call `on_event` itself.
    pub fn on_event(&self, handler: impl Fn(&Event<K>) + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock();
        for new in self.list() {
            handler(&Event::Applied { new, old: None });
        }
        handlers.push(Box::new(handler));
    }
}

/// Where the objects of a watch go.
pub trait Sink<K>: Send + Sync + 'static {
    /// Keys of what is known: what a complete list does not bring was deleted while nobody watched.
    fn keys(&self) -> BTreeSet<Key>;
    /// Added or modified.
    fn apply(&self, object: K);
    /// Brought by a complete list, which may be known already.
    fn listed(&self, object: K) {
        self.apply(object);
    }
    /// Gone; `last` is its last state, where the watch told it.
    fn remove(&self, key: &Key, last: Option<K>);
    /// A complete list has been delivered.
    fn complete(&self);
}

impl<K: Cached> Store<K> {
    /// `listed`: what is known in this version is not news.
    fn put(&self, mut object: K, listed: bool) {
        object.managed_fields_mut().clear();
        let handlers = self.handlers.lock();
        let new = Arc::new(object);
        let old = self.state.write().insert(key_of(new.as_ref()), new.clone());
        let same = old.as_ref().is_some_and(|b| b.resource_version() == new.resource_version());
        if !(listed && same) {
            deliver(&handlers, &Event::Applied { new, old });
        }
    }
}

impl<K: Cached> Sink<K> for Store<K> {
    fn keys(&self) -> BTreeSet<Key> {
        self.state.read().keys()
    }

    fn apply(&self, object: K) {
        self.put(object, false);
    }

    fn listed(&self, object: K) {
        self.put(object, true);
    }

    fn remove(&self, key: &Key, last: Option<K>) {
        let handlers = self.handlers.lock();
        let known = self.state.write().remove(key);
        if let Some(known) = known {
            deliver(&handlers, &Event::Deleted(last.map_or(known, Arc::new)));
        }
    }

    fn complete(&self) {
        self.synced.send_replace(true);
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn deliver<K>(handlers: &[Handler<K>], event: &Event<K>) {
    for handler in handlers {
        handler(event);
    }
}

/// All informers of a process or component.
pub struct Informers {
    client: kube::Client,
    shutdown: CancellationToken,
    stores: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Informers {
    /// Nothing is watched until [`Informers::of`] asks for it.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { client, shutdown, stores: Mutex::new(HashMap::new()) })
    }

    /// The store of a kind in all namespaces; the first call starts its watch.
    pub fn of<K>(&self) -> Arc<Store<K>>
    where
        K: Cached,
    {
        let mut stores = self.stores.lock();
        if let Some(known) = stores.get(&TypeId::of::<K>())
            && let Ok(store) = known.clone().downcast::<Store<K>>()
        {
            return store;
        }
        let store = Arc::new(Store::<K>::new());
        stores.insert(TypeId::of::<K>(), store.clone());
        let task = run(Api::<K>::all(self.client.clone()), store.clone(), self.shutdown.clone());
        tokio::spawn(task);
        store
    }

    /// A watch of all objects of a kind for a sink that keeps only what it needs of them.
    pub fn feed<K: Cached>(&self, sink: Arc<impl Sink<K>>) {
        tokio::spawn(run(Api::<K>::all(self.client.clone()), sink, self.shutdown.clone()));
    }
}

async fn run<K: Cached>(api: Api<K>, sink: Arc<impl Sink<K>>, shutdown: CancellationToken) {
    let stream = watcher(api, watcher::Config::default().streaming_lists()).default_backoff();
    let mut stream = Box::pin(stream);
    let mut missing = BTreeSet::new();
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Ok(watcher::Event::Init)) => missing = sink.keys(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                missing.remove(&key_of(&object));
                sink.listed(object);
            }
            Some(Ok(watcher::Event::InitDone)) => {
                std::mem::take(&mut missing).iter().for_each(|key| sink.remove(key, None));
                sink.complete();
            }
            Some(Ok(watcher::Event::Apply(object))) => sink.apply(object),
            Some(Ok(watcher::Event::Delete(object))) => sink.remove(&key_of(&object), Some(object)),
            Some(Err(error)) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch failed, retrying with backoff");
            }
        }
    }
}
