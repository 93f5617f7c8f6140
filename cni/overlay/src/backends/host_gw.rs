//! Plain routes: every node is the gateway to its own pods. Fastest, but all nodes must be on one subnet.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::{Route, RouteScope};

use crate::{Backend, Here, Node, Plan, Problem, Vtep};

/// The backend "host-gw".
#[derive(Debug, Clone, Copy)]
pub struct HostGateway;

impl Backend for HostGateway {
    fn name(&self) -> &'static str {
        "host-gw"
    }

    fn overhead(&self, _: IpAddr) -> u32 {
        0
    }

    fn vtep(&self, _: &[IpNetwork]) -> Option<Vtep> {
        None
    }

    fn plan(&self, here: &Here, peers: &[Node]) -> Plan {
        let mut plan = Plan::default();
        for peer in peers {
            if !here.underlay.network.contains(peer.address) {
                plan.problems.push(Problem::NotOnSubnet {
                    node: here.node.name.clone(),
                    subnet: subnet(here.underlay.network),
                    peer: peer.name.clone(),
                    address: peer.address,
                });
                continue;
            }
            // A route's gateway is of its destination's family.
            let reachable = peer.pod_cidrs.iter().filter(|c| c.is_ipv4() == peer.address.is_ipv4());
            plan.routes.extend(reachable.map(|cidr| Route {
                destination: *cidr,
                gateway: Some(peer.address),
                device: Some(here.underlay.link.clone()),
                source: None,
                scope: RouteScope::Universe,
            }));
        }
        plan
    }
}

/// The subnet of an address with its prefix length.
fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}
