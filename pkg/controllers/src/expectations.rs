//! What a controller has asked for and not yet seen in its cache.
//!
//! A controller that created three pods must not count again before its informer has shown them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// After this long, unseen requests no longer hold a controller back.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Pending {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

/// Pending creations and deletions by the uid of the owner.
#[derive(Debug, Default)]
pub struct Expectations {
    pending: Mutex<HashMap<String, Pending>>,
}

impl Expectations {
    /// How long to wait still; `None` when everything was seen, or patience has ended.
    pub fn wait(&self, owner: &str) -> Option<Duration> {
        let mut all = self.pending.lock();
        let pending = all.get(owner)?;
        let left = PATIENCE.checked_sub(pending.since.elapsed());
        if (pending.creations == 0 && pending.deletions.is_empty()) || left.is_none() {
            all.remove(owner);
            return None;
        }
        left
    }

    /// Before creating `count` objects.
    pub fn expect_creations(&self, owner: &str, count: usize) {
        self.change(owner, |p| p.creations += count);
    }

    /// Before deleting an object.
    pub fn expect_deletion(&self, owner: &str, uid: &str) {
        self.change(owner, |p| {
            p.deletions.insert(uid.to_owned());
        });
    }

    /// A creation was seen, or failed.
    pub fn created(&self, owner: &str) {
        if let Some(p) = self.pending.lock().get_mut(owner) {
            p.creations = p.creations.saturating_sub(1);
        }
    }

    /// A deletion was seen, or failed.
    pub fn deleted(&self, owner: &str, uid: &str) {
        if let Some(p) = self.pending.lock().get_mut(owner) {
            p.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn drop_owner(&self, owner: &str) {
        self.pending.lock().remove(owner);
    }

    fn change(&self, owner: &str, f: impl FnOnce(&mut Pending)) {
        let mut all = self.pending.lock();
        let pending = all.entry(owner.to_owned()).or_insert_with(|| Pending {
            creations: 0,
            deletions: HashSet::new(),
            since: Instant::now(),
        });
        pending.since = Instant::now();
        f(pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_until_all_is_seen() {
        let e = Expectations::default();
        assert!(e.wait("o").is_none());
        e.expect_creations("o", 2);
        e.expect_deletion("o", "p1");
        assert!(e.wait("o").is_some());
        e.created("o");
        e.created("o");
        assert!(e.wait("o").is_some());
        e.deleted("o", "other");
        assert!(e.wait("o").is_some());
        e.deleted("o", "p1");
        assert!(e.wait("o").is_none());
    }
}
