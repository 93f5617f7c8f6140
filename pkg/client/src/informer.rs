//! Shared informers: one list-and-watch per kind, an indexed store, ordered event callbacks.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
type Key = (String, String);

struct State<K> {
    /// By (namespace, name); "" is the namespace of cluster-scoped objects.
    objects: BTreeMap<Key, Arc<K>>,
}

/// The current objects of one kind and the callbacks for their changes.
///
/// `metadata.managedFields` is dropped, as upstream's controllers do: it is often half of an object, nobody reads
/// it here, and an update without it keeps what the server has.
pub struct Store<K> {
    state: RwLock<State<K>>,
    /// Held while an event is delivered, so that a new handler sees a consistent beginning.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    fn new() -> Self {
        Self {
            state: RwLock::new(State { objects: BTreeMap::new() }),
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
        self.state.read().objects.get(&(namespace.to_string(), name.to_string())).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_ns(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_string(), String::new());
        let state = self.state.read();
        state.objects.range(from..).take_while(|(k, _)| k.0 == namespace).map(|(_, v)| v.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
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

    fn key(object: &K) -> Key {
        (object.namespace().unwrap_or_default(), object.name_any())
    }

    fn apply(&self, mut object: K) {
        object.managed_fields_mut().clear();
        let handlers = self.handlers.lock();
        let new = Arc::new(object);
        let old = self.state.write().objects.insert(Self::key(&new), new.clone());
        deliver(&handlers, &Event::Applied { new, old });
    }

    fn delete(&self, object: K) {
        let handlers = self.handlers.lock();
        if self.state.write().objects.remove(&Self::key(&object)).is_some() {
            deliver(&handlers, &Event::Deleted(Arc::new(object)));
        }
    }

    /// Takes a complete list: what is missing in it was deleted while nobody watched.
    fn replace(&self, mut objects: Vec<K>) {
        objects.iter_mut().for_each(|o| o.managed_fields_mut().clear());
        let handlers = self.handlers.lock();
        let fresh: BTreeMap<Key, Arc<K>> =
            objects.into_iter().map(|o| (Self::key(&o), Arc::new(o))).collect();
        let old = std::mem::replace(&mut self.state.write().objects, fresh.clone());
        for (key, gone) in &old {
            if !fresh.contains_key(key) {
                deliver(&handlers, &Event::Deleted(gone.clone()));
            }
        }
        for (key, new) in fresh {
            let before = old.get(&key).cloned();
            let same = before.as_ref().is_some_and(|b| b.resource_version() == new.resource_version());
            if !same {
                deliver(&handlers, &Event::Applied { new, old: before });
            }
        }
        drop(handlers);
        self.synced.send_replace(true);
    }
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
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
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
}

async fn run<K>(api: Api<K>, store: Arc<Store<K>>, shutdown: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let stream = watcher(api, watcher::Config::default().streaming_lists()).default_backoff();
    let mut stream = Box::pin(stream);
    let mut listing: Vec<K> = Vec::new();
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Ok(watcher::Event::Init)) => listing.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => listing.push(object),
            Some(Ok(watcher::Event::InitDone)) => store.replace(std::mem::take(&mut listing)),
            Some(Ok(watcher::Event::Apply(object))) => store.apply(object),
            Some(Ok(watcher::Event::Delete(object))) => store.delete(object),
            Some(Err(error)) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch failed, retrying with backoff");
            }
        }
    }
}
