//! The set of kinds, which may change at run time (CRDs): an immutable table behind one atomic pointer.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use knarr_kinds::kind::Storage;
use knarr_kinds::{Kind, Scope};
use knarr_machinery::{GroupVersionKind, GroupVersionResource};
use parking_lot::Mutex;
use tokio::sync::watch;

/// One state of the set.
#[derive(Debug, Default)]
pub struct KindTable {
    kinds: Vec<Kind>,
    /// How many of them this server answers for itself; the others come after.
    own: usize,
    by_resource: HashMap<GroupVersionResource, usize>,
    by_kind: HashMap<GroupVersionKind, usize>,
    by_storage: HashMap<Storage, usize>,
    groups: HashMap<String, Vec<String>>,
    /// Raised by every change of the set.
    pub generation: u64,
}

impl KindTable {
    fn build(kinds: Vec<Kind>, own: usize, generation: u64) -> Self {
        let mut table = Self { generation, own, ..Self::default() };
        for (i, kind) in kinds.iter().enumerate() {
            let info = &kind.info;
            let resource = GroupVersionResource::new(
                info.gvk.group.clone(),
                info.gvk.version.clone(),
                info.plural.clone(),
            );
            table.by_resource.insert(resource, i);
            table.by_kind.entry(info.gvk.clone()).or_insert(i);
            if let Some(storage) = &info.storage
                && storage.version == info.gvk.version
                && storage.resource == info.group_resource()
            {
                table.by_storage.insert(storage.clone(), i);
            }
            let versions = table.groups.entry(info.gvk.group.to_string()).or_default();
            if !versions.iter().any(|v| *v == info.gvk.version) {
                versions.push(info.gvk.version.to_string());
            }
        }
        table.kinds = kinds;
        table
    }

    /// All kinds.
    pub fn all(&self) -> &[Kind] {
        &self.kinds
    }

    /// The kinds that this server answers for itself.
    pub fn own(&self) -> &[Kind] {
        &self.kinds[..self.own]
    }

    /// The kind served at a group, version and plural.
    pub fn find(&self, gvr: &GroupVersionResource) -> Option<&Kind> {
        self.by_resource.get(gvr).map(|i| &self.kinds[*i])
    }

    /// The kind with this name.
    pub fn find_kind(&self, gvk: &GroupVersionKind) -> Option<&Kind> {
        self.by_kind.get(gvk).map(|i| &self.kinds[*i])
    }

    /// The kind whose documents are stored at `storage`.
    pub fn storage_kind(&self, storage: &Storage) -> Option<&Kind> {
        self.by_storage.get(storage).map(|i| &self.kinds[*i])
    }

    /// The served versions of a group, None for an unknown group.
    pub fn versions(&self, group: &str) -> Option<&[String]> {
        self.groups.get(group).map(Vec::as_slice)
    }

    /// Namespaced kinds that are stored.
    pub fn namespaced(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter().filter(|k| k.info.scope == Scope::Namespaced && k.info.storage.is_some())
    }
}

/// The set of kinds.
#[derive(Debug)]
pub struct Kinds {
    fixed: Mutex<Vec<Kind>>,
    custom: Mutex<Vec<Kind>>,
    remote: Mutex<Vec<Kind>>,
    table: ArcSwap<KindTable>,
    changes: watch::Sender<u64>,
}

impl Kinds {
    /// A set that begins with the built-in kinds.
    pub fn new(builtin: &[Kind]) -> Arc<Self> {
        let table = ArcSwap::from_pointee(KindTable::build(builtin.to_vec(), builtin.len(), 1));
        Arc::new(Self {
            fixed: Mutex::new(builtin.to_vec()),
            custom: Mutex::default(),
            remote: Mutex::default(),
            table,
            changes: watch::Sender::new(1),
        })
    }

    /// The present state.
    pub fn load(&self) -> Arc<KindTable> {
        self.table.load_full()
    }

    /// Replaces all kinds that came from CustomResourceDefinitions.
    pub fn set_custom(&self, custom: Vec<Kind>) {
        *self.custom.lock() = custom;
        self.rebuild();
    }

    /// Replaces all kinds that other servers answer for; their groups and versions are theirs alone.
    pub fn set_remote(&self, remote: Vec<Kind>) {
        *self.remote.lock() = remote;
        self.rebuild();
    }

    /// Adds kinds that a component of this process serves (metrics).
    pub fn add(&self, kinds: Vec<Kind>) {
        self.fixed.lock().extend(kinds);
        self.rebuild();
    }

    fn rebuild(&self) {
        self.changes.send_modify(|generation| {
            *generation += 1;
            let mut kinds = self.fixed.lock().clone();
            kinds.extend(self.custom.lock().iter().cloned());
            let remote = self.remote.lock().clone();
            let same = |a: &Kind, b: &Kind| a.info.gvk.group_version() == b.info.gvk.group_version();
            kinds.retain(|k| !remote.iter().any(|r| same(k, r)));
            let own = kinds.len();
            kinds.extend(remote);
            self.table.store(Arc::new(KindTable::build(kinds, own, *generation)));
        });
    }

    /// The generation of the set, for those who wait for changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
