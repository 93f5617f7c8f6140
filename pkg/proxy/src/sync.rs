//! From the plan to the kernel. Entry point: [`Synchronizer::apply`].

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_netlink::nft::{Data, Family, Op, Table, diff};
use knarr_netlink::{Item, Kernel, Ledger, Netns, Result};

use crate::ProxyConfig;
use crate::conntrack::stale_flows;
use crate::model::ServicePort;
use crate::plan::{TABLE, Tables, plan};

/// Holds what the kernel is known to have, and sends differences.
pub struct Synchronizer {
    cfg: ProxyConfig,
    kernel: Arc<dyn Kernel>,
    ledger: Ledger,
    /// Tables as last committed; a family is missing when it must be read from the kernel first.
    applied: BTreeMap<Family, Option<Table>>,
    services: Vec<ServicePort>,
}

impl Synchronizer {
    /// Nothing known yet: the first [`apply`](Self::apply) reads and adopts what is there.
    pub fn new(cfg: ProxyConfig, kernel: Arc<dyn Kernel>, ledger: Ledger) -> Self {
        Self { cfg, kernel, ledger, applied: BTreeMap::new(), services: Vec::new() }
    }

    /// Forgets what the kernel is believed to have: it is read again next time.
    pub fn forget(&mut self) {
        self.applied.clear();
    }

    /// Makes the kernel's tables what these service ports want, with one transaction per family that differs.
    /// After an error the kernel is read anew next time.
    pub async fn apply(&mut self, services: Vec<ServicePort>) -> Result<()> {
        let desired = plan(&services, &self.cfg);
        for family in [Family::Ip, Family::Ip6] {
            if let Err(e) = self.family(family, &desired).await {
                self.applied.remove(&family);
                return Err(e);
            }
        }
        for flow in stale_flows(&self.services, &services) {
            if let Err(e) = self.kernel.delete_conntrack(&Netns::Host, &flow).await {
                tracing::warn!(error = %e, "tracked connections of a vanished endpoint not deleted");
            }
        }
        self.services = services;
        Ok(())
    }

    async fn family(&mut self, family: Family, desired: &Tables) -> Result<()> {
        let current = match self.applied.get(&family) {
            Some(known) => known.clone(),
            None => self.kernel.nft_table(&Netns::Host, family, TABLE).await?,
        };
        let empty = Table::default();
        let want = match desired.get(&family) {
            Some(t) => t,
            None if current.is_none() => {
                self.applied.insert(family, None);
                return Ok(());
            }
            None => &empty,
        };
        if current.is_none() {
            self.ledger.record(&Item::nft_table(family, TABLE))?;
        }
        let ops = diff(current.as_ref(), want);
        if !ops.is_empty() {
            tracing::debug!(family = family.name(), operations = ops.len(), "service rules change");
            self.kernel.nft_commit(&Netns::Host, family, TABLE, &ops).await?;
        }
        self.applied.insert(family, Some(want.clone()));
        if let Some(current) = &current {
            self.forget_clients(family, current, want).await?;
        }
        Ok(())
    }

    /// Clients that stick to an endpoint which is gone must be let go. The kernel alone knows who sticks to whom,
    /// so the memory is read, but only of maps whose endpoints went.
    async fn forget_clients(&self, family: Family, old: &Table, new: &Table) -> Result<()> {
        let memory_of = |name: &str| name.strip_prefix("affinity-").map(str::to_owned);
        let values = |t: &Table, map: &str| -> Vec<Data> {
            t.sets.get(map).map(|s| s.elements.values().cloned().collect()).unwrap_or_default()
        };
        let mut shrunk: Vec<(&String, String)> = Vec::new();
        for memory in new.sets.keys() {
            let Some(map) = memory_of(memory).and_then(|m| find_map(new, &m)) else { continue };
            let now = values(new, &map);
            if values(old, &map).iter().any(|v| !now.contains(v)) || find_map(old, &map).is_none() {
                shrunk.push((memory, map));
            }
        }
        if shrunk.is_empty() {
            return Ok(());
        }
        let Some(kernel) = self.kernel.nft_table(&Netns::Host, family, TABLE).await? else { return Ok(()) };
        let mut ops = Vec::new();
        for (memory, map) in shrunk {
            let now = values(new, &map);
            let clients = kernel.sets.get(memory).map(|s| &s.elements).into_iter().flatten();
            let gone: Vec<(Vec<u8>, Data)> =
                clients.filter(|(_, v)| !now.contains(v)).map(|(k, v)| (k.clone(), v.clone())).collect();
            if !gone.is_empty() {
                ops.push(Op::DeleteElements(memory.clone(), gone));
            }
        }
        self.kernel.nft_commit(&Netns::Host, family, TABLE, &ops).await
    }
}

/// The endpoint map of a memory: same name without the prefix, up to where long names are cut.
fn find_map(t: &Table, name: &str) -> Option<String> {
    t.sets.keys().find(|k| *k == name || k.starts_with(name)).cloned()
}
