//! Pods that wait for a node: ready to be tried, backing off after a failure, or waiting for a change that helps.
//! Pure; the caller tells the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plugins::{Change, PLUGINS, priority_sort};
use crate::pod::PodInfo;

/// First wait after a failure, doubled each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A pod is tried again after this long even if no event was seen to help it.
const PATIENCE: Duration = Duration::from_secs(300);

type Rank = (Reverse<i32>, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Backoff(Instant, u64),
    /// Refused by these plugins (bits); tried again at that time at the latest.
    Refused(Instant, u64),
    /// A plugin does not let it in.
    Gated,
    /// Handed out by [`Queue::pop`].
    Out,
}

struct Entry {
    pod: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    refused_by: u64,
    failed_at: Option<Instant>,
    place: Place,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Rank, String>,
    /// Backing off and refused pods by the time of their next try.
    timed: BTreeMap<(Instant, u64), String>,
    arrivals: u64,
}

impl Queue {
    /// Number of pods, by (active, backing off, refused, gated).
    pub fn len(&self) -> (usize, usize, usize, usize) {
        let count = |f: fn(&Place) -> bool| self.entries.values().filter(|e| f(&e.place)).count();
        (
            self.active.len(),
            count(|p| matches!(p, Place::Backoff(..))),
            count(|p| matches!(p, Place::Refused(..))),
            count(|p| matches!(p, Place::Gated)),
        )
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A pod without a node was added or changed.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid().to_owned();
        let open = PLUGINS.iter().all(|p| (p.admits)(&pod.pod));
        if let Some(entry) = self.entries.get_mut(&uid) {
            let differs = entry.pod.differs(&pod);
            let helped = differs && refusers(entry.refused_by).any(|p| (p.wakes)(&Change::Own, &pod));
            entry.pod = pod;
            match entry.place {
                Place::Gated if open => self.activate(&uid),
                Place::Refused(..) if helped => self.wake(&uid, now),
                // The priority may have changed.
                Place::Active(_) => self.activate(&uid),
                _ => {}
            }
            return;
        }
        self.arrivals += 1;
        let entry = Entry {
            pod,
            arrival: self.arrivals,
            attempts: 0,
            refused_by: 0,
            failed_at: None,
            place: Place::Gated,
        };
        self.entries.insert(uid.clone(), entry);
        if open {
            self.activate(&uid);
        }
    }

    /// A pod is gone or has a node.
    pub fn remove(&mut self, uid: &str) {
        self.detach(uid);
        self.entries.remove(uid);
    }

    /// The next pod to try. It stays known until [`Queue::remove`], [`Queue::refuse`] or [`Queue::retry`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((&(due, arrival), _)) = self.timed.first_key_value() {
            if due > now {
                break;
            }
            if let Some(uid) = self.timed.remove(&(due, arrival)) {
                self.activate(&uid);
            }
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Out;
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// No node fits; `plugins` refused.
    pub fn refuse(&mut self, uid: &str, plugins: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refused_by = plugins;
        entry.failed_at = Some(now);
        self.schedule(uid, now + PATIENCE, true);
    }

    /// Something went wrong that has nothing to do with the pod: try again after a while.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.refused_by = 0;
        entry.failed_at = Some(now);
        let due = now + backoff(entry.attempts);
        self.schedule(uid, due, false);
    }

    /// Moves the refused pods that a change may help.
    pub fn follow(&mut self, change: &Change<'_>, now: Instant) {
        let helped: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| matches!(e.place, Place::Refused(..)) && helps(change, e))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in helped {
            self.wake(&uid, now);
        }
    }

    /// When the next pod ends its wait, if none is ready.
    pub fn next_due(&self) -> Option<Instant> {
        self.timed.first_key_value().map(|((due, _), _)| *due)
    }

    fn wake(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let due = entry.failed_at.unwrap_or(now) + backoff(entry.attempts);
        if due <= now { self.activate(uid) } else { self.schedule(uid, due, false) }
    }

    fn activate(&mut self, uid: &str) {
        self.detach(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let rank = priority_sort::rank(entry.pod.priority(), entry.arrival);
        entry.place = Place::Active(rank);
        self.active.insert(rank, uid.to_owned());
    }

    fn schedule(&mut self, uid: &str, due: Instant, refused: bool) {
        self.detach(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.place =
            if refused { Place::Refused(due, entry.arrival) } else { Place::Backoff(due, entry.arrival) };
        self.timed.insert((due, entry.arrival), uid.to_owned());
    }

    fn detach(&mut self, uid: &str) {
        match self.entries.get(uid).map(|e| e.place) {
            Some(Place::Active(rank)) => {
                self.active.remove(&rank);
            }
            Some(Place::Backoff(due, arrival) | Place::Refused(due, arrival)) => {
                self.timed.remove(&(due, arrival));
            }
            _ => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(MAX_BACKOFF)
}

fn refusers(bits: u64) -> impl Iterator<Item = &'static crate::plugins::Plugin> {
    PLUGINS.iter().enumerate().filter(move |(i, _)| bits & (1 << i) != 0).map(|(_, p)| p)
}

fn helps(change: &Change<'_>, entry: &Entry) -> bool {
    if entry.refused_by == 0 {
        // There was no node at all.
        return matches!(change, Change::Node { .. });
    }
    refusers(entry.refused_by).any(|p| (p.wakes)(change, &entry.pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use serde_json::json;

    fn bit(name: &str) -> u64 {
        1 << PLUGINS.iter().position(|p| p.name == name).unwrap()
    }

    #[test]
    fn priority_then_arrival() {
        let (mut q, now) = (Queue::default(), Instant::now());
        q.put(pod("a", json!({})), now);
        q.put(pod("b", json!({})), now);
        q.put(pod("c", json!({"priority": 10})), now);
        q.put(pod("gated", json!({"schedulingGates": [{"name": "g"}]})), now);
        let order: Vec<_> = std::iter::from_fn(|| q.pop(now)).map(|p| p.name().to_owned()).collect();
        assert_eq!(order, ["c", "a", "b"]);
        q.put(pod("gated", json!({})), now);
        assert_eq!(q.pop(now).unwrap().name(), "gated");
    }

    #[test]
    fn refused_pods_wait_for_help() {
        let (mut q, now) = (Queue::default(), Instant::now());
        let big = pod("p", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}]}));
        q.put(big, now);
        q.pop(now).unwrap();
        q.refuse("p", bit("NodeResourcesFit"), now);
        assert!(q.pop(now).is_none());
        let small = node("n", json!({"cpu": "1"}));
        q.follow(&Change::Node { new: &small, old: None }, now);
        assert_eq!(q.len(), (0, 0, 1, 0), "a node that is too small does not help");
        let large = node("n", json!({"cpu": "8"}));
        q.follow(&Change::Node { new: &large, old: Some(&small) }, now);
        assert_eq!(q.len(), (0, 1, 0, 0), "helped, but it has just failed");
        assert_eq!(q.next_due(), Some(now + BACKOFF));
        assert_eq!(q.pop(now + BACKOFF).unwrap().name(), "p");
        q.retry("p", now);
        assert_eq!(q.next_due(), Some(now + BACKOFF * 2));
        q.remove("p");
        assert!(q.is_empty() && q.next_due().is_none());
    }
}
