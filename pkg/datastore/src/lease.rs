//! Leases: kept in memory for look-up, in the store for restarts. One task sleeps until the earliest expiry.

use crate::api::{Error, LeaseId};
use crate::drivers::{LeaseChange, LeaseRow};
use crate::writer::Command;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Longest time to live, as etcd.
pub(crate) const MAX_TTL_SECONDS: i64 = 9_000_000_000;
/// An expiry that could not be written (disk full) is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// All leases.
pub(crate) struct Leases {
    rows: Mutex<HashMap<LeaseId, LeaseRow>>,
    changed: Notify,
}

/// Milliseconds since the epoch.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Leases {
    pub(crate) fn new(rows: Vec<LeaseRow>) -> Self {
        Self { rows: Mutex::new(rows.into_iter().map(|row| (row.id, row)).collect()), changed: Notify::new() }
    }

    pub(crate) fn get(&self, id: LeaseId) -> Option<LeaseRow> {
        self.rows.lock().get(&id).copied()
    }

    /// Takes over what was committed.
    pub(crate) fn apply(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let mut rows = self.rows.lock();
        for change in changes {
            match change {
                LeaseChange::Put(row) => rows.insert(row.id, *row),
                LeaseChange::Remove(id) => rows.remove(id),
            };
        }
        self.changed.notify_one();
    }

    /// Takes over what the store says.
    pub(crate) fn replace(&self, rows: Vec<LeaseRow>) {
        *self.rows.lock() = rows.into_iter().map(|row| (row.id, row)).collect();
        self.changed.notify_one();
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.rows.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    fn earliest(&self) -> Option<LeaseRow> {
        self.rows.lock().values().min_by_key(|row| row.expires_at_millis).copied()
    }
}

/// Sends each lease that runs out to the writer, which deletes its keys.
pub(crate) async fn expire(
    leases: Arc<Leases>,
    queue: mpsc::WeakSender<Command>,
    shutdown: CancellationToken,
) {
    loop {
        let next = leases.earliest();
        let wait = match next {
            None => Duration::MAX,
            Some(row) => {
                Duration::from_millis(u64::try_from(row.expires_at_millis - now_millis()).unwrap_or(0))
            }
        };
        let due = match next {
            Some(row) if wait.is_zero() => row,
            _ => {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = leases.changed.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                continue;
            }
        };
        let Some(queue) = queue.upgrade() else { return };
        let (reply, answer) = tokio::sync::oneshot::channel();
        if queue.send(Command::Expire { id: due.id, reply }).await.is_err() {
            return;
        }
        drop(queue);
        match answer.await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Closed)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(lease = due.id, %error, "cannot expire the lease now");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}
