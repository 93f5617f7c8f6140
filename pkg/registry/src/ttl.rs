//! Leases for objects that expire (Events): shared by objects that are written about the same time.

use std::time::{Duration, Instant};

use knarr_datastore::{Datastore, LeaseId};
use knarr_machinery::ApiError;
use parking_lot::Mutex;

use crate::error;

/// Events live this long (`--event-ttl`).
pub const EVENT_TTL_SECONDS: i64 = 3600;
/// A lease takes objects for this long, and outlives the first one's end by as much.
const SHARE: Duration = Duration::from_secs(60);
/// And at most this many.
const SHARE_OBJECTS: u32 = 1000;

/// Hands out leases.
#[derive(Debug)]
pub struct Leases {
    store: Datastore,
    open: Mutex<Option<(LeaseId, Instant, u32)>>,
}

impl Leases {
    /// No lease is open yet.
    pub fn new(store: Datastore) -> Self {
        Self { store, open: Mutex::new(None) }
    }

    /// A lease that ends after the time to live of events, or up to a minute later.
    ///
    /// # Errors
    /// When the datastore refuses.
    pub async fn event_lease(&self) -> Result<LeaseId, ApiError> {
        if let Some((id, since, used)) = &mut *self.open.lock()
            && since.elapsed() < SHARE
            && *used < SHARE_OBJECTS
        {
            *used += 1;
            return Ok(*id);
        }
        let ttl = EVENT_TTL_SECONDS + SHARE.as_secs() as i64;
        let id = self.store.lease_grant(ttl).await.map_err(error::from_store)?;
        *self.open.lock() = Some((id, Instant::now(), 1));
        Ok(id)
    }
}
