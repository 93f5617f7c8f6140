//! Forgetting old revisions: a durable watermark first, then small committed steps.

use crate::api::{Compaction, Error, Revision};
use crate::drivers::{last_position, position};
use crate::store::Core;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One step holds the writer up for about this long.
const STEP: Duration = Duration::from_millis(10);
const MIN_STEP_ROWS: usize = 64;
const MAX_STEP_ROWS: usize = 4096;
/// A compaction that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(30);

/// How the writer wakes the automatic compaction. Nothing runs while the store is idle.
#[derive(Default)]
pub(crate) struct Alarm {
    waiting_for_write: AtomicBool,
    notify: Notify,
}

impl Alarm {
    /// Called after each group; cheap unless there is something to do.
    pub(crate) fn written(&self, revision: Revision, compacted: Revision, policy: &Compaction) {
        let over = revision - compacted > policy.max_revisions + policy.max_revisions / 10;
        if self.waiting_for_write.swap(false, Ordering::AcqRel) || over {
            self.notify.notify_one();
        }
    }
}

/// Raises the watermark to `revision`, then removes what nobody can ask for any more.
pub(crate) async fn compact(core: &Core, revision: Revision) -> Result<(), Error> {
    let mut swept = core.swept.lock().await;
    let current = core.hub.published();
    if revision > current {
        return Err(Error::Future { requested: revision, current });
    }
    if revision <= core.compacted() {
        return Err(Error::Compacted { requested: revision, compacted: core.compacted() });
    }
    core.driver.set_compacted(revision).await?;
    core.set_compacted(revision);
    sweep(core, &mut swept).await
}

/// Goes on where the last sweep ended, at the latest before a restart.
pub(crate) async fn resume(core: &Core) -> Result<(), Error> {
    let mut swept = core.swept.lock().await;
    if *swept < position(core.compacted(), 0) {
        sweep(core, &mut swept).await?;
    }
    Ok(())
}

async fn sweep(core: &Core, swept: &mut i64) -> Result<(), Error> {
    let upto = last_position(core.compacted());
    let mut rows = 512;
    while *swept < upto {
        let begun = Instant::now();
        *swept = core.driver.sweep(*swept, upto, rows).await?;
        rows = if begun.elapsed() > STEP { rows / 2 } else { rows * 2 }.clamp(MIN_STEP_ROWS, MAX_STEP_ROWS);
        tokio::task::yield_now().await;
    }
    while core.driver.reclaim().await? {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Compacts what is older than `retention`, and sooner when too many revisions came in. Between writes the age of
/// revisions is known by marks, a fifth of the retention apart: none is kept much longer than it must be.
pub(crate) async fn run(core: Arc<Core>, policy: Compaction, shutdown: CancellationToken) {
    let mut marks: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        let published = core.hub.published();
        let marked = marks.back().map_or_else(|| core.compacted(), |(_, revision)| *revision);
        if published > marked {
            marks.push_back((Instant::now(), published));
        }
        if marks.is_empty() {
            core.alarm.waiting_for_write.store(true, Ordering::Release);
            if core.hub.published() == published {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = core.alarm.notify.notified() => {}
                }
            }
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(policy.retention / 5) => {}
            () = core.alarm.notify.notified() => {}
        }
        let goal = due(&marks, policy.retention).max(core.hub.published() - policy.max_revisions);
        if goal > core.compacted()
            && let Err(error) = compact(&core, goal).await
            && !matches!(error, Error::Compacted { .. })
        {
            tracing::warn!(path = core.driver.path(), revision = goal, %error, "compaction failed");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        let compacted = core.compacted();
        marks.retain(|(_, revision)| *revision > compacted);
    }
}

/// The newest revision that has been there for the whole retention, 0 if there is none.
fn due(marks: &VecDeque<(Instant, Revision)>, retention: Duration) -> Revision {
    marks.iter().rev().find(|(at, _)| at.elapsed() >= retention).map_or(0, |(_, revision)| *revision)
}
