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
    /// First key beyond; None reads the single key `start`.
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
    /// Anything else the driver reports.
    #[error("datastore {operation}: {detail}")]
    Driver {
        /// What was tried.
        operation: &'static str,
        /// The driver's text.
        detail: String,
    },
}
