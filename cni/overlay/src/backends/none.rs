//! No overlay: one node only.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{Backend, Here, Node, Plan, Problem, Vtep};

/// The backend "none".
#[derive(Debug, Clone, Copy)]
pub struct None;

impl Backend for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn overhead(&self, _: IpAddr) -> u32 {
        0
    }

    fn vtep(&self, _: &[IpNetwork]) -> Option<Vtep> {
        Option::None
    }

    fn plan(&self, here: &Here, peers: &[Node]) -> Plan {
        let problem =
            |peer: &Node| Problem::SingleNode { node: here.node.name.clone(), peer: peer.name.clone() };
        Plan { problems: peers.iter().map(problem).collect(), ..Plan::default() }
    }
}
