//! How pods of different nodes reach each other. Entry points: [`run`], [`mtu`], [`BACKENDS`].
//!
//! A backend is a pure plan: given this node and its peers, the device, routes, neighbours and forwarding entries
//! that there should be. [`steps`] is the pure difference to what the kernel has; [`run`] performs it, whenever a
//! Node or the kernel's network changes. Nothing is ever flushed: what is right already is not touched, so a
//! restart interrupts no packet.
//!
//! Nodes tell each other how to be reached by [annotations](annotations) on their Node. A Node that is deleted is
//! withdrawn; one that is only not ready is kept: its pods may well be alive and reachable, and taking the route
//! away would make a slow kubelet an outage. Knows nothing of services.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod annotations;
pub mod backends;
mod diff;
mod offload;
mod present;
mod run;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::{ForwardingEntry, Neighbor, Offload, Route, VxlanSpec};

pub use diff::{Present, PresentDevice, Step, steps};
pub use offload::{ChecksumBug, checksum_bug};
pub use present::{converge, underlay};
pub use run::{Clients, OverlayConfig, mtu, run, run_with};

/// A VXLAN tunnel end point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// A node as the overlay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Name of the backend that it runs.
    pub backend: String,
    /// Address that other nodes reach it at.
    pub address: IpAddr,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Where its tunnel ends, if its backend has one.
    pub vtep: Option<Vtep>,
}

/// The link that carries traffic to other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Interface name.
    pub link: String,
    /// Interface index.
    pub index: u32,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// The node's address on it, with the subnet's prefix length.
    pub network: IpNetwork,
    /// Who computes the checksums of packets that go into a tunnel.
    pub tunnel_checksums: Offload,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// As others see it.
    pub node: Node,
    /// How it reaches them.
    pub underlay: Underlay,
}

/// The device of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What to create.
    pub spec: VxlanSpec,
    /// All its addresses.
    pub addresses: Vec<IpNetwork>,
    /// Who computes checksums of what is sent through it.
    pub tx_checksum: Offload,
}

/// What should be there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The tunnel's device, for a backend with a tunnel.
    pub device: Option<Device>,
    /// Routes to the pods of other nodes.
    pub routes: Vec<Route>,
    /// Hardware addresses of the routes' gateways.
    pub neighbors: Vec<Neighbor>,
    /// Which node a frame goes to.
    pub forwarding: Vec<ForwardingEntry>,
    /// Peers that cannot be reached, and why. The others are reached nevertheless.
    pub problems: Vec<Problem>,
}

/// Why pods of a peer cannot be reached from here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// The backend joins no nodes.
    #[error(
        "network backend \"none\" joins no nodes: node {node} cannot reach the pods of node {peer}; \
         start all nodes with the backend vxlan or host-gw"
    )]
    SingleNode {
        /// This node.
        node: String,
        /// The peer.
        peer: String,
    },
    /// The peer speaks something else.
    #[error(
        "node {node} runs network backend {ours} and node {peer} runs {theirs}: all nodes must run the same"
    )]
    OtherBackend {
        /// This node.
        node: String,
        /// Its backend.
        ours: String,
        /// The peer.
        peer: String,
        /// Its backend.
        theirs: String,
    },
    /// Not on this node's subnet.
    #[error(
        "network backend host-gw needs all nodes on one subnet: node {peer} has address {address}, which is not in \
         {subnet} of node {node}; use the backend vxlan"
    )]
    NotOnSubnet {
        /// This node.
        node: String,
        /// Its subnet.
        subnet: IpNetwork,
        /// The peer.
        peer: String,
        /// Its address.
        address: IpAddr,
    },
    /// Their ranges of pod addresses collide.
    #[error("node {peer} has the pod range {theirs}, which overlaps {ours} of node {node}")]
    Overlap {
        /// This node.
        node: String,
        /// Its range.
        ours: IpNetwork,
        /// The peer.
        peer: String,
        /// Its range.
        theirs: IpNetwork,
    },
    /// The tunnels have different numbers.
    #[error(
        "the tunnel of node {peer} has network identifier {vni} and port {port}, that of node {node} has {ours_vni} \
         and {ours_port}"
    )]
    OtherTunnel {
        /// This node.
        node: String,
        /// Its network identifier.
        ours_vni: u32,
        /// Its port.
        ours_port: u16,
        /// The peer.
        peer: String,
        /// Its network identifier.
        vni: u32,
        /// Its port.
        port: u16,
    },
    /// One speaks IPv4, the other IPv6.
    #[error("node {peer} has address {theirs} and node {node} has {ours}: one is IPv4 and the other IPv6")]
    OtherFamily {
        /// This node.
        node: String,
        /// Its address.
        ours: IpAddr,
        /// The peer.
        peer: String,
        /// Its address.
        theirs: IpAddr,
    },
}

/// What makes the overlay stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no backend of this name.
    #[error("network backend {name:?} is not one of {known}")]
    UnknownBackend {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The kernel or the ledger.
    #[error("overlay: {0}")]
    Kernel(#[from] knarr_netlink::Error),
    /// No link carries the node's address.
    #[error("overlay: no link of this host has the node's address {0}")]
    NoUnderlay(IpAddr),
    /// The link's packets are too small.
    #[error("overlay: link {link} has an MTU of {mtu}, too small for a tunnel")]
    SmallMtu {
        /// The link.
        link: String,
        /// Its MTU.
        mtu: u32,
    },
}

/// A way to join the pods of several nodes.
pub trait Backend: Send + Sync {
    /// Name, as in the flag.
    fn name(&self) -> &'static str;
    /// Bytes of every packet that the backend needs for itself, between nodes whose addresses are like this one.
    fn overhead(&self, address: IpAddr) -> u32;
    /// Where this node's tunnel ends.
    fn vtep(&self, pod_cidrs: &[IpNetwork]) -> Option<Vtep>;
    /// What should be there. `peers` are of the same backend.
    fn plan(&self, here: &Here, peers: &[Node]) -> Plan;
}

/// All backends, sorted by name.
pub static BACKENDS: &[&dyn Backend] =
    &[&backends::host_gw::HostGateway, &backends::none::None, &backends::vxlan::Vxlan];

/// The backend of a name.
///
/// # Errors
/// No such backend; the error lists those there are.
pub fn backend(name: &str) -> Result<&'static dyn Backend, Error> {
    BACKENDS.iter().copied().find(|b| b.name() == name).ok_or_else(|| Error::UnknownBackend {
        name: name.to_owned(),
        known: BACKENDS.iter().map(|b| b.name()).collect::<Vec<_>>().join(", "),
    })
}

/// The plan for this node among all others: what every backend refuses is refused here.
pub fn plan(backend: &dyn Backend, here: &Here, others: &[Node]) -> Plan {
    let node = || here.node.name.clone();
    let mut problems = Vec::new();
    let mut peers = Vec::new();
    for peer in others {
        let overlap = here.node.pod_cidrs.iter().find_map(|ours| {
            let theirs =
                peer.pod_cidrs.iter().find(|t| t.contains(ours.network()) || ours.contains(t.network()));
            theirs.map(|theirs| (*ours, *theirs))
        });
        if let Some((ours, theirs)) = overlap {
            problems.push(Problem::Overlap { node: node(), ours, peer: peer.name.clone(), theirs });
        } else if peer.backend != backend.name() && backend.name() != "none" {
            problems.push(Problem::OtherBackend {
                node: node(),
                ours: backend.name().to_owned(),
                peer: peer.name.clone(),
                theirs: peer.backend.clone(),
            });
        } else if peer.address.is_ipv4() != here.node.address.is_ipv4() {
            problems.push(Problem::OtherFamily {
                node: node(),
                ours: here.node.address,
                peer: peer.name.clone(),
                theirs: peer.address,
            });
        } else {
            peers.push(peer.clone());
        }
    }
    let mut plan = backend.plan(here, &peers);
    plan.problems.extend(problems);
    plan.problems.sort();
    plan
}

#[cfg(test)]
mod tests;
