//! [`Registry`]: the door to all verbs, and what they share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use knarr_datastore::{Compare, Datastore, Op, Revision, Txn, TxnResult};
use knarr_kinds::{Ctx, Kind, Scope};
use knarr_machinery::{ApiError, GroupResource, UserInfo};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Entry};
use crate::convert::ConversionCaller;
use crate::feed::{Feed, ROOT, directory};
use crate::hooks::{Admission, Hooks, Operation};
use crate::kinds::Kinds;
use crate::ttl::Leases;
use crate::{codec, error, obj};

/// Attempts of a read-modify-write before a conflict is told; as upstream, only a storm gets that far.
pub(crate) const ATTEMPTS: usize = 256;
/// How long a list or watch waits for a revision that has not been reached.
const WAIT_REACHED: Duration = Duration::from_secs(3);

/// All verbs over one datastore.
#[derive(Debug)]
pub struct Registry {
    kinds: Arc<Kinds>,
    store: Datastore,
    feed: Arc<Feed>,
    leases: Leases,
    conversion: OnceLock<Arc<dyn ConversionCaller>>,
}

/// Who writes what, and how.
#[derive(Clone, Copy)]
pub struct WriteContext<'a> {
    /// The kind in the version of the request.
    pub kind: &'a Kind,
    /// Namespace, "" for cluster scope.
    pub namespace: &'a str,
    /// Name, "" where the document names it (create).
    pub name: &'a str,
    /// Subresource, if any.
    pub subresource: Option<&'a str>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Field manager.
    pub manager: &'a str,
    /// Nothing is persisted.
    pub dry_run: bool,
    /// The options document, for admission.
    pub options: &'a Value,
    /// Admission.
    pub hooks: &'a dyn Hooks,
}

/// The result of a write.
#[derive(Debug)]
pub struct Outcome {
    /// The object in the request's version, or a Status.
    pub object: Value,
    /// Whether the object was created (201).
    pub created: bool,
    /// Whether a delete removed the object (else it is on its way).
    pub deleted: bool,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// The present state of an object.
pub(crate) struct Current {
    /// In the request's version, resourceVersion set.
    pub value: Value,
    /// Its revision.
    pub revision: Revision,
    /// The lease it is bound to, if that was read from the datastore.
    pub lease: i64,
}

impl Registry {
    /// Opens the registry over a datastore; caches follow it until `shutdown`.
    ///
    /// # Errors
    /// When the datastore cannot be watched.
    pub async fn open(
        kinds: Arc<Kinds>,
        store: Datastore,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, knarr_datastore::Error> {
        let feed = Feed::start(store.clone(), shutdown).await?;
        Ok(Arc::new(Self {
            kinds,
            leases: Leases::new(store.clone()),
            store,
            feed,
            conversion: OnceLock::new(),
        }))
    }

    /// The kinds.
    pub fn kinds(&self) -> &Arc<Kinds> {
        &self.kinds
    }

    /// The datastore.
    pub fn store(&self) -> &Datastore {
        &self.store
    }

    /// Ends the watches and forgets the cache of a resource that is no longer served, or served by another schema.
    pub fn forget(&self, storage: &knarr_kinds::Storage) {
        self.feed.forget(storage);
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    pub(crate) fn feed_handle(&self) -> Arc<Feed> {
        self.feed.clone()
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) fn conversion_caller(&self) -> &OnceLock<Arc<dyn ConversionCaller>> {
        &self.conversion
    }

    /// Waits until the caches hold everything that was committed before now.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        self.feed.wait(self.store.revision()).await
    }

    /// Waits a little for a revision that a client named.
    pub(crate) async fn wait_reached(&self, revision: Revision) -> Result<(), ApiError> {
        self.feed.wait_for(revision, WAIT_REACHED).await
    }

    /// The kind whose documents are stored for `kind`.
    ///
    /// # Errors
    /// 405 for kinds without storage.
    pub fn storage_kind(&self, kind: &Kind) -> Result<Kind, ApiError> {
        let storage = kind.info.storage.as_ref().ok_or_else(ApiError::method_not_allowed)?;
        if kind.info.custom {
            // The definition may have changed since the request began: caches follow the newest one.
            let table = self.kinds.load();
            let alike = || table.all().iter().find(|k| k.info.custom && k.info.storage == kind.info.storage);
            let newest =
                table.find_kind(&kind.info.gvk).or_else(alike).ok_or_else(ApiError::path_not_found)?;
            return Ok(newest.rules.storage_kind().unwrap_or_else(|| newest.clone()));
        }
        if is_stored_version(kind) {
            return Ok(kind.clone());
        }
        self.kinds.load().storage_kind(storage).cloned().ok_or_else(|| {
            ApiError::internal(format!(
                "storage version {} of {} is not served",
                storage.version, storage.resource
            ))
        })
    }

    pub(crate) async fn cache(&self, kind: &Kind) -> Result<Arc<Cache>, ApiError> {
        let stored = self.storage_kind(kind)?;
        let storage = kind.info.storage.as_ref().ok_or_else(ApiError::method_not_allowed)?;
        self.feed.cache(storage, &stored).await
    }

    pub(crate) fn list_prefix(&self, kind: &Kind, cache: &Cache, namespace: &str) -> String {
        if kind.info.scope == Scope::Namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", cache.prefix())
        } else {
            cache.prefix().to_string()
        }
    }

    /// The datastore key of an object.
    ///
    /// # Errors
    /// 405 for kinds without storage, 400 for names that are no path segment.
    pub fn key(&self, kind: &Kind, namespace: &str, name: &str) -> Result<String, ApiError> {
        let storage = kind.info.storage.as_ref().ok_or_else(ApiError::method_not_allowed)?;
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            let text = if name.is_empty() {
                "name must be provided".into()
            } else {
                format!("Name parameter invalid: \"{name}\"")
            };
            return Err(ApiError::bad_request(text));
        }
        let directory = directory(storage);
        Ok(if kind.info.scope == Scope::Namespaced {
            if namespace.is_empty() {
                return Err(ApiError::bad_request("Namespace parameter required."));
            }
            format!("{ROOT}{directory}/{namespace}/{name}")
        } else {
            format!("{ROOT}{directory}/{name}")
        })
    }

    /// One object as it is served.
    ///
    /// # Errors
    /// 404, and what reading can raise.
    pub async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        self.get_at(kind, namespace, name, "").await
    }

    /// One object, not older than a resourceVersion ("" is the newest state).
    ///
    /// # Errors
    /// 404, 504 for a revision of the future, 400 for what is no revision.
    pub async fn get_at(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Result<Arc<Entry>, ApiError> {
        let key = self.key(kind, namespace, name)?;
        let cache = self.cache(kind).await?;
        if let Some(revision) = crate::list::parse_version(version)?.filter(|r| *r > 0) {
            self.wait_reached(revision).await?;
        }
        self.catch_up().await?;
        let entry = cache.get(&key).ok_or_else(|| ApiError::not_found(&kind.info.group_resource(), name))?;
        if kind.rules.conversion().is_none() {
            return Ok(entry);
        }
        Ok(self.told(kind, vec![entry]).await?.remove(0))
    }

    /// One object as a document in the kind's version.
    ///
    /// # Errors
    /// As [`Registry::get`].
    pub async fn get_value(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let entry = self.get(kind, namespace, name).await?;
        read(kind, &entry)
    }

    /// The present state for a write; `fresh` reads past the cache after a conflict.
    pub(crate) async fn current(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        fresh: bool,
    ) -> Result<Option<Current>, ApiError> {
        if fresh {
            let Some(kv) = self.store.get(key).await.map_err(error::from_store)? else { return Ok(None) };
            return self.decode_current(w.kind, &kv).await.map(Some);
        }
        let cache = self.cache(w.kind).await?;
        self.catch_up().await?;
        match cache.get(key) {
            Some(entry) => {
                let entry = match w.kind.rules.conversion() {
                    None => entry,
                    Some(_) => self.told(w.kind, vec![entry]).await?.remove(0),
                };
                Ok(Some(Current { value: read(w.kind, &entry)?, revision: entry.revision, lease: 0 }))
            }
            None => Ok(None),
        }
    }

    async fn decode_current(&self, kind: &Kind, kv: &knarr_datastore::KeyValue) -> Result<Current, ApiError> {
        let mut value = self.to_version(kind, codec::parse(&kv.value)?).await?;
        obj::set_meta(&mut value, "resourceVersion", &kv.mod_revision.to_string());
        Ok(Current { value, revision: kv.mod_revision, lease: kv.lease })
    }

    /// Writes a document over `expected` (0: it must not exist). `Ok(None)` is a conflict.
    pub(crate) async fn put(
        &self,
        kind: &Kind,
        key: &str,
        object: &Value,
        expected: Revision,
        lease: i64,
    ) -> Result<Option<Revision>, ApiError> {
        let value = if is_stored_version(kind) {
            codec::to_stored(object)?
        } else {
            codec::to_stored(&self.to_stored(kind, object).await?)?
        };
        self.commit(key, expected, Op::Put { key: key.to_string(), value, lease }).await
    }

    /// Removes a key at `expected`. `Ok(None)` is a conflict.
    pub(crate) async fn remove(&self, key: &str, expected: Revision) -> Result<Option<Revision>, ApiError> {
        self.commit(key, expected, Op::Delete { key: key.to_string() }).await
    }

    async fn commit(&self, key: &str, expected: Revision, op: Op) -> Result<Option<Revision>, ApiError> {
        let txn = Txn {
            compares: vec![Compare::ModRevision(key.to_string(), expected)],
            success: vec![op.clone()],
        };
        match self.store.txn(txn).await.map_err(error::from_store)? {
            TxnResult::Committed { revision, previous } => {
                // Own writes are visible to own reads before the answer is out.
                self.feed.wait(revision).await?;
                // An unchanged write keeps the object's revision.
                Ok(Some(op.resulting_revision(previous.first().and_then(Option::as_ref), revision)))
            }
            TxnResult::Conflict { .. } => Ok(None),
        }
    }
}

impl<'a> WriteContext<'a> {
    /// The write as admission sees it.
    pub fn admission(
        &self,
        operation: Operation,
        object: Option<Value>,
        old: Option<&'a Value>,
    ) -> Admission<'a> {
        Admission {
            operation,
            kind: self.kind,
            gvk: &self.kind.info.gvk,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            user: self.user,
            object,
            old,
            dry_run: self.dry_run,
            options: self.options,
            warnings: Vec::new(),
        }
    }
}

impl WriteContext<'_> {
    /// Group and resource for error texts.
    pub fn resource(&self) -> GroupResource {
        self.kind.info.group_resource()
    }

    pub(crate) fn ctx<'c>(&'c self, now: &'c str, uid: &'c str) -> Ctx<'c> {
        Ctx { user: self.user, namespace: self.namespace, subresource: self.subresource, now, uid }
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[knarr_machinery::FieldError]) -> ApiError {
        ApiError::invalid(&self.kind.info.gvk.group_kind(), name, errors)
    }

    pub(crate) fn api_version(&self) -> String {
        self.kind.info.gvk.group_version().to_string()
    }
}

/// The document of an entry in the kind's version. Entries of the stored version are in their final form.
///
/// # Errors
/// Damaged bytes, or a form that this version cannot tell.
pub fn read(kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
    // What a webhook converts has left the registry converted.
    if is_stored_version(kind) || kind.rules.conversion().is_some() {
        return entry.value();
    }
    kind.rules.from_storage(entry.value()?)
}

/// Whether documents of this kind are stored as they are.
pub fn is_stored_version(kind: &Kind) -> bool {
    let info = &kind.info;
    info.storage
        .as_ref()
        .is_some_and(|s| s.version == info.gvk.version && s.resource == info.group_resource())
}

/// `group/version, Kind=kind` of a document.
pub(crate) fn type_text(document: &Value) -> String {
    let text = |f: &str| document.get(f).and_then(Value::as_str).unwrap_or("");
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// Now, RFC 3339 with seconds.
pub fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

/// RFC 3339 with seconds in UTC.
pub fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A fresh UID.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}
