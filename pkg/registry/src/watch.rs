//! WATCH: present state or history first, then live events, judged by selectors.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use knarr_datastore::Revision;
use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::{Cache, CacheEvent, Cursor, Entry};
use crate::convert::Converter;
use crate::error;
use crate::feed::Feed;
use crate::list::parse_version;
use crate::registry::Registry;
use crate::select::Selection;

/// A silent watch is told the newest revision this often, if it moved.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Events handed over at once.
const BATCH: usize = 256;

/// What a watch asks for.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Selectors.
    pub selection: Selection,
    /// `resourceVersion`, "" if absent.
    pub resource_version: String,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
}

/// How an event is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// ADDED
    Added,
    /// MODIFIED
    Modified,
    /// DELETED
    Deleted,
}

impl EventType {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One thing that a watcher is told.
#[derive(Debug)]
pub enum Watched {
    /// A change.
    Event {
        /// How.
        event: EventType,
        /// The object.
        entry: Arc<Entry>,
        /// The shared event that remembers encodings; None for initial events.
        source: Option<Arc<CacheEvent>>,
    },
    /// Everything up to here was told.
    Bookmark {
        /// The revision.
        revision: Revision,
        /// Whether the initial events end here.
        initial_end: bool,
    },
    /// The watch is over.
    Error(ApiError),
}

/// A running watch.
#[derive(Debug)]
pub struct WatchStream {
    cache: Arc<Cache>,
    feed: Arc<Feed>,
    cursor: Cursor,
    prefix: String,
    selection: Selection,
    converter: Option<Converter>,
    initial: VecDeque<Arc<Entry>>,
    /// Events that are older than the cache.
    history: VecDeque<Arc<CacheEvent>>,
    initial_end: Option<Revision>,
    bookmarks: bool,
    told: Revision,
    bookmark_at: Instant,
    wake: watch::Receiver<u64>,
    ended: bool,
}

impl Registry {
    /// Starts a watch; `namespace` "" watches all namespaces.
    ///
    /// # Errors
    /// 504 for a revision of the future, 410 for one that is gone, 400 for bad parameters.
    pub async fn watch(
        &self,
        kind: &Kind,
        namespace: &str,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let cache = self.cache(kind).await?;
        let prefix = self.list_prefix(kind, &cache, namespace);
        let version = parse_version(&options.resource_version)?;
        let wake = cache.wake();
        let state_first = match options.initial_events {
            Some(initial) => initial,
            None => matches!(version, None | Some(0)),
        };
        let mut stream = WatchStream {
            cursor: Cursor::default(),
            feed: self.feed_handle(),
            cache: cache.clone(),
            prefix: prefix.clone(),
            selection: options.selection,
            converter: self.converter(kind),
            initial: VecDeque::new(),
            history: VecDeque::new(),
            initial_end: None,
            bookmarks: options.bookmarks,
            told: version.unwrap_or(0),
            bookmark_at: next_bookmark(),
            wake,
            ended: false,
        };
        if state_first {
            match version {
                None => self.catch_up().await?,
                Some(v) if v > 0 => self.wait_reached(v).await?,
                Some(_) => {}
            }
            let before = self.feed().revision();
            let (entries, cursor, newest) = cache.snapshot(&prefix);
            stream.cursor = cursor;
            stream.told = before.max(newest);
            stream.initial = self.told(kind, entries).await?.into();
            stream.initial_end = (options.initial_events == Some(true)).then_some(stream.told);
        } else {
            let from = match version {
                Some(v) if v > 0 => {
                    self.wait_reached(v).await?;
                    v
                }
                _ => {
                    self.catch_up().await?;
                    cache.newest()
                }
            };
            stream.cursor = match cache.cursor(from) {
                Ok(cursor) => cursor,
                Err(oldest) => {
                    let until = self.feed().revision();
                    let stored = self.storage_kind(kind)?;
                    let history = self.history(&stored, &prefix, from, until).await;
                    stream.history = history.ok_or_else(|| error::too_old(from, oldest))?.into();
                    cache.cursor(until).map_err(|oldest| error::too_old(until, oldest))?
                }
            };
        }
        Ok(stream)
    }
}

impl WatchStream {
    /// The next things to tell, at least one; None when the watch has ended.
    pub async fn next(&mut self) -> Option<Vec<Watched>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(initial) = self.take_initial() {
                return Some(initial);
            }
            if !self.history.is_empty() {
                let count = self.history.len().min(BATCH);
                let events: Vec<_> = self.history.drain(..count).collect();
                let told = self.tell(events).await;
                if told.is_empty() {
                    continue;
                }
                return Some(told);
            }
            // Read before the ring: what the ring does not hold up to here does not exist.
            let reached = self.feed.revision();
            self.wake.mark_unchanged();
            match self.cache.read(&mut self.cursor, BATCH) {
                Err(oldest) => {
                    self.ended = true;
                    return Some(vec![Watched::Error(error::too_old(self.told, oldest))]);
                }
                Ok(events) if events.is_empty() => {
                    if self.cache.is_closed() {
                        self.ended = true;
                        return None;
                    }
                    if let Some(bookmark) = self.rest(reached).await? {
                        return Some(vec![bookmark]);
                    }
                }
                Ok(events) => {
                    let told = self.tell(events).await;
                    if !told.is_empty() {
                        return Some(told);
                    }
                }
            }
        }
    }

    /// What of these events is told, in the version that is watched.
    async fn tell(&mut self, events: Vec<Arc<CacheEvent>>) -> Vec<Watched> {
        let Some(converter) = self.converter.clone() else {
            return events.into_iter().filter_map(|e| self.judge(e)).collect();
        };
        let (last, prefix) = (events.last().map(|e| e.revision), self.prefix.clone());
        let ours = events.into_iter().filter(|e| e.entry.key.starts_with(&prefix)).collect();
        match converter.events(ours).await {
            Ok(events) => {
                let told = events.into_iter().filter_map(|e| self.judge(e)).collect();
                self.told = last.unwrap_or(self.told);
                told
            }
            Err(error) => {
                self.ended = true;
                vec![Watched::Error(error)]
            }
        }
    }

    /// A bookmark for the end of the stream, when the client takes them.
    pub fn last_bookmark(&self) -> Option<Watched> {
        let revision = self.told;
        (self.bookmarks && self.initial.is_empty() && revision > 0)
            .then_some(Watched::Bookmark { revision, initial_end: false })
    }

    fn take_initial(&mut self) -> Option<Vec<Watched>> {
        let mut told = Vec::new();
        while let Some(entry) = self.initial.pop_front() {
            if self.selection.matches(&entry) {
                told.push(Watched::Event { event: EventType::Added, entry, source: None });
            }
            if told.len() == BATCH {
                return Some(told);
            }
        }
        if let Some(revision) = self.initial_end.take() {
            told.push(Watched::Bookmark { revision, initial_end: true });
        }
        (!told.is_empty()).then_some(told)
    }

    /// Sleeps until there is news; Some(Some) is a bookmark that fell due, None the end.
    async fn rest(&mut self, reached: Revision) -> Option<Option<Watched>> {
        if !self.bookmarks {
            return self.wake.changed().await.ok().map(|()| None);
        }
        tokio::select! {
            changed = self.wake.changed() => changed.ok().map(|()| None),
            () = tokio::time::sleep_until(self.bookmark_at) => {
                self.bookmark_at = next_bookmark();
                if reached <= self.told {
                    return Some(None);
                }
                self.told = reached;
                Some(Some(Watched::Bookmark { revision: reached, initial_end: false }))
            }
        }
    }

    fn judge(&mut self, event: Arc<CacheEvent>) -> Option<Watched> {
        self.told = event.revision;
        if !event.entry.key.starts_with(&self.prefix) {
            return None;
        }
        let before = event.previous.as_ref().is_some_and(|p| self.selection.matches(p));
        let now = !event.deleted && self.selection.matches(&event.entry);
        let (kind, entry) = match (before, now) {
            (false, false) => return None,
            (false, true) => (EventType::Added, event.entry.clone()),
            (true, true) => (EventType::Modified, event.entry.clone()),
            (true, false) if event.deleted => (EventType::Deleted, event.entry.clone()),
            (true, false) => (EventType::Deleted, event.left()?),
        };
        // Encodings are shared by those who watch what is stored.
        let source = self.converter.is_none().then_some(event);
        Some(Watched::Event { event: kind, entry, source })
    }
}

/// Bookmarks of all watches fall due together, so that an idle server wakes once for all of them.
fn next_bookmark() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let rounds = start.elapsed().as_secs() / BOOKMARK_INTERVAL.as_secs() + 1;
    start + BOOKMARK_INTERVAL * u32::try_from(rounds).unwrap_or(u32::MAX)
}
