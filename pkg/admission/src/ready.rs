//! Whether a snapshot holds its first complete list.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// How long a request waits for the first list of a new server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Set once, and cheap to look at from then on.
#[derive(Debug)]
pub(crate) struct Ready {
    set: AtomicBool,
    told: watch::Sender<bool>,
}

impl Default for Ready {
    fn default() -> Self {
        Self { set: AtomicBool::new(false), told: watch::Sender::new(false) }
    }
}

impl Ready {
    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.told.send_replace(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Waits a while; whoever asks goes on with what is known.
    pub(crate) async fn wait(&self) {
        if self.is_set() {
            return;
        }
        let mut told = self.told.subscribe();
        if tokio::time::timeout(PATIENCE, told.wait_for(|set| *set)).await.is_err() {
            tracing::warn!("admission configuration is not read yet; the request goes on without it");
        }
    }
}
