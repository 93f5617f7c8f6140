//! CustomResourceDefinitions at run time: their names are granted, their kinds join the kind table, and when one goes
//! its objects go first. The decisions are pure (`knarr_kinds::custom`); here they are followed.
//!
//! Entry point: [`start`], which has taken over all stored definitions when it returns.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use knarr_kinds::custom::{Definition, status};
use knarr_kinds::{Kind, Storage};
use knarr_machinery::{ApiError, GroupResource, GroupVersionResource, UserInfo};
use knarr_registry::delete::DeleteOptions;
use knarr_registry::registry::now;
use knarr_registry::update::Change;
use knarr_registry::{AllowAll, EventType, ListOptions, Registry, WatchOptions, Watched, WriteContext, obj};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const MANAGER: &str = "kube-apiserver";

/// A definition as it is known, and what it compiles to.
struct Known {
    crd: Value,
    compiled: Option<Arc<Definition>>,
}

/// Follows all definitions.
struct Definitions {
    registry: Arc<Registry>,
    kind: Kind,
    known: BTreeMap<String, Known>,
    /// Definitions whose objects are being deleted.
    leaving: Arc<Mutex<HashSet<String>>>,
    shutdown: CancellationToken,
}

/// Takes over the stored definitions and follows them until `shutdown`.
///
/// # Errors
/// When definitions cannot be read.
pub(crate) async fn start(registry: Arc<Registry>, shutdown: CancellationToken) -> Result<(), ApiError> {
    let gvr = GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let kind = registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
    let mut definitions = Definitions {
        kind,
        known: BTreeMap::new(),
        leaving: Arc::default(),
        shutdown: shutdown.clone(),
        registry,
    };
    let from = definitions.take_all().await?;
    tokio::spawn(async move {
        tokio::select! {
            () = definitions.follow(from) => {}
            () = shutdown.cancelled() => {}
        }
    });
    Ok(())
}

impl Definitions {
    /// Reads all definitions; returns the revision of the list.
    async fn take_all(&mut self) -> Result<i64, ApiError> {
        let page = self.registry.list(&self.kind, "", &ListOptions::default()).await?;
        let mut present = BTreeMap::new();
        for entry in &page.entries {
            present.insert(entry.name.to_string(), entry.value()?);
        }
        let gone: Vec<String> = self.known.keys().filter(|k| !present.contains_key(*k)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        for (name, crd) in present {
            self.learn(&name, crd);
        }
        self.publish();
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in names {
            self.act(&name).await;
        }
        Ok(page.revision)
    }

    async fn follow(&mut self, mut from: i64) {
        loop {
            let options = WatchOptions { resource_version: from.to_string(), ..WatchOptions::default() };
            if let Ok(mut watch) = self.registry.watch(&self.kind, "", options).await {
                while let Some(events) = watch.next().await {
                    for event in events {
                        self.take(event).await;
                    }
                }
            }
            // The watch fell behind: everything is read anew.
            from = match self.take_all().await {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::error!(%error, "cannot read CustomResourceDefinitions; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            };
        }
    }

    async fn take(&mut self, event: Watched) {
        let Watched::Event { event, entry, .. } = event else { return };
        let name = entry.name.to_string();
        if event == EventType::Deleted {
            self.forget(&name);
            self.publish();
            // A name may have become free for others of the group.
            let others: Vec<String> = self.known.keys().cloned().collect();
            for other in others {
                self.act(&other).await;
            }
            return;
        }
        match entry.value() {
            Ok(crd) => {
                if self.learn(&name, crd) {
                    self.publish();
                }
                self.act(&name).await;
            }
            Err(error) => {
                tracing::error!(%error, name, "CustomResourceDefinition is damaged; it is left as it was")
            }
        }
    }

    /// Remembers a definition; true when the kind table changes with it.
    fn learn(&mut self, name: &str, crd: Value) -> bool {
        let before = self.known.get(name);
        let revision = |c: &Value| obj::resource_version(c).parse::<i64>().unwrap_or(0);
        if before.is_some_and(|b| revision(&b.crd) > revision(&crd)) {
            // The event of a version before the one that we wrote ourselves: what is served stays served.
            return false;
        }
        let same = |pointer: &str| before.is_some_and(|b| b.crd.pointer(pointer) == crd.pointer(pointer));
        let unchanged = same("/spec") && same("/status/acceptedNames") && same("/metadata/uid");
        let compiled = match before {
            Some(b) if unchanged => b.compiled.clone(),
            _ => match Definition::compile(&crd) {
                Ok(d) => Some(Arc::new(d)),
                Err(error) => {
                    tracing::error!(name, error, "CustomResourceDefinition cannot be served");
                    None
                }
            },
        };
        let state = |c: &Value| (is_served(c), is_terminating(c));
        let changed = !unchanged || before.is_none_or(|b| state(&b.crd) != state(&crd));
        if let (false, Some(b)) = (unchanged, before) {
            self.registry.forget(&storage_of(&b.crd));
        }
        self.known.insert(name.to_string(), Known { crd, compiled });
        changed
    }

    fn forget(&mut self, name: &str) {
        if let Some(known) = self.known.remove(name) {
            self.registry.forget(&storage_of(&known.crd));
        }
    }

    fn publish(&self) {
        let kinds = self
            .known
            .values()
            .filter(|k| is_served(&k.crd))
            .filter_map(|k| k.compiled.as_ref().map(|c| c.kinds(is_terminating(&k.crd))))
            .flatten()
            .collect();
        self.registry.kinds().set_custom(kinds);
    }

    /// Takes the next step of a definition's life.
    async fn act(&mut self, name: &str) {
        let Some(known) = self.known.get(name) else { return };
        if is_terminating(&known.crd) {
            self.begin_leaving(name);
            return;
        }
        let others: Vec<Value> =
            self.known.iter().filter(|(k, _)| *k != name).map(|(_, v)| v.crd.clone()).collect();
        let stamp = now();
        let accept = |crd: &Value| status::accept_names(crd, &others, &stamp);
        self.step(name, &accept).await;
        self.step(name, &|crd| status::establish(crd, &stamp)).await;
    }

    /// Writes what `decide` makes of the definition, and learns it at once: names are granted one by one.
    async fn step(&mut self, name: &str, decide: &(dyn Fn(&Value) -> Option<Value> + Sync)) {
        let Some(known) = self.known.get(name) else { return };
        if decide(&known.crd).is_none() {
            return;
        }
        match write_status(&self.registry, &self.kind, name, decide).await {
            Ok(crd) => {
                if self.learn(name, crd) {
                    self.publish();
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::error!(%error, name, "cannot write the status of a CustomResourceDefinition")
            }
        }
    }

    /// Deletes the objects of a definition in a task of its own, then lets the definition go.
    fn begin_leaving(&self, name: &str) {
        let Some(known) = self.known.get(name) else { return };
        if !obj::finalizers(&known.crd).iter().any(|f| f == status::CLEANUP_FINALIZER)
            || !self.leaving.lock().insert(name.to_string())
        {
            return;
        }
        let leave = Leave {
            registry: self.registry.clone(),
            kind: self.kind.clone(),
            name: name.to_string(),
            established: status::is_true(&known.crd, "Established"),
            instances: known.compiled.as_ref().and_then(|c| c.kinds(true).into_iter().next()).map(as_stored),
        };
        let (leaving, shutdown) = (self.leaving.clone(), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                result = leave.run() => if let Err(error) = result {
                    tracing::error!(%error, name = leave.name, "cannot clean up after a CustomResourceDefinition");
                },
                () = shutdown.cancelled() => {}
            }
            leaving.lock().remove(&leave.name);
        });
    }
}

/// The kind of the stored documents as they are: they must go also when nobody can convert them any more.
fn as_stored(kind: Kind) -> Kind {
    let mut info = (*kind.info).clone();
    if let Some(storage) = &info.storage {
        info.gvk.version = storage.version.clone();
    }
    Kind { info: Arc::new(info), rules: knarr_kinds::plain_rules() }
}

/// Served means told as established: who sees the kind sees the condition too.
fn is_served(crd: &Value) -> bool {
    status::is_true(crd, "Established")
}

fn is_terminating(crd: &Value) -> bool {
    obj::deletion_timestamp(crd).is_some() || status::is_true(crd, "Terminating")
}

fn storage_of(crd: &Value) -> Storage {
    let text = |pointer: &str| crd.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_string();
    Storage {
        resource: GroupResource::new(text("/spec/group"), text("/spec/names/plural")),
        version: String::new().into(),
    }
}

fn system() -> UserInfo {
    UserInfo::component("system:apiserver", &["system:masters"])
}

/// Writes what `decide` makes of a definition's present state; what it has nothing to say about stays.
async fn write_status(
    registry: &Registry,
    kind: &Kind,
    name: &str,
    decide: &(dyn Fn(&Value) -> Option<Value> + Sync),
) -> Result<Value, ApiError> {
    let (user, options) = (system(), json!({}));
    let context = WriteContext {
        kind,
        namespace: "",
        name,
        subresource: Some("status"),
        user: &user,
        manager: MANAGER,
        dry_run: false,
        options: &options,
        hooks: &AllowAll,
    };
    let edit = |old: &Value| Ok(decide(old).unwrap_or_else(|| old.clone()));
    registry.change(&context, Change::Edit(&edit)).await.map(|outcome| outcome.object)
}

/// The end of a definition.
struct Leave {
    registry: Arc<Registry>,
    kind: Kind,
    name: String,
    established: bool,
    instances: Option<Kind>,
}

impl Leave {
    async fn run(&self) -> Result<(), ApiError> {
        self.condition("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress", false)
            .await?;
        let Some(instances) = self.instances.as_ref().filter(|_| self.established) else {
            return self.condition("False", "NeverEstablished", "resource was never established", true).await;
        };
        if let Err(error) = self.delete_instances(instances).await {
            let text = format!("could not issue all deletes: {error}");
            self.condition("True", "InstanceDeletionFailed", &text, false).await?;
            return Err(error);
        }
        self.condition("False", "InstanceDeletionCompleted", "removed all instances", true).await
    }

    async fn delete_instances(&self, kind: &Kind) -> Result<(), ApiError> {
        let (user, options) = (system(), json!({}));
        let context = WriteContext {
            kind,
            namespace: "",
            name: "",
            subresource: None,
            user: &user,
            manager: MANAGER,
            dry_run: false,
            options: &options,
            hooks: &AllowAll,
        };
        let delete = DeleteOptions::parse(&json!({}))?;
        loop {
            let (_, revision) =
                self.registry.delete_collection(&context, &ListOptions::default(), &delete).await?;
            let left = self.registry.list(kind, "", &ListOptions::default()).await?;
            if left.entries.is_empty() {
                return Ok(());
            }
            // Finalizers hold some: whenever one of them changes, there may be fewer.
            let options = WatchOptions { resource_version: revision.to_string(), ..WatchOptions::default() };
            let mut watch = self.registry.watch(kind, "", options).await?;
            let gone = |events: &[Watched]| {
                events.iter().any(|e| matches!(e, Watched::Event { event: EventType::Deleted, .. }))
            };
            while let Some(events) = watch.next().await {
                if gone(&events) {
                    break;
                }
            }
        }
    }

    async fn condition(
        &self,
        state: &str,
        reason: &str,
        message: &str,
        release: bool,
    ) -> Result<(), ApiError> {
        let stamp = now();
        let decide = |old: &Value| {
            let mut crd = old.clone();
            status::set_condition(&mut crd, &stamp, ("Terminating", state, reason, message));
            if release {
                let mut kept = obj::finalizers(&crd);
                kept.retain(|f| f != status::CLEANUP_FINALIZER);
                obj::set_finalizers(&mut crd, &kept);
            }
            Some(crd)
        };
        match write_status(&self.registry, &self.kind, &self.name, &decide).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
