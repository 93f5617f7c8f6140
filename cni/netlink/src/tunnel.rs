//! VXLAN devices, permanent neighbours, forwarding entries, and changes of the network, over netlink.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::StreamExt;
use ipnetwork::IpNetwork;
use nlink::netlink::fdb::FdbEntryBuilder;
use nlink::netlink::link::VxlanLink;
use nlink::netlink::messages::RouteMessage;
use nlink::netlink::neigh::{Neighbor as NlNeighbor, NeighborState};
use nlink::netlink::{AttrIter, NetworkEvent, RtnetlinkGroup};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{ForwardingEntry, Learning, Link, Neighbor, Netns, NetworkInterest, VxlanSpec};
use crate::real::{convert_link, existed, route_socket};

/// Attributes of a VXLAN device (`IFLA_VXLAN_*` of the kernel's `if_link.h`).
const ID: u16 = 1;
const LINK: u16 = 3;
const LOCAL: u16 = 4;
const LEARNING: u16 = 7;
const PORT: u16 = 15;
const LOCAL6: u16 = 17;

pub(crate) async fn add(ns: &Netns, spec: &VxlanSpec) -> Result<()> {
    let mut link = VxlanLink::new(&spec.name, spec.vni)
        .port(spec.port)
        .address(spec.mac)
        .mtu(spec.mtu)
        .learning(spec.learning == Learning::FromTraffic);
    link = match spec.local {
        Some(IpAddr::V4(a)) => link.local(a),
        Some(IpAddr::V6(a)) => link.local6(a),
        None => link,
    };
    if let Some(index) = spec.underlay {
        link = link.dev_index(index);
    }
    route_socket(ns)?.add_link(link).await.map_err(|e| Error::netlink("add vxlan", &spec.name, e))
}

pub(crate) async fn read(ns: &Netns, name: &str) -> Result<Option<VxlanSpec>> {
    let message = match route_socket(ns)?.get_link_by_name(name).await {
        Ok(Some(m)) => m,
        Ok(None) => return Ok(None),
        Err(e) if e.is_not_found() || e.is_no_device() => return Ok(None),
        Err(e) => return Err(Error::netlink("read vxlan", name, e)),
    };
    if message.kind() != Some("vxlan") {
        return Ok(None);
    }
    let data = message.link_info().and_then(|i| i.data()).unwrap_or_default();
    let attributes: HashMap<u16, &[u8]> = AttrIter::new(data).collect();
    let number =
        |a: u16| attributes.get(&a).and_then(|b| Some(u32::from_ne_bytes(b.get(..4)?.try_into().ok()?)));
    let port = attributes.get(&PORT).and_then(|b| Some(u16::from_be_bytes(b.get(..2)?.try_into().ok()?)));
    let local4 = attributes.get(&LOCAL).and_then(|b| <[u8; 4]>::try_from(*b).ok()).map(Ipv4Addr::from);
    let local6 = attributes.get(&LOCAL6).and_then(|b| <[u8; 16]>::try_from(*b).ok()).map(Ipv6Addr::from);
    let learning = attributes.get(&LEARNING).and_then(|b| b.first()).is_some_and(|l| *l != 0);
    let link = convert_link(&message);
    Ok(Some(VxlanSpec {
        name: link.name,
        vni: number(ID).unwrap_or(0),
        port: port.unwrap_or(0),
        local: local4.map(IpAddr::from).or(local6.map(IpAddr::from)).filter(|a| !a.is_unspecified()),
        underlay: number(LINK).filter(|i| *i != 0),
        mac: link.mac,
        mtu: link.mtu,
        learning: if learning { Learning::FromTraffic } else { Learning::Never },
    }))
}

pub(crate) async fn link_with(ns: &Netns, address: IpAddr) -> Result<Option<(Link, IpNetwork)>> {
    let socket = route_socket(ns)?;
    let fail = |e| Error::netlink("find link with address", address.to_string(), e);
    let list = socket.get_addresses().await.map_err(fail)?;
    let Some(found) = list.iter().find(|a| a.primary_address() == Some(&address)) else { return Ok(None) };
    let Ok(network) = IpNetwork::new(address, found.prefix_len()) else { return Ok(None) };
    let link = socket.get_link_by_index(found.ifindex()).await.map_err(fail)?;
    Ok(link.map(|l| (convert_link(&l), network)))
}

pub(crate) async fn neighbors(ns: &Netns, link: &str) -> Result<Vec<Neighbor>> {
    let list = route_socket(ns)?.get_neighbors_by_name(link).await;
    let list = list.map_err(|e| Error::netlink("list neighbours of", link, e))?;
    let permanent = list.iter().filter(|n| n.state() == NeighborState::Permanent);
    let entry = |n: &nlink::netlink::messages::NeighborMessage| {
        Some(Neighbor {
            link: link.to_owned(),
            address: *n.destination()?,
            mac: n.lladdr()?.try_into().ok()?,
        })
    };
    Ok(permanent.filter_map(entry).collect())
}

fn neighbor(entry: &Neighbor) -> NlNeighbor {
    NlNeighbor::new(&entry.link, entry.address).lladdr(entry.mac).permanent()
}

pub(crate) async fn replace_neighbor(ns: &Netns, entry: &Neighbor) -> Result<()> {
    let result = route_socket(ns)?.replace_neighbor(neighbor(entry)).await;
    result.map_err(|e| Error::netlink("replace neighbour", format!("{} of {}", entry.address, entry.link), e))
}

pub(crate) async fn delete_neighbor(ns: &Netns, entry: &Neighbor) -> Result<bool> {
    let result = route_socket(ns)?.del_neighbor(neighbor(entry)).await;
    existed(result, "delete neighbour", format!("{} of {}", entry.address, entry.link))
}

pub(crate) async fn forwarding(ns: &Netns, link: &str) -> Result<Vec<ForwardingEntry>> {
    let list = route_socket(ns)?.get_fdb(link).await;
    let list = list.map_err(|e| Error::netlink("list forwarding entries of", link, e))?;
    let entry = |e: &nlink::netlink::fdb::FdbEntry| {
        Some(ForwardingEntry { link: link.to_owned(), mac: e.mac(), to: e.dst()? })
    };
    Ok(list.iter().filter(|e| e.is_permanent()).filter_map(entry).collect())
}

/// NTF_SELF: the entry is the VXLAN device's own, not that of a bridge it might be enslaved to.
fn fdb(entry: &ForwardingEntry) -> FdbEntryBuilder {
    FdbEntryBuilder::new(entry.mac).dev(&entry.link).dst(entry.to).permanent().self_()
}

fn fdb_name(entry: &ForwardingEntry) -> String {
    let m = entry.mac.map(|b| format!("{b:02x}")).join(":");
    format!("{m} to {} of {}", entry.to, entry.link)
}

pub(crate) async fn replace_forwarding(ns: &Netns, entry: &ForwardingEntry) -> Result<()> {
    let result = route_socket(ns)?.replace_fdb(fdb(entry)).await;
    result.map_err(|e| Error::netlink("replace forwarding entry", fdb_name(entry), e))
}

pub(crate) async fn delete_forwarding(ns: &Netns, entry: &ForwardingEntry) -> Result<bool> {
    let result = route_socket(ns)?.del_fdb_entry(fdb(entry)).await;
    existed(result, "delete forwarding entry", fdb_name(entry))
}

/// Neighbours and forwarding entries are not watched: nobody but us writes permanent ones on a link of ours, and
/// the kernel drops them only with the link's state, which is. Their events would wake us for every ARP exchange.
pub(crate) async fn watch(
    ns: &Netns,
    of: &NetworkInterest,
    changed: &(dyn Fn() + Send + Sync),
) -> Result<Infallible> {
    let socket = route_socket(ns)?;
    let fail = |e| Error::netlink("watch links and routes of", ns.to_string(), e);
    let groups = [
        RtnetlinkGroup::Link,
        RtnetlinkGroup::Ipv4Addr,
        RtnetlinkGroup::Ipv6Addr,
        RtnetlinkGroup::Ipv4Route,
        RtnetlinkGroup::Ipv6Route,
    ];
    socket.subscribe(&groups).map_err(fail)?;
    // Another socket for the question: answers and events would mix on one.
    let mut names: HashMap<u32, String> = route_socket(ns)?.get_interface_names().await.map_err(fail)?;
    changed();
    let mut events = socket.events().await;
    while let Some(event) = events.next().await {
        let matters = match event {
            Ok(NetworkEvent::NewLink(l)) => {
                let name = l.name_or("").to_owned();
                let renamed = names.insert(l.ifindex(), name.clone());
                of.links.contains(&name) || renamed.is_some_and(|n| of.links.contains(&n))
            }
            Ok(NetworkEvent::DelLink(l)) => names.remove(&l.ifindex()).is_some_and(|n| of.links.contains(&n)),
            Ok(NetworkEvent::NewAddress(a) | NetworkEvent::DelAddress(a)) => {
                names.get(&a.ifindex()).is_some_and(|n| of.links.contains(n))
            }
            Ok(NetworkEvent::NewRoute(r) | NetworkEvent::DelRoute(r)) => leads_into(&r, &of.destinations),
            Ok(_) => false,
            // More events than the buffer holds: it may have been among them.
            Err(e) if e.is_no_buffer_space() => true,
            Err(e) => return Err(fail(e)),
        };
        if matters {
            changed();
        }
    }
    Err(Error::new(
        "watch links and routes of",
        ns.to_string(),
        ErrorKind::Other,
        "the kernel closed the socket",
    ))
}

fn leads_into(route: &RouteMessage, networks: &[IpNetwork]) -> bool {
    let to = route.destination().copied();
    to.is_some_and(|to| networks.iter().any(|n| n.contains(to) && route.dst_len() >= n.prefix()))
}
