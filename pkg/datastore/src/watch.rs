//! One watcher: history from the log, then live events, joined at one revision watermark.

use crate::api::{Batch, Error, Event, Revision};
use crate::drivers::{History, revision_of};
use crate::hub::Slot;
use crate::store::Core;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes read from the log at once.
const HISTORY_BYTES: usize = 1 << 20;

/// A stream of batches in revision order, each revision exactly once. Dropping it ends the watch.
pub struct Watch {
    core: Arc<Core>,
    slot: Arc<Slot>,
    /// The first revision not handed out yet.
    next: Revision,
    /// Read from the log, not handed out yet; `next` is below its first.
    backlog: VecDeque<Batch>,
    /// Everything below is in the backlog or handed out.
    read: Revision,
    started: bool,
}

impl Watch {
    pub(crate) fn new(core: Arc<Core>, slot: Arc<Slot>, from: Revision) -> Result<Self, Error> {
        let mut watch = Self { core, slot, next: from, backlog: VecDeque::new(), read: from, started: false };
        if watch.core.hub.attach(&watch.slot, from).is_err() {
            watch.check_compacted()?;
        }
        watch.started = true;
        Ok(watch)
    }

    /// The next events. Safe to cancel.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            if let Some(batch) = self.try_next()? {
                return Ok(batch);
            }
            if self.slot.inbox.lock().behind {
                self.catch_up().await?;
            } else {
                self.slot.notify.notified().await;
            }
        }
    }

    /// Events that are at hand without waiting or reading the log. None does not mean there are none: see
    /// [`Watch::progress`].
    pub fn try_next(&mut self) -> Result<Option<Batch>, Error> {
        let batch = match self.backlog.pop_front() {
            Some(batch) => batch,
            None => {
                let mut inbox = self.slot.inbox.lock();
                match inbox.queue.pop_front() {
                    Some(batch) => batch,
                    None if inbox.closed => return Err(Error::Closed),
                    None => return Ok(None),
                }
            }
        };
        self.next = batch.revision + 1;
        self.read = self.read.max(self.next);
        Ok(Some(batch))
    }

    /// Every event of this watch up to this revision has been handed out. After a transaction was answered with its
    /// revision, draining with [`Watch::try_next`] brings a watch that is not behind to at least that revision.
    pub fn progress(&self) -> Revision {
        let published = self.core.hub.published();
        if let Some(batch) = self.backlog.front() {
            return batch.revision - 1;
        }
        let inbox = self.slot.inbox.lock();
        match inbox.queue.front() {
            Some(batch) => batch.revision - 1,
            None if inbox.behind => self.read - 1,
            None => published.max(self.read - 1),
        }
    }

    /// Takes one step through the log, or joins the live events.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let Err(upto) = self.core.hub.attach(&self.slot, self.read) else {
            return Ok(());
        };
        self.check_compacted()?;
        let driver = &self.core.driver;
        let history = driver.history(self.read - 1, upto, &self.slot.bounds, HISTORY_BYTES).await?;
        // A compaction may have begun meanwhile; it raises the watermark before it removes anything.
        self.check_compacted()?;
        self.read = history.covered + 1;
        self.backlog = batches(history);
        Ok(())
    }

    fn check_compacted(&self) -> Result<(), Error> {
        let compacted = self.core.compacted();
        if self.read > compacted {
            Ok(())
        } else if self.started {
            Err(Error::Lagged(self.read))
        } else {
            Err(Error::Compacted { requested: self.read, compacted })
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.core.hub.unregister(&self.slot);
    }
}

/// One batch a revision.
pub(crate) fn batches(history: History) -> VecDeque<Batch> {
    let mut batches = VecDeque::new();
    let mut events: Vec<Event> = Vec::new();
    let mut rows = history.rows.into_iter().peekable();
    while let Some((row, previous)) = rows.next() {
        let revision = revision_of(row.position);
        events.push(Event { kv: row.kv, deleted: row.deleted, previous });
        if rows.peek().is_none_or(|(next, _)| revision_of(next.position) != revision) {
            batches.push_back(Batch { revision, events: std::mem::take(&mut events).into() });
        }
    }
    batches
}
