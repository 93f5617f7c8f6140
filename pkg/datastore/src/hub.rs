//! Spreads committed events to watchers.
//!
//! Recent events stay in a ring that is bounded in bytes. A watcher's queue holds only what the ring holds: when the
//! ring lets go of an event that a watcher has not taken yet, that watcher's queue is emptied and it is told to read the
//! log. So a watcher that stops reading costs nothing.

use crate::api::{Batch, Event, Revision};
use crate::bounds::{Bounds, Shape};
use crate::plan::Published;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

type SlotId = u64;

/// Estimated memory of an event beside its bytes.
const EVENT_OVERHEAD: usize = 256;

/// A watcher as the hub sees it.
pub(crate) struct Slot {
    id: SlotId,
    pub(crate) bounds: Bounds,
    /// Lower revisions are not for this watcher.
    from: Revision,
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) notify: Notify,
}

/// What awaits a watcher.
pub(crate) struct Inbox {
    pub(crate) queue: VecDeque<Batch>,
    /// Whether live events pass it by because it has to read the log first.
    pub(crate) behind: bool,
    pub(crate) closed: bool,
}

struct Remembered {
    batch: Batch,
    bytes: usize,
    recipients: Vec<SlotId>,
}

#[derive(Default)]
struct Index {
    keys: HashMap<String, Vec<SlotId>>,
    prefixes: HashMap<String, Vec<SlotId>>,
    /// Lengths of the prefixes, with how many watchers have each.
    lengths: BTreeMap<usize, usize>,
    intervals: Vec<(Bounds, SlotId)>,
}

struct State {
    ring: VecDeque<Remembered>,
    ring_bytes: usize,
    /// The ring holds every revision above.
    floor: Revision,
    slots: HashMap<SlotId, Arc<Slot>>,
    index: Index,
    next_id: SlotId,
    closed: bool,
}

/// See the module.
pub(crate) struct Hub {
    state: Mutex<State>,
    published: AtomicI64,
    max_bytes: usize,
}

impl Index {
    fn add(&mut self, bounds: &Bounds, id: SlotId) {
        match bounds.shape() {
            Shape::Key(key) => self.keys.entry(key.to_string()).or_default().push(id),
            Shape::Prefix(prefix) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.prefixes.entry(prefix.to_string()).or_default().push(id);
            }
            Shape::Interval => self.intervals.push((bounds.clone(), id)),
        }
    }

    fn remove(&mut self, bounds: &Bounds, id: SlotId) {
        let take = |map: &mut HashMap<String, Vec<SlotId>>, key: &str| {
            if let Some(ids) = map.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    map.remove(key);
                }
            }
        };
        match bounds.shape() {
            Shape::Key(key) => take(&mut self.keys, key),
            Shape::Prefix(prefix) => {
                take(&mut self.prefixes, prefix);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Shape::Interval => self.intervals.retain(|(_, other)| *other != id),
        }
    }

    /// The watchers of a key: one look-up for each length of prefix that is being watched.
    fn watching(&self, key: &str, mut found: impl FnMut(SlotId)) {
        self.keys.get(key).into_iter().flatten().for_each(|id| found(*id));
        for length in self.lengths.keys() {
            let Some(prefix) = key.get(..*length) else {
                continue;
            };
            self.prefixes.get(prefix).into_iter().flatten().for_each(|id| found(*id));
        }
        self.intervals.iter().filter(|(bounds, _)| bounds.contains(key)).for_each(|(_, id)| found(*id));
    }
}

fn event_bytes(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
    EVENT_OVERHEAD + event.kv.key.len() + event.kv.value.len() + previous
}

/// The part of a batch within bounds, without copying if that is all of it.
fn narrow(batch: &Batch, bounds: &Bounds) -> Option<Batch> {
    let inside = batch.events.iter().filter(|event| bounds.contains(&event.kv.key)).count();
    match inside {
        0 => None,
        n if n == batch.events.len() => Some(batch.clone()),
        _ => {
            let events =
                batch.events.iter().filter(|event| bounds.contains(&event.kv.key)).cloned().collect();
            Some(Batch { revision: batch.revision, events })
        }
    }
}

impl State {
    fn publish(&mut self, revision: Revision, events: Arc<[Event]>) {
        let batch = Batch { revision, events };
        let mut recipients = Vec::new();
        for event in batch.events.iter() {
            self.index.watching(&event.kv.key, |id| recipients.push(id));
        }
        recipients.sort_unstable();
        recipients.dedup();
        recipients.retain(|id| self.slots.get(id).is_some_and(|slot| slot.offer(&batch)));
        let bytes = batch.events.iter().map(event_bytes).sum();
        self.ring_bytes += bytes;
        self.ring.push_back(Remembered { batch, bytes, recipients });
    }

    /// Forgets the oldest events until the ring fits; who still waits for one of them has to read the log.
    fn trim(&mut self, max_bytes: usize) {
        while self.ring_bytes > max_bytes {
            let Some(oldest) = self.ring.pop_front() else {
                return;
            };
            self.ring_bytes -= oldest.bytes;
            self.floor = oldest.batch.revision;
            for slot in oldest.recipients.iter().filter_map(|id| self.slots.get(id)) {
                let mut inbox = slot.inbox.lock();
                if inbox.queue.front().is_some_and(|batch| batch.revision <= self.floor) {
                    inbox.queue = VecDeque::new();
                    inbox.behind = true;
                    slot.notify.notify_one();
                }
            }
        }
    }
}

impl Slot {
    /// Queues the part of a batch that is for this watcher; false if it takes none.
    fn offer(&self, batch: &Batch) -> bool {
        if batch.revision < self.from {
            return false;
        }
        let mut inbox = self.inbox.lock();
        if inbox.behind {
            return false;
        }
        let Some(batch) = narrow(batch, &self.bounds) else {
            return false;
        };
        inbox.queue.push_back(batch);
        if inbox.queue.len() == 1 {
            self.notify.notify_one();
        }
        true
    }
}

impl Hub {
    pub(crate) fn new(revision: Revision, max_bytes: usize) -> Self {
        let state = State {
            ring: VecDeque::new(),
            ring_bytes: 0,
            floor: revision,
            slots: HashMap::new(),
            index: Index::default(),
            next_id: 1,
            closed: false,
        };
        Self { state: Mutex::new(state), published: AtomicI64::new(revision), max_bytes }
    }

    /// The newest revision whose events have been handed to all watchers.
    pub(crate) fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// Hands out the events of committed revisions, in order.
    pub(crate) fn publish(&self, revisions: Vec<Published>) {
        let Some(newest) = revisions.last().map(|(revision, _)| *revision) else {
            return;
        };
        let mut state = self.state.lock();
        for (revision, events) in revisions {
            state.publish(revision, events);
        }
        state.trim(self.max_bytes);
        self.published.store(newest, Ordering::Release);
    }

    /// A new watcher, behind until it attaches. `from` below 1 begins with the next revision.
    pub(crate) fn register(&self, bounds: Bounds, from: Revision) -> (Arc<Slot>, Revision) {
        let mut state = self.state.lock();
        let from = if from < 1 { self.published() + 1 } else { from };
        let id = state.next_id;
        state.next_id += 1;
        let inbox = Mutex::new(Inbox { queue: VecDeque::new(), behind: true, closed: state.closed });
        let slot = Arc::new(Slot { id, bounds, from, inbox, notify: Notify::new() });
        state.index.add(&slot.bounds, id);
        state.slots.insert(id, slot.clone());
        (slot, from)
    }

    /// Makes a watcher that has everything below `next` live, if the ring reaches back that far; otherwise returns the
    /// revision up to which it should read the log. Under one lock, so no event is missed or given twice.
    pub(crate) fn attach(&self, slot: &Slot, next: Revision) -> Result<(), Revision> {
        let mut state = self.state.lock();
        if next <= state.floor {
            return Err(self.published());
        }
        slot.inbox.lock().behind = false;
        let first = state.ring.partition_point(|entry| entry.batch.revision < next);
        for entry in state.ring.range_mut(first..) {
            if slot.offer(&entry.batch) {
                entry.recipients.push(slot.id);
            }
        }
        Ok(())
    }

    pub(crate) fn unregister(&self, slot: &Slot) {
        let mut state = self.state.lock();
        state.slots.remove(&slot.id);
        state.index.remove(&slot.bounds, slot.id);
    }

    /// Ends all watches once they have taken what awaits them.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for slot in state.slots.values() {
            slot.inbox.lock().closed = true;
            slot.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::KeyValue;
    use bytes::Bytes;

    fn revision(revision: Revision, keys: &[&str]) -> Published {
        let event = |key: &&str| Event {
            kv: KeyValue {
                key: key.to_string(),
                value: Bytes::from_static(&[0; 100]),
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: 0,
            },
            deleted: false,
            previous: None,
        };
        (revision, keys.iter().map(event).collect())
    }

    fn taken(slot: &Slot) -> Vec<(Revision, usize)> {
        slot.inbox.lock().queue.drain(..).map(|batch| (batch.revision, batch.events.len())).collect()
    }

    #[test]
    fn each_watcher_gets_its_part_from_its_revision_on() {
        let hub = Hub::new(4, 1 << 20);
        hub.publish(vec![revision(5, &["/a/1", "/b/1"]), revision(6, &["/b/2"])]);
        let watch = |start, end, from| {
            let (slot, from) = hub.register(Bounds::new(start, end), from);
            assert_eq!(hub.attach(&slot, from), Ok(()));
            slot
        };
        let all = watch("", Some(""), 5);
        let a = watch("/a/", Some("/a0"), 5);
        let b = watch("/b/", Some("/b0"), 6);
        let key = watch("/a/1", None, 0);
        let later = watch("/a/", Some("/a0"), 8);
        hub.publish(vec![revision(7, &["/a/1", "/a/2", "/c"]), revision(8, &["/a/1"])]);
        assert_eq!(taken(&all), [(5, 2), (6, 1), (7, 3), (8, 1)]);
        assert_eq!(taken(&a), [(5, 1), (7, 2), (8, 1)]);
        assert_eq!(taken(&b), [(6, 1)]);
        assert_eq!(taken(&key), [(7, 1), (8, 1)]);
        assert_eq!(taken(&later), [(8, 1)]);
        for slot in [&all, &a, &b, &key, &later] {
            hub.unregister(slot);
        }
        let state = hub.state.lock();
        assert!(
            state.index.lengths.is_empty() && state.index.prefixes.is_empty() && state.index.keys.is_empty()
        );
    }

    #[test]
    fn the_ring_is_bounded_and_who_falls_off_is_told() {
        let hub = Hub::new(0, 2000);
        let (slow, _) = hub.register(Bounds::new("/a/", Some("/a0")), 1);
        let (quick, _) = hub.register(Bounds::new("/a/", Some("/a0")), 1);
        assert_eq!((hub.attach(&slow, 1), hub.attach(&quick, 1)), (Ok(()), Ok(())));
        for at in 1..=20 {
            hub.publish(vec![revision(at, &["/a/x"])]);
            assert_eq!(taken(&quick), [(at, 1)]);
        }
        assert!(hub.state.lock().ring_bytes <= 2000);
        assert!(slow.inbox.lock().behind && !quick.inbox.lock().behind);
        assert_eq!(hub.attach(&slow, 1), Err(20));
        assert_eq!(hub.attach(&slow, 20), Ok(()));
        assert_eq!(taken(&slow), [(20, 1)]);
    }
}
