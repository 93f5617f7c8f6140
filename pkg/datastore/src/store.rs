//! [`Datastore`], the handle.

use crate::api::*;
use crate::bounds::Bounds;
use crate::compaction::{self, Alarm};
use crate::drivers::{self, Driver, LeaseRow, Position};
use crate::hub::Hub;
use crate::lease::{self, Leases};
use crate::plan;
use crate::watch::Watch;
use crate::writer::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Requests that may wait for the writer; more wait for a place.
const QUEUE: usize = 4096;

/// What the handle, the writer, the watches and the background tasks share.
pub(crate) struct Core {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) options: Options,
    pub(crate) hub: Hub,
    pub(crate) leases: Arc<Leases>,
    pub(crate) alarm: Alarm,
    /// How far the sweep has come; held while one runs.
    pub(crate) swept: tokio::sync::Mutex<Position>,
    compacted: AtomicI64,
}

impl Core {
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    pub(crate) fn set_compacted(&self, revision: Revision) {
        self.compacted.store(revision, Ordering::Release);
    }
}

struct Shared {
    core: Arc<Core>,
    queue: mpsc::Sender<Command>,
    shutdown: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A store. Clones share it; when the last one goes, the writer ends after what is queued.
#[derive(Clone)]
pub struct Datastore {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Datastore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datastore")
            .field("path", &self.shared.core.driver.path())
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

impl Datastore {
    /// Opens `sqlite:///path/state.db` (made if absent) or `memory://`.
    pub async fn open(endpoint: &str) -> Result<Self, Error> {
        Self::open_with(endpoint, Options::default()).await
    }

    /// As [`Datastore::open`], with options.
    pub async fn open_with(endpoint: &str, options: Options) -> Result<Self, Error> {
        let driver = drivers::open(endpoint, &options).await?;
        let loaded = driver.load().await?;
        let core = Arc::new(Core {
            hub: Hub::new(loaded.revision, options.ring_bytes),
            leases: Arc::new(Leases::new(loaded.leases)),
            alarm: Alarm::default(),
            swept: tokio::sync::Mutex::new(loaded.swept),
            compacted: AtomicI64::new(loaded.compacted),
            driver,
            options,
        });
        let (queue, requests) = mpsc::channel(QUEUE);
        let shutdown = CancellationToken::new();
        tokio::spawn(writer::run(core.clone(), requests));
        tokio::spawn(lease::expire(core.leases.clone(), queue.downgrade(), shutdown.clone()));
        let (background, stop) = (core.clone(), shutdown.clone());
        tokio::spawn(async move {
            if let Err(error) = compaction::resume(&background).await {
                tracing::warn!(path = background.driver.path(), %error, "cannot resume the compaction");
            }
            if let Some(policy) = background.options.compaction.clone() {
                compaction::run(background, policy, stop).await;
            }
        });
        Ok(Self { shared: Arc::new(Shared { core, queue, shutdown }) })
    }

    fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    /// The newest revision that is durable and known to watchers. At least the revision of any answered transaction.
    pub fn revision(&self) -> Revision {
        self.core().hub.published()
    }

    /// Watches from this revision or below and reads below it are refused.
    pub fn compacted(&self) -> Revision {
        self.core().compacted()
    }

    /// Reads a range, now or at an older revision.
    pub async fn range(&self, range: Range) -> Result<RangeResult, Error> {
        let core = self.core();
        if let Some(requested) = range.revision {
            let current = self.revision();
            if requested > current {
                return Err(Error::Future { requested, current });
            }
            check_compacted(core, requested)?;
        }
        let floor = core.compacted();
        let found = core.driver.range(&range).await?;
        if let Some(requested) = range.revision {
            // A compaction may have begun meanwhile; it raises the watermark before it removes anything.
            check_compacted(core, requested)?;
        }
        let revision = range.revision.unwrap_or(found.revision.max(floor));
        Ok(RangeResult { kvs: found.kvs, more: found.more, count: found.count, revision })
    }

    /// Reads one key.
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let range = Range { start: key.to_string(), ..Range::default() };
        Ok(self.core().driver.range(&range).await?.kvs.pop())
    }

    /// Writes if all conditions hold. When this returns, the writes are durable, [`Datastore::revision`] is at least
    /// theirs, and their events are with the watchers.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        plan::check(&txn)?;
        self.ask(|reply| Command::Txn { txn, reply }).await
    }

    /// Watches `[start, end)` (as in [`Range`]) from revision `from` on; `from` below 1 is "from now", one in the future
    /// waits for it. Refused with `Compacted` if the log does not reach back that far.
    pub async fn watch(&self, start: &str, end: Option<&str>, from: Revision) -> Result<Watch, Error> {
        let core = self.core();
        let (slot, from) = core.hub.register(Bounds::new(start, end), from);
        Watch::new(core.clone(), slot, from)
    }

    /// Forgets what was replaced or deleted up to `revision`. Returns when the space is free.
    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        compaction::compact(self.core(), revision).await
    }

    /// A new lease under a random identifier.
    pub async fn lease_grant(&self, ttl_seconds: i64) -> Result<LeaseId, Error> {
        let id = rand::random_range(1..=i64::MAX);
        self.lease_grant_as(id, ttl_seconds).await
    }

    /// A new lease under an identifier of the caller's.
    pub async fn lease_grant_as(&self, id: LeaseId, ttl_seconds: i64) -> Result<LeaseId, Error> {
        if id == 0 || !(1..=lease::MAX_TTL_SECONDS).contains(&ttl_seconds) {
            let detail =
                format!("lease {id} for {ttl_seconds} seconds: id must not be 0, time must be positive");
            return Err(Error::Invalid { operation: "lease grant", detail });
        }
        let row = self.ask(|reply| Command::Grant { id, ttl_seconds, reply }).await?;
        Ok(row.id)
    }

    /// Deletes a lease and the keys bound to it.
    pub async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Command::Revoke { id, reply }).await
    }

    /// Starts its time anew; returns the seconds granted.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        Ok(self.ask(|reply| Command::KeepAlive { id, reply }).await?.ttl_seconds)
    }

    /// A lease's time and keys.
    pub async fn lease_ttl(&self, id: LeaseId) -> Result<LeaseStatus, Error> {
        let LeaseRow { ttl_seconds, expires_at_millis, .. } =
            self.core().leases.get(id).ok_or(Error::LeaseNotFound(id))?;
        let keys = self.core().driver.leased_keys(id).await?;
        let left = (expires_at_millis - lease::now_millis()).max(0);
        Ok(LeaseStatus { id, granted_seconds: ttl_seconds, remaining_seconds: (left + 999) / 1000, keys })
    }

    /// All leases, in order.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.core().leases.ids()
    }

    /// Bytes in use on disk (or in memory).
    pub async fn size_bytes(&self) -> Result<u64, Error> {
        self.core().driver.size_bytes().await
    }

    /// Reads the whole store and checks it.
    pub async fn check_integrity(&self) -> Result<(), Error> {
        self.core().driver.check_integrity().await
    }

    /// Ends orderly: what is queued is written, watches end, files are closed. May be called twice.
    pub async fn close(&self) {
        self.shared.shutdown.cancel();
        let (reply, done) = oneshot::channel();
        if self.shared.queue.send(Command::Close { reply }).await.is_ok() {
            // An error means that another close got there first.
            let _ = done.await;
        }
        self.shared.queue.closed().await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.send(command(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

fn check_compacted(core: &Core, requested: Revision) -> Result<(), Error> {
    let compacted = core.compacted();
    if requested < compacted { Err(Error::Compacted { requested, compacted }) } else { Ok(()) }
}
