//! The EndpointSlices that one controller manages: which there are, and how a plan of changes is performed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use parking_lot::Mutex;

use crate::context::Ctx;
use crate::error::{During, Error};
use crate::index::Index;
use crate::services::EndpointPortKey;

/// Label with the service's name.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label with the name of the controller.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// A slice that was made and not seen is looked for again after this time, in case its event was lost.
pub const UNSEEN: Duration = Duration::from_secs(30);

/// Namespace and name of a service.
pub type Key = (String, String);

/// Ports of a slice, sorted.
pub type Ports = Vec<EndpointPortKey>;

/// Changes to the slices of a service.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Slices to replace.
    pub update: Vec<EndpointSlice>,
    /// Names.
    pub delete: Vec<String>,
}

/// The service of a slice that this controller manages.
pub fn service_of(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(MANAGED_BY).map(String::as_str) == Some(manager)).then_some(())?;
    let service = labels.get(SERVICE_NAME).filter(|s| !s.is_empty())?;
    Some((slice.namespace().unwrap_or_default(), service.clone()))
}

/// The key of [`service_of`] for an index.
pub fn index_keys(slice: &EndpointSlice, manager: &str) -> Vec<String> {
    service_of(slice, manager).map(|(namespace, name)| format!("{namespace}/{name}")).into_iter().collect()
}

/// Ports as the API tells them.
pub fn port_of(key: &EndpointPortKey) -> EndpointPort {
    EndpointPort {
        name: Some(key.name.clone()),
        port: Some(key.port),
        protocol: Some(key.protocol.clone()),
        app_protocol: key.app_protocol.clone(),
    }
}

/// The ports of a slice.
pub fn ports_of(slice: &EndpointSlice) -> Ports {
    let mut ports: Ports = slice
        .ports
        .iter()
        .flatten()
        .map(|p| EndpointPortKey {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: p.port.unwrap_or(0),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

/// The slices of one controller.
pub struct Slices {
    ctx: Arc<Ctx>,
    store: Arc<Store<EndpointSlice>>,
    by_service: Arc<Index<EndpointSlice>>,
    /// Slices that were created and not seen yet, by service.
    unseen: Arc<Mutex<HashMap<Key, HashSet<String>>>>,
}

impl Slices {
    /// Follows the slices; each change queues their service. `keys` is [`index_keys`] with the manager's name.
    pub fn attach(
        ctx: &Arc<Ctx>,
        queue: &WorkQueue<Key>,
        manager: &'static str,
        keys: fn(&EndpointSlice) -> Vec<String>,
    ) -> Arc<Self> {
        let store = ctx.store::<EndpointSlice>();
        let by_service = Index::attach(&store, keys);
        let unseen = Arc::new(Mutex::new(HashMap::<Key, HashSet<String>>::new()));
        let (target, seen) = (queue.clone(), unseen.clone());
        store.on_event(move |event| {
            let (slice, before) = match event {
                Event::Applied { new, old } => (new, old.as_ref()),
                Event::Deleted(old) => (old, None),
            };
            if let Some(key) = service_of(slice, manager) {
                if let Some(uids) = seen.lock().get_mut(&key) {
                    uids.remove(slice.metadata.uid.as_deref().unwrap_or_default());
                }
                target.add(key);
            }
            if let Some(key) = before.and_then(|b| service_of(b, manager)) {
                target.add(key);
            }
        });
        Arc::new(Self { ctx: ctx.clone(), store, by_service, unseen })
    }

    /// Waits for the first list.
    pub async fn synced(&self) {
        self.store.synced().await;
    }

    /// The slices of a service.
    pub fn of(&self, key: &Key) -> Vec<Arc<EndpointSlice>> {
        self.by_service.get(&format!("{}/{}", key.0, key.1))
    }

    /// Whether every slice that was made for the service has been seen.
    pub fn are_seen(&self, key: &Key) -> bool {
        self.unseen.lock().get(key).is_none_or(HashSet::is_empty)
    }

    /// The service is gone.
    pub fn forget(&self, key: &Key) {
        self.unseen.lock().remove(key);
    }

    /// Performs a plan.
    ///
    /// # Errors
    /// The first change that is refused; a namespace that goes away is none.
    pub async fn perform(&self, key: &Key, plan: Plan) -> Result<(), Error> {
        let namespace = &key.0;
        let api = self.ctx.api::<EndpointSlice>(namespace);
        for slice in plan.create {
            let prefix = slice.metadata.generate_name.clone().unwrap_or_default();
            let result = api.create(&PostParams::default(), &slice).await;
            match result.during("create", "EndpointSlice", namespace, &prefix) {
                Ok(made) => self.expect(key, &made),
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for slice in plan.update {
            let name = slice.name_any();
            let result = api.replace(&name, &PostParams::default(), &slice).await;
            result.during("update", "EndpointSlice", namespace, &name)?;
        }
        for name in plan.delete {
            let result = api.delete(&name, &DeleteParams::default()).await;
            match result.during("delete", "EndpointSlice", namespace, &name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes a new slice until the informer shows it. The lock is shared with the event handler, so a slice that
    /// is already in the store has been seen.
    fn expect(&self, key: &Key, made: &EndpointSlice) {
        let mut unseen = self.unseen.lock();
        if self.store.get(&key.0, &made.name_any()).is_none() {
            unseen.entry(key.clone()).or_default().insert(made.uid().unwrap_or_default());
        }
    }
}
