//! A kernel in memory, for tests of what is above. Entry point: [`FakeKernel`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use async_trait::async_trait;
use ipnetwork::IpNetwork;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::fake_nft::{apply, check};
use crate::kernel::{
    AddressOptions, BridgeSpec, ConntrackFlow, Driver, ForwardingEntry, Kernel, Link, LinkChange, Neighbor,
    Netns, NetworkInterest, Offload, Route, VethSpec, VxlanSpec,
};
use crate::nft::{Family, Op, Table};

#[derive(Debug, Default)]
struct Space {
    links: BTreeMap<String, Link>,
    addresses: BTreeMap<String, Vec<IpNetwork>>,
    routes: Vec<Route>,
    sysctls: BTreeMap<String, String>,
    tables: BTreeMap<(Family, String), Table>,
    vxlans: BTreeMap<String, VxlanSpec>,
    neighbors: Vec<Neighbor>,
    forwarding: Vec<ForwardingEntry>,
    drivers: BTreeMap<String, Driver>,
}

#[derive(Debug, Default)]
struct State {
    spaces: BTreeMap<Netns, Space>,
    veths: Vec<((Netns, String), (Netns, String))>,
    forgotten: Vec<ConntrackFlow>,
    next_index: u32,
    release: String,
}

/// Behaves as the kernel does in what we rely on: names are unique, missing objects are errors, a transaction
/// is all or nothing and refuses dangling references, deleting one veth end deletes the other.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    deleted: tokio::sync::Notify,
    /// Goes up with every change of links, addresses and routes.
    changes: tokio::sync::watch::Sender<u64>,
}

impl FakeKernel {
    /// An empty kernel with the host namespace and these sysctls in it.
    pub fn new(sysctls: &[(&str, &str)]) -> Self {
        let sysctls = sysctls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let host = Space { sysctls, ..Space::default() };
        let state =
            State { spaces: BTreeMap::from([(Netns::Host, host)]), next_index: 1, ..State::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// Says that this is a kernel of that release.
    pub fn set_release(&self, release: &str) {
        self.state.lock().release = release.to_owned();
    }

    /// Puts a physical device with this driver into the host namespace.
    pub fn plug(&self, name: &str, driver: &str, mac: [u8; 6], mtu: u32) -> Result<()> {
        self.add_link(&Netns::Host, name, "", mac, Some(mtu))?;
        let driver = Driver { name: driver.to_owned(), tx_checksum: Offload::On };
        self.with(&Netns::Host, |s| {
            s.drivers.insert(name.to_owned(), driver);
            Ok(())
        })
    }

    /// Connections that were to be forgotten.
    pub fn forgotten(&self) -> Vec<ConntrackFlow> {
        self.state.lock().forgotten.clone()
    }

    /// As [`with`](Self::with), and those who watch are told.
    fn alter<T>(&self, ns: &Netns, f: impl FnOnce(&mut Space) -> Result<T>) -> Result<T> {
        let done = self.with(ns, f)?;
        self.changes.send_modify(|n| *n += 1);
        Ok(done)
    }

    fn with<T>(&self, ns: &Netns, f: impl FnOnce(&mut Space) -> Result<T>) -> Result<T> {
        match self.state.lock().spaces.get_mut(ns) {
            Some(space) => f(space),
            None => Err(missing("enter", ns.to_string())),
        }
    }

    fn add_link(&self, ns: &Netns, name: &str, kind: &str, mac: [u8; 6], mtu: Option<u32>) -> Result<()> {
        let mut state = self.state.lock();
        state.next_index += 1;
        let index = state.next_index;
        let space = state.spaces.get_mut(ns).ok_or_else(|| missing("enter", ns.to_string()))?;
        if space.links.contains_key(name) {
            return Err(Error::new("add link", name, ErrorKind::Exists, "file exists"));
        }
        let link = Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            mac,
            mtu: mtu.unwrap_or(1500),
            up: false,
            master: None,
        };
        let driver =
            Driver { name: if kind.is_empty() { name } else { kind }.to_owned(), tx_checksum: Offload::On };
        space.drivers.insert(name.to_owned(), driver);
        space.links.insert(name.to_owned(), link);
        drop(state);
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }
}

fn missing(operation: &'static str, object: impl Into<String>) -> Error {
    Error::new(operation, object, ErrorKind::NotFound, "no such object")
}

impl Space {
    fn require(&mut self, name: &str) -> Result<&mut Link> {
        self.links.get_mut(name).ok_or_else(|| missing("find link", name))
    }

    fn drop_link(&mut self, name: &str) -> bool {
        self.addresses.remove(name);
        self.routes.retain(|r| r.device.as_deref() != Some(name));
        self.neighbors.retain(|n| n.link != name);
        self.forwarding.retain(|e| e.link != name);
        self.vxlans.remove(name);
        self.drivers.remove(name);
        self.links.remove(name).is_some()
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    async fn links(&self, ns: &Netns) -> Result<Vec<Link>> {
        self.with(ns, |s| Ok(s.links.values().cloned().collect()))
    }

    async fn link(&self, ns: &Netns, name: &str) -> Result<Option<Link>> {
        self.with(ns, |s| Ok(s.links.get(name).cloned()))
    }

    async fn link_with(&self, ns: &Netns, address: IpAddr) -> Result<Option<(Link, IpNetwork)>> {
        self.with(ns, |s| {
            let mut all = s.addresses.iter().flat_map(|(l, list)| list.iter().map(move |a| (l, *a)));
            let found = all.find(|(_, a)| a.ip() == address);
            Ok(found.and_then(|(l, a)| Some((s.links.get(l)?.clone(), a))))
        })
    }

    async fn add_bridge(&self, ns: &Netns, spec: &BridgeSpec) -> Result<()> {
        self.add_link(ns, &spec.name, "bridge", spec.mac, spec.mtu)
    }

    async fn add_veth(&self, ns: &Netns, spec: &VethSpec) -> Result<()> {
        self.add_link(ns, &spec.name, "veth", [2, 0, 0, 0, 0, 1], spec.mtu)?;
        let mac = spec.peer_mac.unwrap_or([2, 0, 0, 0, 0, 2]);
        if let Err(e) = self.add_link(&spec.peer_ns, &spec.peer_name, "veth", mac, spec.mtu) {
            self.with(ns, |s| Ok(s.drop_link(&spec.name)))?;
            return Err(e);
        }
        let ends = ((ns.clone(), spec.name.clone()), (spec.peer_ns.clone(), spec.peer_name.clone()));
        self.state.lock().veths.push(ends);
        Ok(())
    }

    async fn add_vxlan(&self, ns: &Netns, spec: &VxlanSpec) -> Result<()> {
        self.add_link(ns, &spec.name, "vxlan", spec.mac, Some(spec.mtu))?;
        self.with(ns, |s| {
            s.vxlans.insert(spec.name.clone(), spec.clone());
            Ok(())
        })
    }

    async fn vxlan(&self, ns: &Netns, name: &str) -> Result<Option<VxlanSpec>> {
        self.with(ns, |s| {
            let now = s.links.get(name).zip(s.vxlans.get(name));
            Ok(now.map(|(l, v)| VxlanSpec { mac: l.mac, mtu: l.mtu, ..v.clone() }))
        })
    }

    async fn driver(&self, ns: &Netns, link: &str) -> Result<Driver> {
        self.with(ns, |s| s.drivers.get(link).cloned().ok_or_else(|| missing("read driver of link", link)))
    }

    async fn change_link(&self, ns: &Netns, name: &str, change: &LinkChange) -> Result<()> {
        self.alter(ns, |s| {
            if let LinkChange::TxChecksum(offload) = change {
                let driver = s.drivers.get_mut(name).ok_or_else(|| missing("find link", name))?;
                driver.tx_checksum = *offload;
            }
            let master = match change {
                LinkChange::Master(m) => Some(s.require(m)?.index),
                _ => None,
            };
            let link = s.require(name)?;
            match change {
                LinkChange::Up => link.up = true,
                LinkChange::Down => link.up = false,
                LinkChange::Master(_) => link.master = master,
                LinkChange::Hairpin if link.master.is_none() => {
                    return Err(Error::new(
                        "set hairpin on link",
                        name,
                        ErrorKind::Unsupported,
                        "not a bridge port",
                    ));
                }
                LinkChange::Hairpin => {}
                LinkChange::Mtu(mtu) => link.mtu = *mtu,
                LinkChange::Mac(mac) => link.mac = *mac,
                LinkChange::TxChecksum(_) => {}
            }
            Ok(())
        })
    }

    async fn delete_link(&self, ns: &Netns, name: &str) -> Result<bool> {
        let gone = self.alter(ns, |s| Ok(s.drop_link(name)))?;
        let mut state = self.state.lock();
        let me = (ns.clone(), name.to_owned());
        let pair = state.veths.iter().position(|(a, b)| *a == me || *b == me);
        if let Some((a, b)) = pair.map(|i| state.veths.remove(i)) {
            let other = if a == me { b } else { a };
            if let Some(space) = state.spaces.get_mut(&other.0) {
                space.drop_link(&other.1);
            }
        }
        Ok(gone)
    }

    async fn addresses(&self, ns: &Netns, link: &str) -> Result<Vec<IpNetwork>> {
        self.with(ns, |s| {
            s.require(link)?;
            Ok(s.addresses.get(link).cloned().unwrap_or_default())
        })
    }

    async fn add_address(&self, ns: &Netns, link: &str, address: IpNetwork, _: AddressOptions) -> Result<()> {
        self.alter(ns, |s| {
            s.require(link)?;
            let list = s.addresses.entry(link.to_owned()).or_default();
            if !list.contains(&address) {
                list.push(address);
            }
            Ok(())
        })
    }

    async fn delete_address(&self, ns: &Netns, link: &str, address: IpNetwork) -> Result<bool> {
        self.alter(ns, |s| {
            let Some(list) = s.addresses.get_mut(link) else {
                return Ok(false);
            };
            let before = list.len();
            list.retain(|a| *a != address);
            Ok(list.len() < before)
        })
    }

    async fn routes(&self, ns: &Netns) -> Result<Vec<Route>> {
        self.with(ns, |s| Ok(s.routes.clone()))
    }

    async fn replace_route(&self, ns: &Netns, route: &Route) -> Result<()> {
        self.alter(ns, |s| {
            if let Some(dev) = &route.device {
                s.require(dev)?;
            }
            s.routes.retain(|r| r.destination != route.destination);
            s.routes.push(route.clone());
            Ok(())
        })
    }

    async fn delete_route(&self, ns: &Netns, route: &Route) -> Result<bool> {
        self.alter(ns, |s| {
            let before = s.routes.len();
            s.routes.retain(|r| r.destination != route.destination);
            Ok(s.routes.len() < before)
        })
    }

    async fn neighbors(&self, ns: &Netns, link: &str) -> Result<Vec<Neighbor>> {
        self.with(ns, |s| {
            s.require(link)?;
            Ok(s.neighbors.iter().filter(|n| n.link == link).cloned().collect())
        })
    }

    async fn replace_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<()> {
        self.with(ns, |s| {
            s.require(&entry.link)?;
            s.neighbors.retain(|n| (&n.link, n.address) != (&entry.link, entry.address));
            s.neighbors.push(entry.clone());
            Ok(())
        })
    }

    async fn delete_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<bool> {
        self.with(ns, |s| {
            let before = s.neighbors.len();
            s.neighbors.retain(|n| (&n.link, n.address) != (&entry.link, entry.address));
            Ok(s.neighbors.len() < before)
        })
    }

    async fn forwarding(&self, ns: &Netns, link: &str) -> Result<Vec<ForwardingEntry>> {
        self.with(ns, |s| {
            s.require(link)?;
            Ok(s.forwarding.iter().filter(|e| e.link == link).cloned().collect())
        })
    }

    async fn replace_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<()> {
        self.with(ns, |s| {
            s.require(&entry.link)?;
            s.forwarding.retain(|e| (&e.link, e.mac) != (&entry.link, entry.mac));
            s.forwarding.push(entry.clone());
            Ok(())
        })
    }

    async fn delete_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<bool> {
        self.with(ns, |s| {
            let before = s.forwarding.len();
            s.forwarding.retain(|e| e != entry);
            Ok(s.forwarding.len() < before)
        })
    }

    /// Tells of everything, not only what is of interest.
    async fn watch_network(
        &self,
        ns: &Netns,
        _: &NetworkInterest,
        changed: &(dyn Fn() + Send + Sync),
    ) -> Result<std::convert::Infallible> {
        let mut changes = self.changes.subscribe();
        loop {
            changed();
            if changes.changed().await.is_err() {
                return Err(missing("watch", ns.to_string()));
            }
        }
    }

    fn release(&self) -> String {
        self.state.lock().release.clone()
    }

    async fn sysctl(&self, ns: &Netns, key: &str) -> Result<Option<String>> {
        self.with(ns, |s| Ok(s.sysctls.get(key).cloned()))
    }

    async fn set_sysctl(&self, ns: &Netns, key: &str, value: &str) -> Result<()> {
        self.with(ns, |s| {
            s.sysctls.insert(key.to_owned(), value.to_owned());
            Ok(())
        })
    }

    async fn netns_exists(&self, path: &Path) -> Result<bool> {
        Ok(self.state.lock().spaces.contains_key(&Netns::Path(path.to_owned())))
    }

    async fn add_netns(&self, path: &Path) -> Result<()> {
        let ns = Netns::Path(path.to_owned());
        let mut state = self.state.lock();
        if state.spaces.contains_key(&ns) {
            return Err(Error::new(
                "add netns",
                path.display().to_string(),
                ErrorKind::Exists,
                "file exists",
            ));
        }
        state.spaces.insert(ns, Space::default());
        Ok(())
    }

    async fn delete_netns(&self, path: &Path) -> Result<bool> {
        let ns = Netns::Path(path.to_owned());
        let names = match self.links(&ns).await {
            Ok(links) => links,
            Err(_) => return Ok(false),
        };
        for link in names {
            self.delete_link(&ns, &link.name).await?;
        }
        Ok(self.state.lock().spaces.remove(&ns).is_some())
    }

    async fn nft_table(&self, ns: &Netns, family: Family, table: &str) -> Result<Option<Table>> {
        self.with(ns, |s| Ok(s.tables.get(&(family, table.to_owned())).cloned()))
    }

    async fn nft_commit(&self, ns: &Netns, family: Family, table: &str, ops: &[Op]) -> Result<()> {
        self.with(ns, |s| {
            let key = (family, table.to_owned());
            let mut next = s.tables.get(&key).cloned();
            for op in ops {
                apply(&mut next, op).map_err(|detail| {
                    Error::new("change nftables table", table, ErrorKind::Other, format!("{op:?}: {detail}"))
                })?;
            }
            match next {
                Some(t) => {
                    check(&t)
                        .map_err(|d| Error::new("change nftables table", table, ErrorKind::NotFound, d))?;
                    s.tables.insert(key, t);
                }
                None => drop(s.tables.remove(&key)),
            }
            Ok(())
        })
    }

    async fn nft_delete_table(&self, ns: &Netns, family: Family, table: &str) -> Result<bool> {
        let gone = self.with(ns, |s| Ok(s.tables.remove(&(family, table.to_owned())).is_some()))?;
        self.deleted.notify_one();
        Ok(gone)
    }

    async fn nft_table_deleted(&self, _: &Netns, _: Family, _: &str) -> Result<()> {
        self.deleted.notified().await;
        Ok(())
    }

    async fn delete_conntrack(&self, _: &Netns, flow: &ConntrackFlow) -> Result<usize> {
        self.state.lock().forgotten.push(flow.clone());
        Ok(0)
    }
}
