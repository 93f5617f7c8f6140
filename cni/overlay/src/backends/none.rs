//! No overlay: one node only.

use crate::{Backend, Error, Node, Plan};

/// The backend "none".
#[derive(Debug, Clone, Copy)]
pub struct None;

impl Backend for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn plan(&self, node: &Node, peers: &[Node]) -> Result<Plan, Error> {
        match peers.first() {
            Option::None => Ok(Plan::default()),
            Some(peer) => Err(Error::SingleNode {
                backend: self.name(),
                node: node.name.clone(),
                peer: peer.name.clone(),
            }),
        }
    }
}
