//! From the plan to the kernel. Entry point: [`Synchronizer::apply`].

use std::sync::Arc;

use knarr_netlink::nft::{Data, Family, Op, Table};
use knarr_netlink::tables::Tables;
use knarr_netlink::{Kernel, Ledger, Netns, Result};

use crate::ProxyConfig;
use crate::conntrack::stale_flows;
use crate::model::ServicePort;
use crate::plan::{TABLE, plan};

/// Holds what the kernel is known to have, and sends differences.
pub struct Synchronizer {
    cfg: ProxyConfig,
    kernel: Arc<dyn Kernel>,
    tables: Tables,
    services: Vec<ServicePort>,
}

impl Synchronizer {
    /// Nothing known yet: the first [`apply`](Self::apply) reads and adopts what is there.
    pub fn new(cfg: ProxyConfig, kernel: Arc<dyn Kernel>, ledger: Ledger) -> Self {
        let tables = Tables::new(TABLE, kernel.clone(), ledger);
        Self { cfg, kernel, tables, services: Vec::new() }
    }

    /// Somebody may have deleted the tables: the kernel is read again next time.
    pub fn forget(&mut self) {
        self.tables.forget();
    }

    /// Makes the kernel's tables what these service ports want, with one transaction per family that differs.
    /// After an error the kernel is read anew next time.
    pub async fn apply(&mut self, services: Vec<ServicePort>) -> Result<()> {
        let desired = plan(&services, &self.cfg);
        for family in [Family::Ip, Family::Ip6] {
            let want = desired.get(&family);
            let before = self.tables.apply(family, want).await?;
            if let (Some(before), Some(want)) = (&before, want) {
                let forgotten = self.forget_clients(family, before, want).await;
                if forgotten.is_err() {
                    self.tables.doubt(family);
                }
                forgotten?;
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
