//! How pods of different nodes reach each other. Entry points: [`BACKENDS`], [`backend`].
//!
//! A backend is a pure plan: given this node and its peers, the links and routes that there should be. Performing
//! the plan is the business of whoever holds the kernel. Knows nothing of services.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backends;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::Route;

/// A node as the overlay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Node name.
    pub name: String,
    /// Address that other nodes reach it at.
    pub address: IpAddr,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNetwork>,
}

/// What should be there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Routes to the pods of other nodes.
    pub routes: Vec<Route>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The backend joins no nodes.
    #[error(
        "network backend {backend:?} is for a cluster of one node: node {node} cannot reach the pods of node {peer}"
    )]
    SingleNode {
        /// Backend name.
        backend: &'static str,
        /// This node.
        node: String,
        /// The first peer.
        peer: String,
    },
    /// There is no backend of this name.
    #[error("network backend {name:?} is not one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

/// A way to join the pods of several nodes.
pub trait Backend: Send + Sync {
    /// Name, as in the flag.
    fn name(&self) -> &'static str;
    /// What should be there on `node`.
    fn plan(&self, node: &Node, peers: &[Node]) -> Result<Plan, Error>;
}

/// All backends, sorted by name.
pub static BACKENDS: &[&dyn Backend] = &[&backends::none::None];

/// The backend of a name.
pub fn backend(name: &str) -> Result<&'static dyn Backend, Error> {
    BACKENDS.iter().copied().find(|b| b.name() == name).ok_or_else(|| Error::Unknown {
        name: name.to_owned(),
        known: BACKENDS.iter().map(|b| b.name()).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_needs_nothing_and_two_are_refused() {
        let node = |name: &str| Node { name: name.into(), address: [10, 0, 0, 1].into(), pod_cidrs: vec![] };
        let none = backend("none").unwrap();
        assert_eq!(none.plan(&node("a"), &[]), Ok(Plan::default()));
        let e = none.plan(&node("a"), &[node("b")]).unwrap_err();
        assert!(e.to_string().contains("node a cannot reach the pods of node b"), "{e}");
        assert!(backend("vxlan").is_err_and(|e| e.to_string().contains("\"vxlan\" is not one of none")));
        assert!(BACKENDS.is_sorted_by_key(|b| b.name()));
    }
}
