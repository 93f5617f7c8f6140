//! A VXLAN tunnel: frames between nodes travel in UDP packets, whatever network is between the nodes.
//!
//! The device is called `knarr.1`, has network identifier 1, speaks on UDP port 8472 (as flannel does) and learns
//! nothing from traffic. Its address is the first of the node's pod range, as a host address: it is the source
//! of what the node itself sends to pods elsewhere, and the gateway by which other nodes reach this node's pods.
//! Per peer there is one permanent neighbour (gateway to hardware address), one forwarding entry (hardware
//! address to node address) and one route per pod range, through the gateway "on link".

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::{ForwardingEntry, Learning, Neighbor, Route, RouteScope, VxlanSpec};

use crate::{Backend, Device, Here, Node, Plan, Problem, Vtep};

/// Network identifier.
pub const VNI: u32 = 1;
/// UDP port; the kernel's own default, and flannel's.
pub const PORT: u16 = 8472;
/// Name of the device: the prefix of all of ours, and the identifier.
pub const DEVICE: &str = "knarr.1";
/// What the names of our tunnels begin with.
pub const DEVICE_PREFIX: &str = "knarr.";
/// Outer Ethernet, IPv4, UDP and VXLAN headers: 14 + 20 + 8 + 8.
const OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header of 40 bytes.
const OVERHEAD_V6: u32 = 70;

/// The backend "vxlan".
#[derive(Debug, Clone, Copy)]
pub struct Vxlan;

/// A hardware address that follows from the pod range, which no two nodes share: a node that is set up anew keeps
/// it, so what its peers remember stays right.
fn mac(pod_cidr: IpNetwork) -> [u8; 6] {
    let [a, b, c, d] = match pod_cidr.network() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            ip.octets().into_iter().fold(0x811c_9dc5, fold).to_be_bytes()
        }
    };
    // Locally administered, unicast; bridges of ours begin with 0a:58.
    [0x0a, 0x59, a, b, c, d]
}

impl Backend for Vxlan {
    fn name(&self) -> &'static str {
        "vxlan"
    }

    fn overhead(&self, address: IpAddr) -> u32 {
        if address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 }
    }

    fn vtep(&self, pod_cidrs: &[IpNetwork]) -> Option<Vtep> {
        pod_cidrs.first().map(|cidr| Vtep { vni: VNI, port: PORT, mac: mac(*cidr) })
    }

    fn plan(&self, here: &Here, peers: &[Node]) -> Plan {
        let Some(ours) = here.node.vtep else { return Plan::default() };
        let spec = VxlanSpec {
            name: DEVICE.to_owned(),
            vni: ours.vni,
            port: ours.port,
            local: Some(here.node.address),
            underlay: Some(here.underlay.index),
            mac: ours.mac,
            mtu: here.underlay.mtu.saturating_sub(self.overhead(here.node.address)),
            learning: Learning::Never,
        };
        let addresses = here.node.pod_cidrs.iter().map(|c| IpNetwork::from(c.network())).collect();
        let device = Device { spec, addresses, tx_checksum: here.underlay.tunnel_checksums };
        let mut plan = Plan { device: Some(device), ..Plan::default() };
        for peer in peers {
            // Without a tunnel end it has not come up yet: its Node will change when it has.
            let Some(theirs) = peer.vtep else { continue };
            if (theirs.vni, theirs.port) != (ours.vni, ours.port) {
                plan.problems.push(Problem::OtherTunnel {
                    node: here.node.name.clone(),
                    ours_vni: ours.vni,
                    ours_port: ours.port,
                    peer: peer.name.clone(),
                    vni: theirs.vni,
                    port: theirs.port,
                });
                continue;
            }
            let link = || DEVICE.to_owned();
            plan.forwarding.push(ForwardingEntry { link: link(), mac: theirs.mac, to: peer.address });
            for cidr in &peer.pod_cidrs {
                let gateway = cidr.network();
                plan.neighbors.push(Neighbor { link: link(), address: gateway, mac: theirs.mac });
                plan.routes.push(Route {
                    destination: *cidr,
                    gateway: Some(gateway),
                    device: Some(link()),
                    source: None,
                    scope: RouteScope::OnLink,
                });
            }
        }
        plan
    }
}
