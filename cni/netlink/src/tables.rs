//! Keeping an nftables table as somebody wants it. Entry points: [`Tables`] sends the differences, [`Changes`]
//! wakes who decides, [`Pace`] says when to go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::kernel::{Kernel, Netns};
use crate::ledger::{Item, Ledger};
use crate::nft::{Family, Table, diff};

/// Changes that come within this time go into one transaction; or within [`REST`] times what the last one took, so
/// that much to do does not take the whole machine.
const GATHER: Duration = Duration::from_millis(20);
const GATHER_MOST: Duration = Duration::from_secs(1);
const REST: u32 = 4;
/// Waiting time after a failed transaction, doubled up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// The tables of one name in this host's network namespace, one per address family: what the kernel is known to
/// have. Tables found at the beginning are adopted.
pub struct Tables {
    name: &'static str,
    kernel: Arc<dyn Kernel>,
    ledger: Ledger,
    /// Tables as last committed; a family is missing when it must be read from the kernel first.
    applied: BTreeMap<Family, Option<Table>>,
}

impl Tables {
    /// Nothing known yet.
    pub fn new(name: &'static str, kernel: Arc<dyn Kernel>, ledger: Ledger) -> Self {
        Self { name, kernel, ledger, applied: BTreeMap::new() }
    }

    /// What the kernel has of a family is not certain: it is read again next time.
    pub fn doubt(&mut self, family: Family) {
        self.applied.remove(&family);
    }

    /// Somebody may have deleted a table: the kernel is read again next time.
    pub fn forget(&mut self) {
        if self.applied.values().any(Option::is_some) {
            tracing::warn!(table = self.name, "rules may have been deleted by somebody; putting them back");
        }
        self.applied.clear();
    }

    /// Makes the family's table `desired`, with one transaction if it differs; `None` deletes it. Gives the table
    /// as it was. After an error the kernel is read anew next time.
    pub async fn apply(&mut self, family: Family, desired: Option<&Table>) -> Result<Option<Table>> {
        // An error leaves nothing believed.
        let current = match self.applied.remove(&family) {
            Some(known) => known,
            None => self.kernel.nft_table(&Netns::Host, family, self.name).await?,
        };
        let item = Item::nft_table(family, self.name);
        match (desired, &current) {
            (Some(desired), _) => {
                if current.is_none() {
                    self.ledger.record(&item)?;
                }
                let ops = diff(current.as_ref(), desired);
                if !ops.is_empty() {
                    let (table, family) = (self.name, family.name());
                    tracing::debug!(table, family, operations = ops.len(), "rules change");
                }
                self.kernel.nft_commit(&Netns::Host, family, self.name, &ops).await?;
            }
            (None, Some(_)) => {
                self.kernel.nft_delete_table(&Netns::Host, family, self.name).await?;
                self.ledger.forget(&item)?;
            }
            (None, None) => {}
        }
        self.applied.insert(family, desired.cloned());
        Ok(current)
    }
}

/// Deletes a host's tables of this name, if the ledger says that they are there: for a part that was switched off.
///
/// # Errors
/// The ledger or the kernel failed.
pub async fn remove(kernel: &dyn Kernel, ledger: &Ledger, name: &str) -> Result<()> {
    for family in [Family::Ip, Family::Ip6, Family::Bridge] {
        let item = Item::nft_table(family, name);
        if ledger.contains(&item)? {
            kernel.nft_delete_table(&Netns::Host, family, name).await?;
            ledger.forget(&item)?;
        }
    }
    Ok(())
}

/// What wakes the one who decides what tables should be.
#[derive(Default)]
pub struct Changes {
    notify: Notify,
    lost: AtomicBool,
}

impl Changes {
    /// Something that the tables are made from has changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Whether the kernel's tables may not be what they are believed to be; asking clears it.
    pub fn take_lost(&self) -> bool {
        self.lost.swap(false, Ordering::AcqRel)
    }

    /// Wakes when somebody deletes the table (`nft flush ruleset`, a firewall that reloads), until shutdown.
    pub async fn watch_table(
        &self,
        kernel: &dyn Kernel,
        family: Family,
        name: &str,
        shutdown: &CancellationToken,
    ) {
        loop {
            match shutdown.run_until_cancelled(kernel.nft_table_deleted(&Netns::Host, family, name)).await {
                None => return,
                Some(Ok(())) => {
                    self.lost.store(true, Ordering::Release);
                    self.wake();
                }
                Some(Err(error)) => {
                    tracing::warn!(table = name, %error, "a deletion of the table would go unnoticed");
                    let pause = tokio::time::sleep(RETRY_FIRST);
                    if shutdown.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                    // It may have been deleted meanwhile.
                    self.lost.store(true, Ordering::Release);
                    self.wake();
                }
            }
        }
    }
}

/// When to decide again.
pub struct Pace {
    retry: Duration,
    /// When the attempt began.
    begun: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { retry: RETRY_FIRST, begun: Instant::now() }
    }
}

impl Pace {
    /// An attempt begins.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// After an attempt: waits for the next change, or for the time of the next try, and then a little longer for
    /// changes that come together. Failures are logged. False at shutdown.
    pub async fn wait(
        &mut self,
        outcome: Result<()>,
        changes: &Changes,
        shutdown: &CancellationToken,
    ) -> bool {
        let gather = (self.begun.elapsed() * REST).clamp(GATHER, GATHER_MOST);
        let again = match outcome {
            Ok(()) => {
                self.retry = RETRY_FIRST;
                None
            }
            Err(error) => {
                tracing::warn!(%error, retry_seconds = self.retry.as_secs_f32(), "rules not applied");
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
