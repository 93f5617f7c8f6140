//! Keeping something in the kernel as it should be. Entry points: [`Changes`] wakes who decides what that is, [`Pace`]
//! says when to decide again.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Waiting time after a failure, doubled up to [`RETRY_MOST`].
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// One who told how long an attempt took rests so many times as long, so that much to do does not take the whole
/// machine; but not longer than [`REST_MOST`].
const REST: u32 = 4;
const REST_MOST: Duration = Duration::from_secs(1);

/// What wakes the one who decides.
#[derive(Default)]
pub struct Changes {
    notify: Notify,
    lost: AtomicBool,
}

impl Changes {
    /// Something that the decision is made from has changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// The kernel may not be as it is believed to be; this alone wakes nobody.
    pub fn doubt(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Somebody changed the kernel.
    pub fn lose(&self) {
        self.doubt();
        self.wake();
    }

    /// Whether the kernel may not be as it is believed to be; asking clears it.
    pub fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }
}

/// When to decide again.
pub struct Pace {
    /// What failures are called in the log.
    failure: &'static str,
    /// Changes that come within this time are looked at together.
    gather: Duration,
    retry: Duration,
    begun: Option<Instant>,
}

impl Pace {
    /// A pace that gathers changes for this long, and logs failures by this name.
    pub fn new(gather: Duration, failure: &'static str) -> Self {
        Self { failure, gather, retry: RETRY_FIRST, begun: None }
    }

    /// An attempt begins that is to be followed by a rest in proportion.
    pub fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// After an attempt: waits for the next change, or for the time of the next try, and then a little longer for
    /// changes that come together. False at shutdown.
    pub async fn wait<E: Display>(
        &mut self,
        outcome: Result<(), E>,
        changes: &Changes,
        shutdown: &CancellationToken,
    ) -> bool {
        let rest = self.begun.take().map_or(Duration::ZERO, |begun| begun.elapsed() * REST);
        let gather = self.gather.max(rest.min(REST_MOST));
        let again = match outcome {
            Ok(()) => {
                self.retry = RETRY_FIRST;
                None
            }
            Err(error) => {
                tracing::warn!(%error, retry_seconds = self.retry.as_secs_f32(), "{}", self.failure);
                let wait = self.retry;
                self.retry = (self.retry * 2).min(RETRY_MOST);
                Some(wait)
            }
        };
        let next = async {
            match again {
                Some(wait) => drop(tokio::time::timeout(wait, changes.notify.notified()).await),
                None => changes.notify.notified().await,
            }
            tokio::time::sleep(gather).await;
        };
        shutdown.run_until_cancelled(next).await.is_some()
    }
}
