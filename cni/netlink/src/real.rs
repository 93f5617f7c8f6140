//! The kernel itself, over netlink. Entry point: [`RealKernel`].

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use async_trait::async_trait;
use futures::StreamExt;
use ipnetwork::IpNetwork;
use nlink::netlink::addr::{Ipv4Address, Ipv6Address};
use nlink::netlink::link::{BridgeLink, BridgePortConfig, VethLink};
use nlink::netlink::namespace;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::nftables::{NftablesEvent, NftablesGroup};
use nlink::netlink::route::{Ipv4Route, Ipv6Route};
use nlink::netlink::{Connection, Netfilter, Nftables, Route as RouteProtocol};

use crate::error::{Error, ErrorKind, Result};
use crate::ethtool;
use crate::kernel::{
    AddressOptions, BridgeSpec, ConntrackFlow, Driver, ForwardingEntry, Kernel, Link, LinkChange, Neighbor,
    Netns, NetworkInterest, Route, RouteScope, VethSpec, VxlanSpec,
};
use crate::nft::{self, Family, Op, Table, dump, wire};
use crate::tunnel;

/// Headers of a message, rounded up.
const MESSAGE_HEADERS: usize = 32;

/// Speaks netlink. Every call opens its own socket in the namespace it is about: no state, nothing to go stale.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealKernel;

pub(crate) fn route_socket(ns: &Netns) -> Result<Connection<RouteProtocol>> {
    match ns {
        Netns::Host => Connection::<RouteProtocol>::new(),
        Netns::Path(p) => Connection::<RouteProtocol>::new_in(p.as_path()),
    }
    .map_err(|e| Error::netlink("open route socket in", ns.to_string(), e))
}

fn nft_socket(ns: &Netns) -> Result<Connection<Nftables>> {
    match ns {
        Netns::Host => Connection::<Nftables>::new(),
        Netns::Path(p) => Connection::<Nftables>::new_in(p.as_path()),
    }
    .map_err(|e| Error::netlink("open nftables socket in", ns.to_string(), e))
}

/// A transaction is one send call: the buffer must hold all of it, beyond what is the system's limit for
/// ordinary programs.
fn send_buffer(socket: &Connection<Nftables>, bytes: usize) -> std::io::Result<()> {
    let fd = socket.socket().as_fd();
    let needed = bytes + MESSAGE_HEADERS * 4;
    if rustix::net::sockopt::socket_send_buffer_size(fd)? < needed {
        rustix::net::sockopt::set_socket_send_buffer_size_force(fd, needed)?;
    }
    Ok(())
}

fn conntrack_socket(ns: &Netns) -> Result<Connection<Netfilter>> {
    match ns {
        Netns::Host => Connection::<Netfilter>::new(),
        Netns::Path(p) => Connection::<Netfilter>::new_in(p.as_path()),
    }
    .map_err(|e| Error::netlink("open conntrack socket in", ns.to_string(), e))
}

pub(crate) fn convert_link(m: &nlink::netlink::messages::LinkMessage) -> Link {
    let mut mac = [0; 6];
    if let Some(bytes) = m.address().filter(|b| b.len() == 6) {
        mac.copy_from_slice(bytes);
    }
    Link {
        index: m.ifindex(),
        name: m.name_or("").to_owned(),
        kind: m.kind().unwrap_or("").to_owned(),
        mac,
        mtu: m.mtu().unwrap_or(0),
        up: m.is_up(),
        master: m.master(),
    }
}

/// Turns "it was not there" into `false`.
pub(crate) fn existed(
    r: std::result::Result<(), nlink::netlink::Error>,
    operation: &'static str,
    object: String,
) -> Result<bool> {
    match r {
        Ok(()) => Ok(true),
        Err(e) if e.is_not_found() || e.is_no_device() => Ok(false),
        // An address that is not on the link.
        Err(e) if e.errno() == Some(nix::libc::EADDRNOTAVAIL) => Ok(false),
        Err(e) => Err(Error::netlink(operation, object, e)),
    }
}

fn route4(route: &Route, to: ipnetwork::Ipv4Network) -> Ipv4Route {
    let mut r = Ipv4Route::from_addr(to.network(), to.prefix());
    if let Some(IpAddr::V4(gw)) = route.gateway {
        r = r.gateway(gw);
    }
    if let Some(IpAddr::V4(src)) = route.source {
        r = r.prefsrc(src);
    }
    if let Some(dev) = &route.device {
        r = r.dev(dev.clone());
    }
    match route.scope {
        RouteScope::Universe => r,
        RouteScope::Link => r.scope(nlink::netlink::types::route::RouteScope::Link),
        RouteScope::OnLink => r.onlink(),
    }
}

fn route6(route: &Route, to: ipnetwork::Ipv6Network) -> Ipv6Route {
    let mut r = Ipv6Route::from_addr(to.network(), to.prefix());
    if let Some(IpAddr::V6(gw)) = route.gateway {
        r = r.gateway(gw);
    }
    if let Some(IpAddr::V6(src)) = route.source {
        r = r.prefsrc(src);
    }
    if let Some(dev) = &route.device {
        r = r.dev(dev.clone());
    }
    if route.scope == RouteScope::OnLink { r.onlink() } else { r }
}

fn sysctl_path(key: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(key)
}

/// Runs `f` on a thread of its own inside the namespace.
pub(crate) fn inside<T: Send>(ns: &Netns, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Netns::Path(path) = ns else { return f() };
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", ns.to_string(), &e))?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::new("enter", ns.to_string(), ErrorKind::Other, e.to_string()))?;
            f()
        });
        worker.join().unwrap_or_else(|_| {
            Err(Error::new("run inside", ns.to_string(), ErrorKind::Other, "the thread ended abnormally"))
        })
    })
}

#[async_trait]
impl Kernel for RealKernel {
    async fn links(&self, ns: &Netns) -> Result<Vec<Link>> {
        let links = route_socket(ns)?
            .get_links()
            .await
            .map_err(|e| Error::netlink("list links of", ns.to_string(), e))?;
        Ok(links.iter().map(convert_link).collect())
    }

    async fn link(&self, ns: &Netns, name: &str) -> Result<Option<Link>> {
        match route_socket(ns)?.get_link_by_name(name).await {
            Ok(link) => Ok(link.as_ref().map(convert_link)),
            Err(e) if e.is_not_found() || e.is_no_device() => Ok(None),
            Err(e) => Err(Error::netlink("read link", name, e)),
        }
    }

    async fn link_with(&self, ns: &Netns, address: IpAddr) -> Result<Option<(Link, IpNetwork)>> {
        tunnel::link_with(ns, address).await
    }

    async fn add_bridge(&self, ns: &Netns, spec: &BridgeSpec) -> Result<()> {
        let mut link = BridgeLink::new(&spec.name).address(spec.mac);
        if let Some(mtu) = spec.mtu {
            link = link.mtu(mtu);
        }
        route_socket(ns)?.add_link(link).await.map_err(|e| Error::netlink("add bridge", &spec.name, e))
    }

    async fn add_veth(&self, ns: &Netns, spec: &VethSpec) -> Result<()> {
        let mut link = VethLink::new(&spec.name, &spec.peer_name);
        if let Some(mtu) = spec.mtu {
            link = link.mtu(mtu);
        }
        if let Some(mac) = spec.peer_mac {
            link = link.peer_address(mac);
        }
        if let Netns::Path(p) = &spec.peer_ns {
            let file = std::fs::File::open(p).map_err(|e| Error::io("open", spec.peer_ns.to_string(), &e))?;
            link = link.peer_netns_fd(file);
        }
        route_socket(ns)?.add_link(link).await.map_err(|e| Error::netlink("add veth", &spec.name, e))
    }

    async fn add_vxlan(&self, ns: &Netns, spec: &VxlanSpec) -> Result<()> {
        tunnel::add(ns, spec).await
    }

    async fn vxlan(&self, ns: &Netns, name: &str) -> Result<Option<VxlanSpec>> {
        tunnel::read(ns, name).await
    }

    async fn driver(&self, ns: &Netns, link: &str) -> Result<Driver> {
        inside(ns, || ethtool::driver(link))
    }

    async fn change_link(&self, ns: &Netns, name: &str, change: &LinkChange) -> Result<()> {
        if let LinkChange::TxChecksum(offload) = change {
            return inside(ns, || ethtool::set_tx_checksum(name, *offload));
        }
        let socket = route_socket(ns)?;
        let (operation, result) = match change {
            LinkChange::Up => ("set up link", socket.set_link_up(name).await),
            LinkChange::Down => ("set down link", socket.set_link_down(name).await),
            LinkChange::Master(master) => ("enslave link", socket.enslave(name, master.as_str()).await),
            LinkChange::Hairpin => (
                "set hairpin on link",
                socket.set_bridge_port(name, BridgePortConfig::new().hairpin(true)).await,
            ),
            LinkChange::Mtu(mtu) => ("set MTU of link", socket.set_link_mtu(name, *mtu).await),
            LinkChange::Mac(mac) => ("set address of link", socket.set_link_address(name, *mac).await),
            LinkChange::TxChecksum(_) => return Ok(()),
        };
        result.map_err(|e| Error::netlink(operation, name, e))
    }

    async fn delete_link(&self, ns: &Netns, name: &str) -> Result<bool> {
        existed(route_socket(ns)?.del_link(name).await, "delete link", name.to_owned())
    }

    async fn addresses(&self, ns: &Netns, link: &str) -> Result<Vec<IpNetwork>> {
        let list = route_socket(ns)?
            .get_addresses_by_name(link)
            .await
            .map_err(|e| Error::netlink("list addresses of", link, e))?;
        Ok(list.iter().filter_map(|a| IpNetwork::new(*a.primary_address()?, a.prefix_len()).ok()).collect())
    }

    async fn add_address(
        &self,
        ns: &Netns,
        link: &str,
        address: IpNetwork,
        options: AddressOptions,
    ) -> Result<()> {
        let socket = route_socket(ns)?;
        let alone = options == AddressOptions::AddressOnly;
        let result = match address {
            IpNetwork::V4(a) => {
                let cfg = Ipv4Address::new(link, a.ip(), a.prefix());
                socket.add_address(if alone { cfg.noprefixroute() } else { cfg }).await
            }
            IpNetwork::V6(a) => {
                let cfg = Ipv6Address::new(link, a.ip(), a.prefix()).nodad();
                socket.add_address(if alone { cfg.noprefixroute() } else { cfg }).await
            }
        };
        match result {
            Err(e) if !e.is_already_exists() => {
                Err(Error::netlink("add address", format!("{address} to {link}"), e))
            }
            _ => Ok(()),
        }
    }

    async fn delete_address(&self, ns: &Netns, link: &str, address: IpNetwork) -> Result<bool> {
        let result = route_socket(ns)?.del_address(link, address.ip(), address.prefix()).await;
        existed(result, "delete address", format!("{address} of {link}"))
    }

    async fn routes(&self, ns: &Netns) -> Result<Vec<Route>> {
        let socket = route_socket(ns)?;
        let fail = |e| Error::netlink("list routes of", ns.to_string(), e);
        let names = socket.get_interface_names().await.map_err(fail)?;
        let list = socket.get_routes_for_table(254).await.map_err(fail)?;
        Ok(list.iter().filter_map(|r| convert_route(r, &names)).collect())
    }

    async fn replace_route(&self, ns: &Netns, route: &Route) -> Result<()> {
        let socket = route_socket(ns)?;
        match route.destination {
            IpNetwork::V4(to) => socket.replace_route(route4(route, to)).await,
            IpNetwork::V6(to) => socket.replace_route(route6(route, to)).await,
        }
        .map_err(|e| Error::netlink("replace route", route.destination.to_string(), e))
    }

    async fn delete_route(&self, ns: &Netns, route: &Route) -> Result<bool> {
        let socket = route_socket(ns)?;
        let result = match route.destination {
            IpNetwork::V4(to) => socket.del_route(route4(route, to)).await,
            IpNetwork::V6(to) => socket.del_route(route6(route, to)).await,
        };
        existed(result, "delete route", route.destination.to_string())
    }

    async fn neighbors(&self, ns: &Netns, link: &str) -> Result<Vec<Neighbor>> {
        tunnel::neighbors(ns, link).await
    }

    async fn replace_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<()> {
        tunnel::replace_neighbor(ns, entry).await
    }

    async fn delete_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<bool> {
        tunnel::delete_neighbor(ns, entry).await
    }

    async fn forwarding(&self, ns: &Netns, link: &str) -> Result<Vec<ForwardingEntry>> {
        tunnel::forwarding(ns, link).await
    }

    async fn replace_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<()> {
        tunnel::replace_forwarding(ns, entry).await
    }

    async fn delete_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<bool> {
        tunnel::delete_forwarding(ns, entry).await
    }

    async fn watch_network(
        &self,
        ns: &Netns,
        of: &NetworkInterest,
        changed: &(dyn Fn() + Send + Sync),
    ) -> Result<std::convert::Infallible> {
        tunnel::watch(ns, of, changed).await
    }

    fn release(&self) -> String {
        rustix::system::uname().release().to_string_lossy().into_owned()
    }

    async fn sysctl(&self, ns: &Netns, key: &str) -> Result<Option<String>> {
        inside(ns, || match std::fs::read_to_string(sysctl_path(key)) {
            Ok(v) => Ok(Some(v.trim_end().to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read sysctl", key, &e)),
        })
    }

    async fn set_sysctl(&self, ns: &Netns, key: &str, value: &str) -> Result<()> {
        inside(ns, || std::fs::write(sysctl_path(key), value).map_err(|e| Error::io("write sysctl", key, &e)))
    }

    async fn netns_exists(&self, path: &Path) -> Result<bool> {
        Ok(namespace::is_namespace_path(path))
    }

    async fn add_netns(&self, path: &Path) -> Result<()> {
        namespace::create_path(path).map_err(|e| Error::netlink("add netns", path.display().to_string(), e))
    }

    async fn delete_netns(&self, path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        existed(namespace::delete_path(path), "delete netns", path.display().to_string())
    }

    async fn nft_table(&self, ns: &Netns, family: Family, table: &str) -> Result<Option<Table>> {
        let socket = nft_socket(ns)?;
        let fail = |e| Error::netlink("read nftables table", format!("{} {table}", family.name()), e);
        let nf = wire::nl_family(family);
        if !socket.list_tables_in(nf).await.map_err(fail)?.iter().any(|t| t.name == table) {
            return Ok(None);
        }
        let mut out = Table::default();
        for info in socket.list_sets_in(table, nf).await.map_err(fail)? {
            let mut set = wire::decode_set(&info, family);
            let elements = dump::elements(socket.socket(), family, table, &info.name).await;
            let elements =
                elements.map_err(|e| Error::io("read nftables set", format!("{table} {}", info.name), &e))?;
            set.elements = elements.into_iter().collect();
            out.sets.insert(info.name, set);
        }
        for info in socket.list_chains_in(table, nf).await.map_err(fail)? {
            let chain = nft::Chain { base: wire::decode_base(&info), rules: Vec::new() };
            out.chains.insert(info.name, chain);
        }
        for info in socket.list_rules(table, nf).await.map_err(fail)? {
            if let Some(chain) = out.chains.get_mut(&info.chain).filter(|_| info.table == table) {
                chain.rules.push(wire::decode_rule(&info));
            }
        }
        Ok(Some(out))
    }

    async fn nft_commit(&self, ns: &Netns, family: Family, table: &str, ops: &[Op]) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let socket = nft_socket(ns)?;
        let mut transaction = socket.transaction();
        let mut bytes = 0;
        for (id, op) in (1u32..).zip(ops) {
            for message in wire::encode(op, family, table, id) {
                bytes += message.attrs.len() + MESSAGE_HEADERS;
                transaction = transaction.raw(message);
            }
        }
        send_buffer(&socket, bytes).map_err(|e| Error::io("enlarge send buffer for", table, &e))?;
        transaction
            .commit(&socket)
            .await
            .map_err(|e| Error::netlink("change nftables table", format!("{} {table}", family.name()), e))
    }

    async fn nft_delete_table(&self, ns: &Netns, family: Family, table: &str) -> Result<bool> {
        let result = nft_socket(ns)?.del_table(table, wire::nl_family(family)).await;
        existed(result, "delete nftables table", format!("{} {table}", family.name()))
    }

    async fn nft_table_deleted(&self, ns: &Netns, family: Family, table: &str) -> Result<()> {
        let socket = nft_socket(ns)?;
        let fail = |e| Error::netlink("watch nftables table", format!("{} {table}", family.name()), e);
        socket.subscribe(&[NftablesGroup::All]).map_err(fail)?;
        let mut events = socket.events().await;
        while let Some(event) = events.next().await {
            match event {
                Ok(NftablesEvent::DelTable(t)) if t.name == table && t.family == wire::nl_family(family) => {
                    return Ok(());
                }
                Ok(_) => {}
                // More events than the buffer holds: it may have been among them.
                Err(e) if e.is_no_buffer_space() => return Ok(()),
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(())
    }

    async fn delete_conntrack(&self, ns: &Netns, flow: &ConntrackFlow) -> Result<usize> {
        let mut filter = ConntrackFilter::new().proto(match flow.protocol {
            6 => IpProtocol::Tcp,
            17 => IpProtocol::Udp,
            n => IpProtocol::Other(n),
        });
        if let Some(a) = flow.original_destination {
            filter = filter.orig_dst(a);
        }
        if let Some(p) = flow.original_port {
            filter = filter.orig_dst_port(p);
        }
        if let Some(a) = flow.endpoint {
            filter = filter.reply_src(a);
        }
        conntrack_socket(ns)?
            .del_conntrack_matching(&filter)
            .await
            .map_err(|e| Error::netlink("delete connections", format!("{flow:?}"), e))
    }
}

fn convert_route(
    r: &nlink::netlink::messages::RouteMessage,
    names: &std::collections::HashMap<u32, String>,
) -> Option<Route> {
    let any: IpAddr = if r.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let destination = IpNetwork::new(r.destination().copied().unwrap_or(any), r.dst_len()).ok()?;
    let scope = match r.scope() {
        nlink::netlink::types::route::RouteScope::Link => RouteScope::Link,
        _ if r.is_onlink() => RouteScope::OnLink,
        _ => RouteScope::Universe,
    };
    Some(Route {
        destination,
        gateway: r.gateway().copied(),
        device: r.oif().and_then(|i| names.get(&i)).cloned(),
        source: r.prefsrc().copied(),
        scope,
    })
}
