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

    /// The parts that a network touches, of whatever size it is: nodes may have been given theirs under another
    /// mask size.
    fn touched(&self, network: IpNetwork) -> std::ops::Range<u128> {
        let (first, length) = match network {
            IpNetwork::V4(n) if !self.v6 => (u128::from(u32::from(n.network())), n.prefix()),
            IpNetwork::V6(n) if self.v6 => (u128::from(n.network()), n.prefix()),
            _ => return 0..0,
        };
        let last =
            first + ((1_u128.checked_shl(u32::from(self.bits() - length))).unwrap_or(0)).wrapping_sub(1);
        let end = self.base + (self.count << (self.bits() - self.part));
        if last < self.base || first >= end {
            return 0..0;
        }
        let index = |address: u128| (address.max(self.base) - self.base) >> (self.bits() - self.part);
        index(first)..index(last.min(end - 1)) + 1
    }

    /// The first part from `from` on that nobody has, and its place.
    fn free(&self, taken: &[IpNetwork], from: u128) -> Option<(u128, String)> {
        let used: HashSet<u128> = taken.iter().flat_map(|n| self.touched(*n)).collect();
        let mut places = (0..self.count).map(|i| (from + i) % self.count);
        places.find(|i| !used.contains(i)).map(|i| (i, self.at(i)))
    }
}

/// One part from each range, or `None` when one of them is used up. `next` is where to begin to look, and moves on:
/// what a node that was just deleted had is given away last, as the node may still be running.
fn decide(ranges: &[Range], next: &mut [u128], taken: &[IpNetwork]) -> Option<Vec<String>> {
    let found: Vec<(u128, String)> =
        ranges.iter().zip(next.iter()).map(|(r, from)| r.free(taken, *from)).collect::<Option<_>>()?;
    for ((place, _), next) in found.iter().zip(next) {
        *next = place + 1;
    }
    Some(found.into_iter().map(|(_, cidr)| cidr).collect())
}

/// What has been given away.
#[derive(Debug, Default)]
struct Given {
    /// Parts of nodes, including those that no event has shown yet.
    parts: HashMap<String, Vec<String>>,
    /// Where to look next, for each range.
    next: Vec<u128>,
    /// Nodes that found nothing left.
    waiting: HashSet<String>,
    /// What nodes had that were deleted: one that comes again, perhaps with its pods still running, gets the same
    /// as long as nobody else has it.
    former: HashMap<String, Vec<String>>,
}

/// Parts of the ranges that none of the taken touch.
fn still_free(ranges: &[Range], parts: &[String], taken: &[IpNetwork]) -> bool {
    let fits = |(range, part): (&Range, &String)| {
        let Ok(network) = part.parse::<IpNetwork>() else { return false };
        let places = range.touched(network);
        network.prefix() == range.part
            && !places.is_empty()
            && !taken.iter().any(|t| range.touched(*t).any(|i| places.contains(&i)))
    };
    ranges.len() == parts.len() && ranges.iter().zip(parts).all(fits)
}

struct Allocator {
    ctx: Arc<Ctx>,
    nodes: Arc<Store<Node>>,
    ranges: Vec<Range>,
    given: Arc<Mutex<Given>>,
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
    let given = Arc::new(Mutex::new(Given { next: vec![0; ranges.len()], ..Given::default() }));
    {
        let (queue, given) = (queue.clone(), given.clone());
        nodes.on_event(move |event| match event {
            Event::Applied { new, .. } => {
                let cidrs = cidrs_of(new);
                if cidrs.is_empty() {
                    queue.add(new.name_any());
                } else {
                    given.lock().parts.insert(new.name_any(), cidrs);
                }
            }
            Event::Deleted(old) => {
                let mut given = given.lock();
                let had = given.parts.remove(&old.name_any());
                given.former.extend(had.map(|had| (old.name_any(), had)));
                given.waiting.remove(&old.name_any());
                // What became free is for those that found nothing.
                given.waiting.drain().for_each(|name| queue.add(name));
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
            let known = given.parts.get(name).cloned();
            let choice = known.or_else(|| {
                let taken: Vec<IpNetwork> =
                    given.parts.values().flatten().filter_map(|c| c.parse().ok()).collect();
                let again = given.former.remove(name).filter(|f| still_free(&self.ranges, f, &taken));
                again.or_else(|| decide(&self.ranges, &mut given.next, &taken))
            });
            match &choice {
                Some(cidrs) => {
                    given.former.retain(|_, former| former != cidrs);
                    given.parts.insert(name.to_owned(), cidrs.clone());
                }
                None => drop(given.waiting.insert(name.to_owned())),
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
                self.given.lock().parts.remove(name);
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

    fn networks(list: &[&str]) -> Vec<IpNetwork> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn parts() {
        let four = Range::parse("10.42.0.0/16", 24, 64).unwrap();
        let six = Range::parse("fd00:1::/48", 24, 64).unwrap();
        let both = [four.clone(), six];
        assert_eq!(decide(&both, &mut [0, 0], &[]).unwrap(), ["10.42.0.0/24", "fd00:1::/64"]);
        let taken = networks(&["10.42.0.0/24", "10.42.2.0/24", "fd00:1::/64", "fd00:9::/64", "10.9.0.0/24"]);
        assert_eq!(decide(&both, &mut [0, 0], &taken).unwrap(), ["10.42.1.0/24", "fd00:1:0:1::/64"]);
        let small = [Range::parse("10.0.0.0/24", 24, 64).unwrap()];
        assert!(decide(&small, &mut [0], &networks(&["10.0.0.0/24"])).is_none());
        assert!(Range::parse("10.0.0.0/25", 24, 64).is_err());
        assert!(Range::parse("nonsense", 24, 64).is_err());
    }

    #[test]
    fn parts_of_other_sizes_count_and_the_last_freed_comes_last() {
        let range = [Range::parse("10.42.0.0/22", 24, 64).unwrap()];
        let mut next = [0];
        let mut give = |taken: &[&str]| decide(&range, &mut next, &networks(taken)).map(|mut c| c.remove(0));
        assert_eq!(give(&["10.42.0.0/23", "10.42.2.7/32"]).unwrap(), "10.42.3.0/24");
        assert_eq!(give(&["10.42.3.0/24"]).unwrap(), "10.42.0.0/24", "round again");
        assert_eq!(give(&["10.42.3.0/24"]).unwrap(), "10.42.1.0/24", "10.42.0.0/24 was only just freed");
        let former = |part: &str, taken: &[&str]| still_free(&range, &[part.to_owned()], &networks(taken));
        assert!(former("10.42.1.0/24", &["10.42.0.0/24"]) && !former("10.42.1.0/24", &["10.42.0.0/23"]));
        assert!(!former("10.42.0.0/23", &[]) && !former("10.9.0.0/24", &[]), "another size, another range");
        assert_eq!(give(&["10.0.0.0/8"]), None, "all of it");
        assert_eq!(give(&["::/0", "10.43.0.0/16"]).unwrap(), "10.42.2.0/24");
    }
}
