//! What a controller gets: its client, the shared informers, a recorder, and the worker loop.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use knarr_client::{Informers, Recorder, Store, WorkQueue};
use kube::api::{Api, DynamicObject};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::index::Index;

pub use knarr_client::Cached;

/// Gives a client that acts as the named user.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// The user whose rights the shared informers use.
pub const READER: &str = "system:kube-controller-manager";

/// Settings of the controllers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pod addresses of the whole cluster; nodes get a part each. Empty: nodes get none.
    pub cluster_cidrs: Vec<String>,
    /// Prefix length of an IPv4 part.
    pub node_cidr_mask_v4: u8,
    /// Prefix length of an IPv6 part.
    pub node_cidr_mask_v6: u8,
    /// PEM of the CA that signed the API server's certificate, published to every namespace.
    pub root_ca: String,
    /// Terminated pods above this number are deleted, oldest first. 0: never.
    pub terminated_pod_threshold: usize,
    /// How long a node must be missing before its pods are deleted.
    pub missing_node_grace: Duration,
    /// A node whose lease is older than this is not healthy.
    pub node_monitor_grace: Duration,
    /// What signs certificate requests; None leaves them alone.
    pub authorities: Option<Arc<crate::csr_signing::Authorities>>,
    /// Host name that events carry as their reporting instance.
    pub host: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            root_ca: String::new(),
            terminated_pod_threshold: 12_500,
            missing_node_grace: Duration::from_secs(40),
            node_monitor_grace: Duration::from_secs(40),
            authorities: None,
            host: String::new(),
        }
    }
}

/// A row of the controller table.
pub struct Controller {
    /// Name as upstream's controller manager tells it.
    pub name: &'static str,
    /// Service account in `kube-system` whose role allows what the controller does.
    pub account: &'static str,
    /// Runs until shutdown.
    pub start: fn(Arc<Ctx>) -> BoxFuture<'static, Result<(), Error>>,
}

/// What all controllers of a process have in common.
pub struct Shared {
    informers: Arc<Informers>,
    client_for: ClientFor,
    config: Arc<Config>,
    pods: Arc<Index<Pod>>,
    shutdown: CancellationToken,
}

impl Shared {
    /// Starts the informers that nearly every controller needs.
    ///
    /// # Errors
    /// An unusable configuration.
    pub fn new(
        config: Config,
        client_for: ClientFor,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        let informers = Informers::new(client_for(READER), shutdown.clone());
        Self::with_informers(informers, config, client_for, shutdown)
    }

    /// On informers that exist already.
    ///
    /// # Errors
    /// An unusable configuration.
    pub fn with_informers(
        informers: Arc<Informers>,
        config: Config,
        client_for: ClientFor,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, Error> {
        // The index is attached before any controller's handler, so a controller never runs ahead of it.
        let pods = Index::attach(&informers.of::<Pod>(), crate::pods::index_keys);
        Ok(Arc::new(Self { informers, client_for, config: Arc::new(config), pods, shutdown }))
    }

    /// The context of one controller.
    pub fn context(&self, controller: &Controller) -> Arc<Ctx> {
        let user = format!("system:serviceaccount:kube-system:{}", controller.account);
        let client = (self.client_for)(&user);
        let recorder = Recorder::new(client.clone(), controller.account, &self.config.host);
        Arc::new(Ctx {
            name: controller.name,
            informers: self.informers.clone(),
            reader: (self.client_for)(READER),
            client,
            recorder,
            config: self.config.clone(),
            pods: self.pods.clone(),
            shutdown: self.shutdown.clone(),
        })
    }
}

/// The context of one controller.
pub struct Ctx {
    /// Name in the table.
    pub name: &'static str,
    /// Client with the controller's own identity.
    pub client: Client,
    /// Client with the informers' identity, for watches that are not in the informers.
    pub reader: Client,
    /// Shared caches.
    pub informers: Arc<Informers>,
    /// Events of this controller.
    pub recorder: Recorder,
    /// Settings.
    pub config: Arc<Config>,
    /// Pods by controlling owner, orphans by namespace, and pods by node; see [`crate::pods::index_keys`].
    pub pods: Arc<Index<Pod>>,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Ctx {
    /// API of a namespaced kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// API of a cluster-scoped kind, or of all namespaces.
    pub fn api_all<K>(&self) -> Api<K>
    where
        K: Resource,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    /// API of a kind known only at run time.
    pub fn api_dynamic(
        &self,
        resource: &kube::discovery::ApiResource,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// The shared cache of a kind.
    pub fn store<K>(&self) -> Arc<Store<K>>
    where
        K: Cached,
    {
        self.informers.of::<K>()
    }

    /// Records an event about an object.
    pub fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, note: &str) {
        let kind = match kind {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        self.recorder.event(about, kind, reason, note);
    }
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Something happened as it should.
    Normal,
    /// Something that a user should look at.
    Warning,
}

/// What to do with a key after a reconcile that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Wait for the next event.
    Done,
    /// Look again after a deadline that is known.
    After(Duration),
    /// Look again with growing delay: something is not there yet and no event tells when.
    Backoff,
}

impl Action {
    /// The earlier of two.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Backoff, _) | (_, Self::Backoff) => Self::Backoff,
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::After(a), Self::Done) | (Self::Done, Self::After(a)) => Self::After(a),
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// Serves a queue with this many workers until shutdown.
pub async fn work<T, F, Fut>(ctx: Arc<Ctx>, queue: WorkQueue<T>, workers: usize, reconcile: F)
where
    T: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (ctx, queue, reconcile) = (ctx.clone(), queue.clone(), reconcile.clone());
        tasks.spawn(async move {
            while let Some(key) = queue.next().await {
                let result = reconcile(key.clone()).await;
                settle(&ctx, &queue, key, result);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

fn settle<T>(ctx: &Ctx, queue: &WorkQueue<T>, key: T, result: Result<Action, Error>)
where
    T: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static,
{
    match result {
        Ok(Action::Done) => queue.forget(&key),
        Ok(Action::After(delay)) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay);
        }
        Ok(Action::Backoff) => queue.add_rate_limited(key.clone()),
        Err(error) => {
            if error.is_conflict() {
                tracing::debug!(controller = ctx.name, ?key, %error, "will retry");
            } else if !ctx.shutdown.is_cancelled() {
                tracing::warn!(controller = ctx.name, ?key, %error, "will retry");
            }
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

/// A reference to an object, for events.
pub fn reference(
    api_version: &str,
    kind: &str,
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
