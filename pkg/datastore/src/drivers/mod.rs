//! Drivers: how rows are stored. A driver knows no rules: revisions, conditions, leases and events are the engine's.
//!
//! Entry point: [`open`], over the table [`DRIVERS`]. To add one: a file here and a line in the table.
//!
//! Every driver keeps two tables. `log` has one row per change under its [`Position`] and names the position of the
//! key's row before it; `kv` names each living key's newest row. No row is stored twice, and no further index is needed:
//! state at an old revision is the present state with every key that changed since replaced by what its first later row
//! names as its predecessor.

mod memory;
mod sqlite;
mod sqlite_reader;
mod sqlite_sql;
mod sqlite_writer;

use crate::api::{Error, KeyValue, LeaseId, Options, Range, Revision};
use crate::bounds::Bounds;
use async_trait::async_trait;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Where a change stands in the log: its revision and its place in the transaction.
pub type Position = i64;

const PLACE_BITS: u32 = 12;

/// Operations one transaction may hold.
pub const MAX_OPERATIONS: usize = 1 << PLACE_BITS;

/// The position of operation `place` of revision `revision`.
pub fn position(revision: Revision, place: usize) -> Position {
    (revision << PLACE_BITS) | (place as i64 & (MAX_OPERATIONS as i64 - 1))
}

/// The last position of a revision.
pub fn last_position(revision: Revision) -> Position {
    position(revision, MAX_OPERATIONS - 1)
}

/// The revision of a position.
pub fn revision_of(position: Position) -> Revision {
    position >> PLACE_BITS
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Place in the log.
    pub position: Position,
    /// The key's row before it, 0 if the key was absent.
    pub before: Position,
    /// State after the change.
    pub kv: KeyValue,
    /// Whether the key was deleted.
    pub deleted: bool,
}

/// A lease as stored. Expiry is absolute, so that it survives restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRow {
    /// Identifier.
    pub id: LeaseId,
    /// Granted time to live.
    pub ttl_seconds: i64,
    /// Milliseconds since the epoch.
    pub expires_at_millis: i64,
}

/// A change of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// Sets it.
    Put(LeaseRow),
    /// Forgets it.
    Remove(LeaseId),
}

/// What one group writes, all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Log rows, ascending. The last row of each key is its new state.
    pub rows: Vec<Row>,
    /// Lease changes, in order.
    pub leases: Vec<LeaseChange>,
}

impl Commit {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.leases.is_empty()
    }

    /// The last row of every key.
    pub fn final_rows(&self) -> HashMap<&str, &Row> {
        self.rows.iter().map(|row| (row.kv.key.as_str(), row)).collect()
    }
}

/// What a store remembers when it is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Newest revision.
    pub revision: Revision,
    /// Compaction watermark.
    pub compacted: Revision,
    /// Rows up to here have been swept.
    pub swept: Position,
    /// All leases.
    pub leases: Vec<LeaseRow>,
}

/// The rows of a range read, of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Entries in key order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
    /// Entries in the whole range.
    pub count: usize,
    /// Newest revision of the snapshot.
    pub revision: Revision,
}

/// A piece of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Matching rows in order, each with the key's state before, if it existed and is still known.
    pub rows: Vec<(Row, Option<KeyValue>)>,
    /// Every matching row up to this revision is included.
    pub covered: Revision,
}

/// Decides what to write from the living rows of the keys that were asked for. May be called again if the driver has to
/// repeat the transaction.
pub type Plan<'a> = &'a mut (dyn FnMut(HashMap<String, Row>) -> Commit + Send);

/// A dialect.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// File or endpoint, for messages.
    fn path(&self) -> &str;
    /// Reads what the engine has to know to begin.
    async fn load(&self) -> Result<Loaded, Error>;
    /// One durable write transaction: reads the living rows of `keys`, lets `plan` decide, writes.
    async fn transact(&self, keys: &[String], plan: Plan<'_>) -> Result<(), Error>;
    /// Reads a range, at `range.revision` if given (which the engine has checked against compaction).
    async fn range(&self, range: &Range) -> Result<Selection, Error>;
    /// Reads the log in `(after, upto]` within `bounds`: whole revisions, about `max_bytes`, at least one revision.
    async fn history(
        &self,
        after: Revision,
        upto: Revision,
        bounds: &Bounds,
        max_bytes: usize,
    ) -> Result<History, Error>;
    /// The living keys bound to a lease, in order.
    async fn leased_keys(&self, lease: LeaseId) -> Result<Vec<String>, Error>;
    /// Makes the compaction watermark durable.
    async fn set_compacted(&self, revision: Revision) -> Result<(), Error>;
    /// Visits up to `limit` rows of `(from, upto]` and removes, in one transaction, what they supersede and what they
    /// delete. Returns the position reached, `upto` when done.
    async fn sweep(&self, from: Position, upto: Position, limit: usize) -> Result<Position, Error>;
    /// Gives a bounded amount of free space back; false if there is no more to give.
    async fn reclaim(&self) -> Result<bool, Error>;
    /// Bytes on disk or in memory.
    async fn size_bytes(&self) -> Result<u64, Error>;
    /// Reads everything and compares; `Error::Corrupt` says what is wrong.
    async fn check_integrity(&self) -> Result<(), Error>;
    /// Ends orderly.
    async fn close(&self);
}

type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Driver>, Error>> + Send>>;

/// One line of [`DRIVERS`].
pub struct Entry {
    /// The endpoint's scheme.
    pub scheme: &'static str,
    open: fn(String, Options) -> Opening,
}

/// All drivers, by scheme.
pub const DRIVERS: &[Entry] = &[
    Entry { scheme: "memory", open: |endpoint, options| Box::pin(memory::open(endpoint, options)) },
    Entry { scheme: "sqlite", open: |endpoint, options| Box::pin(sqlite::open(endpoint, options)) },
];

/// Opens `scheme://...` with the driver of that scheme.
pub async fn open(endpoint: &str, options: &Options) -> Result<Arc<dyn Driver>, Error> {
    let scheme = endpoint.split_once("://").map_or("", |(scheme, _)| scheme);
    match DRIVERS.iter().find(|entry| entry.scheme == scheme) {
        Some(entry) => (entry.open)(endpoint.to_string(), options.clone()).await,
        None => {
            let known: Vec<_> = DRIVERS.iter().map(|entry| format!("{}://", entry.scheme)).collect();
            Err(Error::Unsupported {
                path: endpoint.to_string(),
                detail: format!("no driver for scheme {scheme:?}, known are {}", known.join(", ")),
            })
        }
    }
}
