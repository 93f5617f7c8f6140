//! Events that are older than the cache: read from the datastore's log, so that a watch can go on after a restart.

use std::sync::Arc;
use std::time::Duration;

use knarr_datastore::{Event, Revision};
use knarr_kinds::Kind;

use crate::cache::{CacheEvent, Entry};
use crate::registry::Registry;

/// A watch that would have to read more than this is told to list anew.
const MAX_EVENTS: usize = 10_000;
const MAX_BYTES: usize = 8 << 20;
/// The log answers at once; this is for a store that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

impl Registry {
    /// The events below `prefix` after `from` up to and including `until`; None when the log no longer has all of
    /// them, or too many.
    pub(crate) async fn history(
        &self,
        stored: &Kind,
        prefix: &str,
        from: Revision,
        until: Revision,
    ) -> Option<Vec<Arc<CacheEvent>>> {
        if from < self.store().compacted() {
            return None;
        }
        let end = knarr_datastore::prefix_end(prefix);
        let mut watch = self.store().watch(prefix, Some(&end), from + 1).await.ok()?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while watch.progress() < until {
            let batch = tokio::time::timeout(PATIENCE, watch.next()).await.ok()?.ok()?;
            for event in batch.events.iter().filter(|e| e.kv.mod_revision <= until) {
                bytes += event.kv.value.len();
                events.push(Arc::new(to_cache_event(stored, event)?));
            }
            if bytes > MAX_BYTES || events.len() > MAX_EVENTS {
                return None;
            }
        }
        Some(events)
    }
}

/// None when the state before is needed and not known.
fn to_cache_event(stored: &Kind, event: &Event) -> Option<CacheEvent> {
    let kv = &event.kv;
    let previous = match &event.previous {
        Some(p) => Some(Arc::new(Entry::new(stored, &p.key, &p.value, p.mod_revision).ok()?)),
        None if event.deleted || kv.create_revision != kv.mod_revision => return None,
        None => None,
    };
    let entry = if event.deleted {
        Arc::new(previous.as_ref()?.at_revision(kv.mod_revision))
    } else {
        Arc::new(Entry::new(stored, &kv.key, &kv.value, kv.mod_revision).ok()?)
    };
    Some(CacheEvent::new(kv.mod_revision, entry, event.deleted, previous))
}
