//! An nftables table as somebody wants it. Entry points: [`Tables`] sends the differences, [`watch`] notices who
//! deletes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::keep::{Changes, RETRY_FIRST};
use crate::kernel::{Kernel, Netns};
use crate::ledger::{Item, Ledger};
use crate::nft::{Family, Table, diff};

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

/// Tells when somebody deletes the table (`nft flush ruleset`, a firewall that reloads), until shutdown.
pub async fn watch(
    changes: &Changes,
    kernel: &dyn Kernel,
    family: Family,
    name: &str,
    shutdown: &CancellationToken,
) {
    loop {
        match shutdown.run_until_cancelled(kernel.nft_table_deleted(&Netns::Host, family, name)).await {
            None => return,
            Some(Ok(())) => changes.lose(),
            Some(Err(error)) => {
                tracing::warn!(table = name, %error, "a deletion of the table would go unnoticed");
                if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_FIRST)).await.is_none() {
                    return;
                }
                // It may have been deleted meanwhile.
                changes.lose();
            }
        }
    }
}
