//! The watch cache of one stored resource: present entries, and a ring of events bounded in bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use knarr_datastore::Revision;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, Str};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use crate::codec;

/// Events kept in memory per resource, counted by the bytes of their objects.
const RING_BYTES: usize = 16 << 20;
/// What an event costs besides its object.
const EVENT_OVERHEAD: usize = 256;
/// How many of the newest events keep their encodings.
const ENCODED_EVENTS: usize = 256;

/// One object as it is served: bytes with the resourceVersion in place, and what selectors need.
#[derive(Debug)]
pub struct Entry {
    /// Key in the datastore.
    pub key: Arc<str>,
    /// Revision of the last change.
    pub revision: Revision,
    /// Bytes in the storage version.
    pub bytes: Bytes,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.labels`, sorted.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Selectable fields of the stored kind.
    pub fields: Box<[(Str, Box<str>)]>,
}

/// The part of a document that the index needs; the rest is skipped, not built.
#[derive(serde::Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct HeadMeta {
    name: Option<Box<str>>,
    namespace: Option<Box<str>>,
    labels: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
}

impl Entry {
    /// Builds one from stored bytes.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn new(kind: &Kind, key: &str, stored: &[u8], revision: Revision) -> Result<Self, ApiError> {
        let head: Head = serde_json::from_slice(stored)
            .map_err(|e| ApiError::internal(format!("stored object is damaged: {e}")))?;
        // A map with sorted keys: label lookups rely on the order.
        let labels: Vec<(Box<str>, Box<str>)> = head
            .metadata
            .labels
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k, v.unwrap_or_default()))
            .collect();
        if kind.rules.reads_through() {
            return Self::through(kind, key, stored, revision);
        }
        let fields = if kind.info.selectable_fields.is_empty() {
            Box::default()
        } else {
            let value = codec::parse(stored)?;
            kind.rules.fields(&value).into_iter().map(|(n, v)| (n, v.into_boxed_str())).collect()
        };
        Ok(Self {
            key: key.into(),
            revision,
            bytes: codec::splice(stored, revision)?,
            name: head.metadata.name.unwrap_or_default(),
            namespace: head.metadata.namespace.unwrap_or_default(),
            labels: labels.into(),
            fields,
        })
    }

    /// One of a kind whose stored form is read through its schema: pruned and defaulted.
    fn through(kind: &Kind, key: &str, stored: &[u8], revision: Revision) -> Result<Self, ApiError> {
        let value = kind.rules.from_storage(codec::parse(stored)?)?;
        Self::of(kind, key, &value, revision)
    }

    /// The same object told at another revision (deletions, selector transitions).
    pub(crate) fn at_revision(&self, revision: Revision) -> Self {
        // Bytes of an entry are always an object: splicing them cannot fail; keep the old form if it does.
        let bytes = codec::resplice(&self.bytes, revision).unwrap_or_else(|_| self.bytes.clone());
        Self {
            key: self.key.clone(),
            revision,
            bytes,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// The label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|i| &*self.labels[i].1)
    }

    /// The document, in the storage version.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn value(&self) -> Result<Value, ApiError> {
        codec::parse(&self.bytes)
    }
}

/// A change of one object.
#[derive(Debug)]
pub struct CacheEvent {
    /// Its revision.
    pub revision: Revision,
    /// The new state; for a deletion the last state with the deletion's revision.
    pub entry: Arc<Entry>,
    /// Whether the object went.
    pub deleted: bool,
    /// The state before; None when the object was created.
    pub previous: Option<Arc<Entry>>,
    left: Mutex<Option<Arc<Entry>>>,
    encoded: Mutex<Vec<(u64, Bytes)>>,
}

impl CacheEvent {
    pub(crate) fn new(
        revision: Revision,
        entry: Arc<Entry>,
        deleted: bool,
        previous: Option<Arc<Entry>>,
    ) -> Self {
        Self { revision, entry, deleted, previous, left: Mutex::default(), encoded: Mutex::default() }
    }

    /// The previous state told at this event's revision: what a watcher sees whose selector no longer matches.
    pub fn left(&self) -> Option<Arc<Entry>> {
        let previous = self.previous.as_ref()?;
        let mut left = self.left.lock();
        Some(left.get_or_insert_with(|| Arc::new(previous.at_revision(self.revision))).clone())
    }

    /// The bytes for an encoding, made once for all watchers. `key` names encoding, version and event type.
    ///
    /// # Errors
    /// What `make` returns.
    pub fn encoded<E>(&self, key: u64, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut encoded = self.encoded.lock();
        if let Some((_, bytes)) = encoded.iter().find(|(k, _)| *k == key) {
            return Ok(bytes.clone());
        }
        let bytes = make()?;
        encoded.push((key, bytes.clone()));
        Ok(bytes)
    }

    fn cost(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |p| p.bytes.len());
        self.entry.bytes.len() + previous + EVENT_OVERHEAD
    }
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// Number of the first event in the ring, counted since the cache was filled.
    first: u64,
    /// Every event after this revision is in the ring.
    floor: Revision,
    /// Revision of the newest event, or of the fill.
    newest: Revision,
    /// Revision of the fill: older events are known.
    filled_at: Revision,
    /// Raised when the cache was filled anew: cursors of an older epoch have lost events.
    epoch: u64,
    /// Events that came before the first fill ended.
    pending: Option<Vec<knarr_datastore::Event>>,
}

/// A place in the ring; the default one has fallen off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    next: u64,
    epoch: u64,
}

/// The cache.
pub struct Cache {
    prefix: String,
    kind: Kind,
    closed: AtomicBool,
    state: RwLock<State>,
    wake: watch::Sender<u64>,
    filled: tokio::sync::OnceCell<()>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cache").field(&self.prefix).finish()
    }
}

impl Cache {
    /// An empty cache that collects events until [`Cache::fill`].
    pub fn new(prefix: &str, kind: Kind) -> Self {
        let state = State { pending: Some(Vec::new()), ..State::default() };
        Self {
            prefix: prefix.to_string(),
            kind,
            closed: AtomicBool::new(false),
            state: RwLock::new(state),
            wake: watch::Sender::new(0),
            filled: tokio::sync::OnceCell::new(),
        }
    }

    /// `/registry/<plural>[.<group>]/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Set once the first fill is done.
    pub(crate) fn filled(&self) -> &tokio::sync::OnceCell<()> {
        &self.filled
    }

    /// Whether the entries were made by another schema than this kind's (a CRD was edited).
    pub(crate) fn is_outdated(&self, kind: &Kind) -> bool {
        kind.rules.reads_through() && !Arc::ptr_eq(&self.kind.info.types.set, &kind.info.types.set)
    }

    /// Nothing comes any more: watches end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.send_modify(|n| *n += 1);
    }

    /// Whether watches end.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Events are collected from now until the next fill.
    pub(crate) fn hold(&self) {
        self.state.write().pending.get_or_insert_with(Vec::new);
    }

    /// Takes the state at a revision; events collected meanwhile follow.
    pub(crate) fn fill(&self, kvs: &[knarr_datastore::KeyValue], revision: Revision) {
        let kind = &self.kind;
        let mut entries = BTreeMap::new();
        for kv in kvs {
            match Entry::new(kind, &kv.key, &kv.value, kv.mod_revision) {
                Ok(entry) => {
                    entries.insert(entry.key.clone(), Arc::new(entry));
                }
                Err(error) => {
                    tracing::error!(key = %kv.key, %error, "object in the datastore is damaged; it is left out")
                }
            }
        }
        let mut state = self.state.write();
        state.entries = entries;
        state.ring.clear();
        state.ring_bytes = 0;
        state.floor = revision;
        state.newest = revision;
        state.filled_at = revision;
        state.epoch += 1;
        for event in state.pending.take().unwrap_or_default() {
            if event.kv.mod_revision > revision {
                apply(kind, &mut state, &event);
            }
        }
        drop(state);
        self.wake.send_modify(|n| *n += 1);
    }

    /// Takes the events of one batch.
    pub(crate) fn apply<'a>(&self, events: impl Iterator<Item = &'a knarr_datastore::Event>) {
        let kind = &self.kind;
        let mut state = self.state.write();
        for event in events {
            if let Some(pending) = &mut state.pending {
                pending.push(event.clone());
            } else if event.kv.mod_revision > state.filled_at {
                apply(kind, &mut state, event);
            }
        }
        drop(state);
        self.wake.send_modify(|n| *n += 1);
    }

    /// One entry.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().entries.get(key).cloned()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.state.read().entries.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks entries with keys from `start` that begin with `prefix` until `visit` returns false; returns the
    /// revision of the newest change of the resource.
    pub fn scan(&self, prefix: &str, start: &str, mut visit: impl FnMut(&Arc<Entry>) -> bool) -> Revision {
        let state = self.state.read();
        for (key, entry) in state.entries.range::<str, _>((Bound::Included(start), Bound::Unbounded)) {
            if !key.starts_with(prefix) || !visit(entry) {
                break;
            }
        }
        state.newest
    }

    /// The entries, the cursor that follows them and the revision of the newest change, taken together.
    pub fn snapshot(&self, prefix: &str) -> (Vec<Arc<Entry>>, Cursor, Revision) {
        let state = self.state.read();
        let entries = state
            .entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(k, _)| k.starts_with(prefix))
            .map(|(_, e)| e.clone())
            .collect();
        (entries, Cursor { next: state.first + state.ring.len() as u64, epoch: state.epoch }, state.newest)
    }

    /// The cursor of the first event after `revision`.
    ///
    /// # Errors
    /// The oldest revision that can be had.
    pub fn cursor(&self, revision: Revision) -> Result<Cursor, Revision> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(state.floor);
        }
        let skip = state.ring.partition_point(|e| e.revision <= revision);
        Ok(Cursor { next: state.first + skip as u64, epoch: state.epoch })
    }

    /// Revision of the newest change.
    pub fn newest(&self) -> Revision {
        self.state.read().newest
    }

    /// Takes up to `max` events.
    ///
    /// # Errors
    /// The oldest revision in memory, when the cursor fell off the ring.
    pub fn read(&self, cursor: &mut Cursor, max: usize) -> Result<Vec<Arc<CacheEvent>>, Revision> {
        let state = self.state.read();
        if cursor.epoch != state.epoch || cursor.next < state.first {
            return Err(state.floor);
        }
        let skip = (cursor.next - state.first) as usize;
        let events: Vec<_> = state.ring.iter().skip(skip).take(max).cloned().collect();
        cursor.next += events.len() as u64;
        Ok(events)
    }

    /// Changes whenever there may be something to read.
    pub fn wake(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }
}

fn apply(kind: &Kind, state: &mut State, event: &knarr_datastore::Event) {
    let key = event.kv.key.as_str();
    let revision = event.kv.mod_revision;
    let previous = state.entries.get(key).cloned();
    let (entry, deleted) = if event.deleted {
        let Some(last) = &previous else { return };
        state.entries.remove(key);
        (Arc::new(last.at_revision(revision)), true)
    } else {
        match Entry::new(kind, key, &event.kv.value, revision) {
            Ok(entry) => {
                let entry = Arc::new(entry);
                state.entries.insert(entry.key.clone(), entry.clone());
                (entry, false)
            }
            Err(error) => {
                tracing::error!(key, %error, "object in the datastore is damaged; it is left out");
                return;
            }
        }
    };
    let event = CacheEvent::new(revision, entry, deleted, previous);
    state.newest = revision;
    state.ring_bytes += event.cost();
    state.ring.push_back(Arc::new(event));
    // Watchers are nearly always at the newest events: encodings of older ones are made again when asked for.
    if let Some(old) = state.ring.len().checked_sub(ENCODED_EVENTS + 1).and_then(|at| state.ring.get(at)) {
        *old.encoded.lock() = Vec::new();
    }
    while state.ring_bytes > RING_BYTES && state.ring.len() > 1 {
        if let Some(gone) = state.ring.pop_front() {
            state.ring_bytes -= gone.cost();
            state.first += 1;
            state.floor = gone.revision;
        }
    }
}
