//! One datastore watch feeds all caches; its revision tells how far every cache has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use knarr_datastore::{Batch, Datastore, Range, Revision};
use knarr_kinds::Kind;
use knarr_kinds::kind::Storage;
use knarr_machinery::ApiError;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::error;

/// All keys of API objects begin so.
pub const ROOT: &str = "/registry/";
/// Between any two keys, so that the feed sees every revision.
const FIRST_KEY: &str = "\u{1}";
const LAST_KEY: &str = "\u{7f}";
/// How long a read waits for the caches before it gives up.
const WAIT: Duration = Duration::from_secs(10);

/// The directory of a stored resource, `pods` or `deployments.apps`.
pub fn directory(storage: &Storage) -> String {
    if storage.resource.group.is_empty() {
        storage.resource.resource.to_string()
    } else {
        format!("{}.{}", storage.resource.resource, storage.resource.group)
    }
}

/// The feed.
#[derive(Debug)]
pub struct Feed {
    store: Datastore,
    caches: RwLock<HashMap<String, Arc<Cache>>>,
    revision: watch::Sender<Revision>,
}

impl Feed {
    /// Starts to follow the datastore until `shutdown`.
    ///
    /// # Errors
    /// When the datastore cannot be watched.
    pub async fn start(
        store: Datastore,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, knarr_datastore::Error> {
        let revision = store.revision();
        let watch = store.watch(FIRST_KEY, Some(LAST_KEY), revision + 1).await?;
        let feed =
            Arc::new(Self { store, caches: RwLock::default(), revision: watch::Sender::new(revision) });
        tokio::spawn(feed.clone().follow(watch, shutdown));
        Ok(feed)
    }

    async fn follow(self: Arc<Self>, mut watch: knarr_datastore::Watch, shutdown: CancellationToken) {
        loop {
            let next = tokio::select! {
                next = watch.next() => next,
                () = shutdown.cancelled() => return,
            };
            match next {
                Ok(batch) => self.take(&batch),
                Err(knarr_datastore::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "the watch on the datastore broke; caches are filled anew");
                    match self.restart(&shutdown).await {
                        Some(fresh) => watch = fresh,
                        None => return,
                    }
                }
            }
        }
    }

    async fn restart(&self, shutdown: &CancellationToken) -> Option<knarr_datastore::Watch> {
        let mut delay = Duration::from_millis(50);
        loop {
            match self.refill().await {
                Ok(watch) => return Some(watch),
                Err(error) => tracing::warn!(%error, "cannot watch the datastore; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.cancelled() => return None,
            }
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }

    async fn refill(&self) -> Result<knarr_datastore::Watch, knarr_datastore::Error> {
        let revision = self.store.revision();
        let watch = self.store.watch(FIRST_KEY, Some(LAST_KEY), revision + 1).await?;
        let caches: Vec<_> = self.caches.read().values().cloned().collect();
        for cache in caches {
            cache.hold();
            let mut range = Range::prefix(cache.prefix());
            range.revision = Some(revision);
            let result = self.store.range(range).await?;
            cache.fill(&result.kvs, revision);
        }
        self.revision.send_replace(revision);
        Ok(watch)
    }

    fn take(&self, batch: &Batch) {
        if !batch.events.is_empty() {
            let caches = self.caches.read();
            // Runs of events of one resource go to its cache together.
            let mut rest = &batch.events[..];
            while let Some(first) = rest.first() {
                let directory = directory_of(&first.kv.key);
                let run = rest.iter().take_while(|e| directory_of(&e.kv.key) == directory).count();
                if let Some(cache) = directory.and_then(|d| caches.get(d)) {
                    cache.apply(rest[..run].iter());
                }
                rest = &rest[run..];
            }
        }
        self.revision.send_replace(batch.revision);
    }

    /// The cache of a stored resource, filled on first use.
    ///
    /// # Errors
    /// When the datastore cannot be read.
    pub async fn cache(&self, storage: &Storage, kind: &Kind) -> Result<Arc<Cache>, ApiError> {
        let directory = directory(storage);
        let known = self.caches.read().get(&directory).cloned().filter(|c| !c.is_outdated(kind));
        let cache = match known {
            Some(cache) => cache,
            None => self
                .caches
                .write()
                .entry(directory.clone())
                .and_modify(|c| {
                    if c.is_outdated(kind) {
                        c.close();
                        *c = new_cache(&directory, kind);
                    }
                })
                .or_insert_with(|| new_cache(&directory, kind))
                .clone(),
        };
        cache
            .filled()
            .get_or_try_init(|| async {
                let result = self.store.range(Range::prefix(cache.prefix())).await?;
                cache.fill(&result.kvs, result.revision);
                Ok(())
            })
            .await
            .map_err(error::from_store)?;
        Ok(cache)
    }

    /// Closes and drops the cache of a resource.
    pub fn forget(&self, storage: &Storage) {
        if let Some(cache) = self.caches.write().remove(&directory(storage)) {
            cache.close();
        }
    }

    /// How far all caches have come.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Waits until all caches know everything up to `revision`.
    ///
    /// # Errors
    /// 504 when that takes too long.
    pub async fn wait(&self, revision: Revision) -> Result<(), ApiError> {
        self.wait_for(revision, WAIT).await
    }

    /// As [`Feed::wait`] with a limit of its own.
    ///
    /// # Errors
    /// 504 when that takes too long.
    pub async fn wait_for(&self, revision: Revision, limit: Duration) -> Result<(), ApiError> {
        if *self.revision.borrow() >= revision {
            return Ok(());
        }
        let mut changes = self.revision.subscribe();
        let reached = tokio::time::timeout(limit, changes.wait_for(|r| *r >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(error::too_large(revision, self.revision())),
        }
    }
}

fn new_cache(directory: &str, kind: &Kind) -> Arc<Cache> {
    Arc::new(Cache::new(&format!("{ROOT}{directory}/"), kind.clone()))
}

fn directory_of(key: &str) -> Option<&str> {
    key.strip_prefix(ROOT)?.split('/').next()
}
