//! Gives every node its part of the cluster's pod addresses.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller =
    Controller { name: "node-ipam-controller", account: "node-controller", start: |ctx| Box::pin(run(ctx)) };

/// One cluster range, cut into equal parts.
#[derive(Debug, Clone, PartialEq)]
struct Range {
    base: u128,
    v6: bool,
    /// Prefix length of a part.
    part: u8,
    /// Number of parts.
    count: u128,
}

impl Range {
    fn parse(cidr: &str, mask_v4: u8, mask_v6: u8) -> Result<Self, Error> {
        let bad = |why: String| Error::Config(format!("cluster-cidr {cidr:?}: {why}"));
        let network: IpNetwork = cidr.parse().map_err(|e| bad(format!("{e}")))?;
        let (base, v6, part, bits) = match network {
            IpNetwork::V4(n) => (u128::from(u32::from(n.network())), false, mask_v4, 32),
            IpNetwork::V6(n) => (u128::from(n.network()), true, mask_v6, 128),
        };
        if part < network.prefix() || part > bits {
            return Err(bad(format!("cannot be cut into parts of /{part}")));
        }
        // More than 2^16 parts are never needed and would only cost time.
        let count = 1_u128 << (part - network.prefix()).min(16);
        Ok(Self { base, v6, part, count })
    }

    fn bits(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }

    fn at(&self, index: u128) -> String {
        let address = self.base + (index << (self.bits() - self.part));
        let address = if self.v6 {
            IpAddr::V6(Ipv6Addr::from(address))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(address).unwrap_or(0)))
        };
        format!("{address}/{}", self.part)
    }

    /// The first part that nobody has.
    fn free(&self, taken: &HashSet<String>) -> Option<String> {
        (0..self.count).map(|i| self.at(i)).find(|cidr| !taken.contains(cidr))
    }
}

/// One part from each range, or `None` when one of them is used up.
fn decide(ranges: &[Range], taken: &HashSet<String>) -> Option<Vec<String>> {
    ranges.iter().map(|r| r.free(taken)).collect()
}

struct Allocator {
    ctx: Arc<Ctx>,
    nodes: Arc<Store<Node>>,
    ranges: Vec<Range>,
    /// Parts given to nodes, including those that no event has shown yet.
    given: Arc<Mutex<HashMap<String, Vec<String>>>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let config = &ctx.config;
    let ranges: Vec<Range> = config
        .cluster_cidrs
        .iter()
        .map(|c| Range::parse(c, config.node_cidr_mask_v4, config.node_cidr_mask_v6))
        .collect::<Result<_, _>>()?;
    if ranges.is_empty() {
        ctx.shutdown.cancelled().await;
        return Ok(());
    }
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let nodes = ctx.store::<Node>();
    let given = Arc::new(Mutex::new(HashMap::new()));
    {
        let (queue, given) = (queue.clone(), given.clone());
        nodes.on_event(move |event| match event {
            Event::Applied { new, .. } => {
                let cidrs = cidrs_of(new);
                if cidrs.is_empty() {
                    queue.add(new.name_any());
                } else {
                    given.lock().insert(new.name_any(), cidrs);
                }
            }
            Event::Deleted(old) => {
                given.lock().remove(&old.name_any());
            }
        });
    }
    nodes.synced().await;
    let allocator = Arc::new(Allocator { ctx: ctx.clone(), nodes, ranges, given });
    work(ctx, queue, 1, move |name| {
        let allocator = allocator.clone();
        async move { allocator.reconcile(&name).await }
    })
    .await;
    Ok(())
}

fn cidrs_of(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let many = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    if many.is_empty() { spec.and_then(|s| s.pod_cidr.clone()).into_iter().collect() } else { many }
}

impl Allocator {
    async fn reconcile(&self, name: &str) -> Result<Action, Error> {
        let Some(node) = self.nodes.get("", name).filter(|n| cidrs_of(n).is_empty()) else {
            return Ok(Action::Done);
        };
        let choice = {
            let mut given = self.given.lock();
            let known = given.get(name).cloned();
            let choice = known.or_else(|| {
                let taken = given.values().flatten().cloned().collect();
                decide(&self.ranges, &taken)
            });
            if let Some(cidrs) = &choice {
                given.insert(name.to_owned(), cidrs.clone());
            }
            choice
        };
        let Some(cidrs) = choice else {
            let about = reference("v1", "Node", &node.metadata);
            let note = format!("Node {name} status is now: CIDRNotAvailable");
            self.ctx.event(&about, EventType::Normal, "CIDRNotAvailable", &note);
            return Ok(Action::Backoff);
        };
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        });
        let result =
            self.ctx.api_all::<Node>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match result.during("patch", "Node", "", name) {
            Err(error) if error.is_not_found() => {
                self.given.lock().remove(name);
                Ok(Action::Done)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let four = Range::parse("10.42.0.0/16", 24, 64).unwrap();
        let six = Range::parse("fd00:1::/48", 24, 64).unwrap();
        let mut taken = HashSet::new();
        assert_eq!(decide(&[four.clone(), six], &taken).unwrap(), ["10.42.0.0/24", "fd00:1::/64"]);
        taken.insert("10.42.0.0/24".to_owned());
        taken.insert("10.42.2.0/24".to_owned());
        assert_eq!(decide(&[four], &taken).unwrap(), ["10.42.1.0/24"]);
        let small = Range::parse("10.0.0.0/24", 24, 64).unwrap();
        assert!(decide(&[small], &HashSet::from(["10.0.0.0/24".to_owned()])).is_none());
        assert!(Range::parse("10.0.0.0/25", 24, 64).is_err());
        assert!(Range::parse("nonsense", 24, 64).is_err());
    }
}
