//! A kernel in memory, for tests of what is above. Entry point: [`FakeKernel`].

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use ipnetwork::IpNetwork;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{
    AddressOptions, BridgeSpec, ConntrackFlow, Kernel, Link, LinkChange, Netns, Route, VethSpec,
};
use crate::nft::{Chain, Data, Family, Op, SetData, Stmt, Table, Verdict};

#[derive(Debug, Default)]
struct Space {
    links: BTreeMap<String, Link>,
    addresses: BTreeMap<String, Vec<IpNetwork>>,
    routes: Vec<Route>,
    sysctls: BTreeMap<String, String>,
    tables: BTreeMap<(Family, String), Table>,
}

#[derive(Debug, Default)]
struct State {
    spaces: BTreeMap<Netns, Space>,
    veths: Vec<((Netns, String), (Netns, String))>,
    forgotten: Vec<ConntrackFlow>,
    next_index: u32,
}

/// Behaves as the kernel does in what we rely on: names are unique, missing objects are errors, a transaction
/// is all or nothing and refuses dangling references, deleting one veth end deletes the other.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
    deleted: tokio::sync::Notify,
}

impl FakeKernel {
    /// An empty kernel with the host namespace and these sysctls in it.
    pub fn new(sysctls: &[(&str, &str)]) -> Self {
        let sysctls = sysctls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let host = Space { sysctls, ..Space::default() };
        let state =
            State { spaces: BTreeMap::from([(Netns::Host, host)]), next_index: 1, ..State::default() };
        Self { state: Mutex::new(state), deleted: tokio::sync::Notify::new() }
    }

    /// Connections that were to be forgotten.
    pub fn forgotten(&self) -> Vec<ConntrackFlow> {
        self.state.lock().forgotten.clone()
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
        space.links.insert(name.to_owned(), link);
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

    async fn change_link(&self, ns: &Netns, name: &str, change: &LinkChange) -> Result<()> {
        self.with(ns, |s| {
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
            }
            Ok(())
        })
    }

    async fn delete_link(&self, ns: &Netns, name: &str) -> Result<bool> {
        let gone = self.with(ns, |s| Ok(s.drop_link(name)))?;
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
        self.with(ns, |s| {
            s.require(link)?;
            let list = s.addresses.entry(link.to_owned()).or_default();
            if !list.contains(&address) {
                list.push(address);
            }
            Ok(())
        })
    }

    async fn delete_address(&self, ns: &Netns, link: &str, address: IpNetwork) -> Result<bool> {
        self.with(ns, |s| {
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
        self.with(ns, |s| {
            if let Some(dev) = &route.device {
                s.require(dev)?;
            }
            s.routes.retain(|r| r.destination != route.destination);
            s.routes.push(route.clone());
            Ok(())
        })
    }

    async fn delete_route(&self, ns: &Netns, route: &Route) -> Result<bool> {
        self.with(ns, |s| {
            let before = s.routes.len();
            s.routes.retain(|r| r.destination != route.destination);
            Ok(s.routes.len() < before)
        })
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

fn apply(table: &mut Option<Table>, op: &Op) -> std::result::Result<(), &'static str> {
    if *op == Op::AddTable {
        table.get_or_insert_default();
        return Ok(());
    }
    let t = table.as_mut().ok_or("no such table")?;
    match op {
        Op::AddTable => {}
        Op::AddSet(name, set) => drop(t.sets.entry(name.clone()).or_insert_with(|| set.clone())),
        Op::AddChain(name, base) => {
            t.chains.entry(name.clone()).or_insert_with(|| Chain { base: *base, rules: Vec::new() });
        }
        Op::DeleteElements(name, list) => {
            let set = t.sets.get_mut(name).ok_or("no such set")?;
            for (key, _) in list {
                set.elements.remove(key).ok_or("no such element")?;
            }
        }
        Op::AddElements(name, list) => {
            let set = t.sets.get_mut(name).ok_or("no such set")?;
            for (key, data) in list {
                let fits = matches!(
                    (data, &set.data),
                    (Data::None, SetData::None)
                        | (Data::Value(_), SetData::Value(_))
                        | (Data::Verdict(_), SetData::Verdict)
                );
                if !fits || set.elements.insert(key.clone(), data.clone()).is_some_and(|old| old != *data) {
                    return Err("element does not fit, or is there with other data");
                }
            }
        }
        Op::ClearChain(name) => t.chains.get_mut(name).ok_or("no such chain")?.rules.clear(),
        Op::AddRule(name, rule) => t.chains.get_mut(name).ok_or("no such chain")?.rules.push(rule.clone()),
        Op::DeleteChain(name) => drop(t.chains.remove(name).ok_or("no such chain")?),
        Op::DeleteSet(name) => drop(t.sets.remove(name).ok_or("no such set")?),
    }
    Ok(())
}

/// Every chain and set that is referred to must be there.
fn check(t: &Table) -> std::result::Result<(), String> {
    let chain = |v: &Verdict| match v {
        Verdict::Jump(c) | Verdict::Goto(c) if !t.chains.contains_key(c) => Err(format!("no chain {c}")),
        _ => Ok(()),
    };
    for data in t.sets.values().flat_map(|s| s.elements.values()) {
        if let Data::Verdict(v) = data {
            chain(v)?;
        }
    }
    for stmt in t.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.stmts) {
        match stmt {
            Stmt::Verdict(v) => chain(v)?,
            Stmt::InSet(_, _, s)
            | Stmt::VerdictMap(_, s)
            | Stmt::Resolve(_, s)
            | Stmt::ResolveRandom(_, s)
            | Stmt::Remember(_, s)
                if !t.sets.contains_key(s) =>
            {
                return Err(format!("no set {s}"));
            }
            _ => {}
        }
    }
    Ok(())
}
