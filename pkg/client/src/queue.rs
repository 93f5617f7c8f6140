//! A work queue for level-triggered controllers: each key is queued once, and handled by one worker at a time.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First delay of [`WorkQueue::add_rate_limited`]; doubled each time.
const BASE_DELAY: Duration = Duration::from_millis(5);
/// Longest delay of [`WorkQueue::add_rate_limited`].
const MAX_DELAY: Duration = Duration::from_secs(1000);

struct Delayed<T> {
    due: Instant,
    seq: u64,
    item: T,
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.seq) == (other.due, other.seq)
    }
}
impl<T> Eq for Delayed<T> {}
impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Delayed<T> {
    /// Reversed, so that the heap yields the earliest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.seq).cmp(&(self.due, self.seq))
    }
}

struct State<T> {
    ready: VecDeque<T>,
    /// Queued or waiting to be queued again after `done`.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Delayed<T>>,
    failures: HashMap<T, u32>,
    seq: u64,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    shutdown: CancellationToken,
}

/// The queue; clones share it.
pub struct WorkQueue<T>(Arc<Shared<T>>);

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone + Eq + Hash + Send> WorkQueue<T> {
    /// An empty queue that ends when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BinaryHeap::new(),
            failures: HashMap::new(),
            seq: 0,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), shutdown }))
    }

    /// Queues an item; one that is queued already stays queued once, one in work is queued again when done.
    pub fn add(&self, item: T) {
        let mut state = self.0.state.lock();
        if Self::mark(&mut state, item) {
            drop(state);
            self.0.wake.notify_one();
        }
    }

    fn mark(state: &mut State<T>, item: T) -> bool {
        if !state.dirty.insert(item.clone()) || state.processing.contains(&item) {
            return false;
        }
        state.ready.push_back(item);
        true
    }

    /// Queues an item after a delay.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.0.state.lock();
        state.seq += 1;
        let seq = state.seq;
        state.delayed.push(Delayed { due: Instant::now() + delay, seq, item });
        drop(state);
        self.0.wake.notify_one();
    }

    /// Queues an item after a delay that doubles with each call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, item: T) {
        let mut state = self.0.state.lock();
        let failures = state.failures.entry(item.clone()).or_insert(0);
        let delay = BASE_DELAY.saturating_mul(1u32 << (*failures).min(20)).min(MAX_DELAY);
        *failures += 1;
        drop(state);
        self.add_after(item, delay);
    }

    /// Ends the growth of an item's delay.
    pub fn forget(&self, item: &T) {
        self.0.state.lock().failures.remove(item);
    }

    /// How often an item was rate limited since it was last forgotten.
    pub fn failures(&self, item: &T) -> u32 {
        self.0.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Queued items, delayed ones excluded.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no item is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next item; None after shutdown. Each item must be given back with [`WorkQueue::done`].
    pub async fn next(&self) -> Option<T> {
        loop {
            if self.0.shutdown.is_cancelled() {
                return None;
            }
            let due = {
                let mut state = self.0.state.lock();
                let now = Instant::now();
                while state.delayed.peek().is_some_and(|d| d.due <= now) {
                    if let Some(delayed) = state.delayed.pop() {
                        Self::mark(&mut state, delayed.item);
                    }
                }
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    let more = !state.ready.is_empty() || !state.delayed.is_empty();
                    drop(state);
                    if more {
                        self.0.wake.notify_one();
                    }
                    return Some(item);
                }
                state.delayed.peek().map(|d| d.due)
            };
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.shutdown.cancelled() => return None,
                () = self.0.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Ends the work on an item; if it was added meanwhile it is queued again.
    pub fn done(&self, item: &T) {
        let mut state = self.0.state.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.0.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_is_queued_once_and_again_after_done() {
        let queue = WorkQueue::new(CancellationToken::new());
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty(), "a is in work and must wait");
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_their_order() {
        let queue = WorkQueue::new(CancellationToken::new());
        queue.add_after("late", Duration::from_secs(9));
        queue.add_after("soon", Duration::from_secs(1));
        let start = Instant::now();
        assert_eq!(queue.next().await, Some("soon"));
        assert_eq!(queue.next().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_doubles_until_forgotten() {
        let queue = WorkQueue::new(CancellationToken::new());
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_rate_limited(1);
            queue.next().await;
            queue.done(&1);
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        queue.forget(&1);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test]
    async fn shutdown_ends_the_queue() {
        let shutdown = CancellationToken::new();
        let queue: WorkQueue<u8> = WorkQueue::new(shutdown.clone());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        shutdown.cancel();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
