//! The values that callers exchange with a [`Datastore`](crate). Model: etcd v3 KV, Watch and Lease.

use bytes::Bytes;

/// A store-wide counter; every committed transaction that writes raises it by one.
pub type Revision = i64;

/// A lease identifier; 0 is none.
pub type LeaseId = i64;

/// One key's state at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Key, at most 1,024 bytes of UTF-8.
    pub key: String,
    /// Value.
    pub value: Bytes,
    /// Revision that created the key since it was last absent.
    pub create_revision: Revision,
    /// Revision of the last change.
    pub mod_revision: Revision,
    /// Number of changes since creation, 1 on creation.
    pub version: i64,
    /// Lease it is bound to, 0 for none.
    pub lease: LeaseId,
}

/// A read of `[start, end)`.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// First key.
    pub start: String,
    /// First key beyond; None reads the single key `start`, an empty one everything from `start` on.
    pub end: Option<String>,
    /// At this revision; None is the newest.
    pub revision: Option<Revision>,
    /// At most this many entries; 0 is no limit.
    pub limit: usize,
    /// Leave values out.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
}

impl Range {
    /// Everything that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self { start: prefix.to_string(), end: Some(prefix_end(prefix)), ..Self::default() }
    }
}

/// The first key after all keys that begin with `prefix`. Keys are ASCII below 0x7f in their last byte.
pub fn prefix_end(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    while let Some(last) = bytes.pop() {
        if last < 0x7f {
            bytes.push(last + 1);
            break;
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// The answer to a [`Range`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResult {
    /// Entries in key order.
    pub kvs: Vec<KeyValue>,
    /// Whether entries were left out by the limit.
    pub more: bool,
    /// Entries in the whole range, regardless of the limit.
    pub count: usize,
    /// The revision that was read (the store's newest if none was asked).
    pub revision: Revision,
}

/// A condition on one key; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// `mod_revision` equals this; 0 means the key is absent.
    ModRevision(String, Revision),
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: Bytes,
        /// Lease, 0 for none.
        lease: LeaseId,
    },
    /// Deletes a key; absent keys are no error.
    Delete {
        /// Key.
        key: String,
    },
}

impl Op {
    /// The key written.
    pub fn key(&self) -> &str {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }

    /// Whether writing this over `previous` changes nothing: a put of the same value under the same lease, or a
    /// deletion of an absent key. Such a write is suppressed: no revision, no event.
    pub fn is_unchanged(&self, previous: Option<&KeyValue>) -> bool {
        match (self, previous) {
            (Op::Put { value, lease, .. }, Some(p)) => p.lease == *lease && p.value == *value,
            (Op::Delete { .. }, None) => true,
            _ => false,
        }
    }

    /// The key's `mod_revision` after this operation of a committed transaction, given the transaction's revision and
    /// its `previous` entry: a suppressed put keeps the old one. For a deletion: the deleting revision, 0 if the key was
    /// absent.
    pub fn resulting_revision(&self, previous: Option<&KeyValue>, committed: Revision) -> Revision {
        match previous {
            _ if !self.is_unchanged(previous) => committed,
            Some(kept) => kept.mod_revision,
            None => 0,
        }
    }
}

/// Writes that happen together if every condition holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Writes on success. All get the same revision.
    pub success: Vec<Op>,
}

/// The outcome of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnResult {
    /// Committed (durably) at this revision; previous values of deleted and overwritten keys, in order of `success`.
    /// A put that changes nothing is suppressed; [`Op::resulting_revision`] tells the `mod_revision` of each key.
    Committed {
        /// Revision of the writes, or the newest revision if nothing was written.
        revision: Revision,
        /// What each operation replaced.
        previous: Vec<Option<KeyValue>>,
    },
    /// A condition failed; the present state of every compared key, in order.
    Conflict {
        /// The newest revision.
        revision: Revision,
        /// Present states.
        current: Vec<Option<KeyValue>>,
    },
}

/// A change as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// State after the change. For a deletion: `value` empty, `mod_revision` the deleting revision, version 0.
    pub kv: KeyValue,
    /// Whether the key was deleted.
    pub deleted: bool,
    /// State before, if the store still knows it and the key existed (always known for live events).
    pub previous: Option<KeyValue>,
}

/// Events of whole revisions, in order: a revision is never split over two batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Every event up to and including this revision has been delivered.
    pub revision: Revision,
    /// The events, oldest first; may be empty (progress).
    pub events: std::sync::Arc<[Event]>,
}

/// What can go wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision is below the compaction watermark.
    #[error("required revision {requested} has been compacted; oldest available is {compacted}")]
    Compacted {
        /// Asked for.
        requested: Revision,
        /// Everything up to and including this is gone.
        compacted: Revision,
    },
    /// The revision has not been reached.
    #[error("required revision {requested} is a future revision; newest is {current}")]
    Future {
        /// Asked for.
        requested: Revision,
        /// Newest.
        current: Revision,
    },
    /// The watcher did not keep up and its events were dropped from memory and history.
    #[error("watcher fell behind and was cancelled at revision {0}")]
    Lagged(Revision),
    /// No such lease.
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// A key or value over the limit.
    #[error("{what} is {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Key or value.
        what: &'static str,
        /// Given.
        size: usize,
        /// Allowed.
        limit: usize,
    },
    /// The disk is full. Nothing of the transaction was kept; reads go on.
    #[error("datastore {path}: disk is full")]
    Full {
        /// File or endpoint.
        path: String,
    },
    /// The store is damaged; the text names file and finding.
    #[error("datastore {path} is corrupt: {detail}")]
    Corrupt {
        /// File or endpoint.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The store was closed.
    #[error("datastore is shut down")]
    Closed,
    /// The request itself is wrong: empty key, a key written twice in one transaction, too many operations.
    #[error("datastore {operation}: {detail}")]
    Invalid {
        /// What was asked.
        operation: &'static str,
        /// Why it cannot be done.
        detail: String,
    },
    /// The endpoint cannot be used by this build: unknown scheme, foreign file, newer schema, file in use.
    #[error("datastore {path}: {detail}")]
    Unsupported {
        /// File or endpoint.
        path: String,
        /// What is not supported.
        detail: String,
    },
    /// Anything else the driver reports.
    #[error("datastore {operation}: {detail}")]
    Driver {
        /// What was tried.
        operation: &'static str,
        /// The driver's text.
        detail: String,
    },
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Identifier.
    pub id: LeaseId,
    /// Time to live that was granted, in seconds.
    pub granted_seconds: i64,
    /// Whole seconds that are left (rounded up).
    pub remaining_seconds: i64,
    /// Keys bound to it, in order.
    pub keys: Vec<String>,
}

/// What the store keeps and when it forgets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes of recent events kept in memory for watchers. Those who fall further behind read the log.
    pub ring_bytes: usize,
    /// When old revisions are forgotten; None leaves it to the caller.
    pub compaction: Option<Compaction>,
    /// Bytes the database may grow to; None is bounded by the disk alone.
    pub max_bytes: Option<u64>,
}

/// Automatic compaction. An idle store runs no timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// A revision is kept at least about this long, and at most half as long again ...
    pub retention: std::time::Duration,
    /// ... unless more revisions than this were written since.
    pub max_revisions: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self { ring_bytes: 8 << 20, compaction: Some(Compaction::default()), max_bytes: None }
    }
}

impl Default for Compaction {
    fn default() -> Self {
        Self { retention: std::time::Duration::from_secs(300), max_revisions: 100_000 }
    }
}
