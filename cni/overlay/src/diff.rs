//! From what is there to what should be. Entry point: [`steps`]. Pure.

use ipnetwork::IpNetwork;
use knarr_netlink::{ForwardingEntry, LinkChange, Neighbor, Offload, Route, VxlanSpec};

use crate::Plan;

/// The tunnel's device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentDevice {
    /// Its settings.
    pub spec: VxlanSpec,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, without those that the kernel makes by itself.
    pub addresses: Vec<IpNetwork>,
    /// Who computes checksums.
    pub tx_checksum: Offload,
}

/// What is there of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Present {
    /// The device under the planned name.
    pub device: Option<PresentDevice>,
    /// Tunnels of ours under other names, or of a backend that is not used any more.
    pub leftovers: Vec<String>,
    /// Routes of ours: those over the tunnel, and those on record.
    pub routes: Vec<Route>,
    /// Permanent neighbours on the tunnel.
    pub neighbors: Vec<Neighbor>,
    /// Forwarding entries of the tunnel.
    pub forwarding: Vec<ForwardingEntry>,
}

/// One change of the kernel's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Delete a tunnel with all that is on it.
    DeleteDevice(String),
    /// Create the tunnel.
    AddDevice(VxlanSpec),
    /// Change the named link.
    Change(String, LinkChange),
    /// Take an address off the named link.
    DeleteAddress(String, IpNetwork),
    /// Put an address on the named link.
    AddAddress(String, IpNetwork),
    /// Add or replace a forwarding entry.
    PutForwarding(ForwardingEntry),
    /// Add or replace a neighbour.
    PutNeighbor(Neighbor),
    /// Add or replace a route.
    PutRoute(Route),
    /// Withdraw a route.
    DeleteRoute(Route),
    /// Withdraw a neighbour.
    DeleteNeighbor(Neighbor),
    /// Withdraw a forwarding entry.
    DeleteForwarding(ForwardingEntry),
}

/// What to do, in order: what a packet needs first comes before what sends it there, and goes after it.
/// What is right is not touched.
pub fn steps(plan: &Plan, present: &Present) -> Vec<Step> {
    let mut out: Vec<Step> = present.leftovers.iter().cloned().map(Step::DeleteDevice).collect();
    let kept = device(plan, present, &mut out);
    // What was on a device that is made anew went with it.
    let lost =
        |device: Option<&str>| !kept && plan.device.as_ref().is_some_and(|d| device == Some(&d.spec.name));
    let there: Vec<&ForwardingEntry> = present.forwarding.iter().filter(|e| !lost(Some(&e.link))).collect();
    let neighbors: Vec<&Neighbor> = present.neighbors.iter().filter(|n| !lost(Some(&n.link))).collect();
    let routes: Vec<&Route> = present.routes.iter().filter(|r| !lost(r.device.as_deref())).collect();

    out.extend(plan.forwarding.iter().filter(|e| !there.contains(e)).cloned().map(Step::PutForwarding));
    out.extend(plan.neighbors.iter().filter(|n| !neighbors.contains(n)).cloned().map(Step::PutNeighbor));
    out.extend(plan.routes.iter().filter(|r| !routes.contains(r)).cloned().map(Step::PutRoute));
    let stays = |r: &&Route| plan.routes.iter().any(|p| p.destination == r.destination);
    out.extend(routes.into_iter().filter(|r| !stays(r)).cloned().map(Step::DeleteRoute));
    let stays = |n: &&Neighbor| plan.neighbors.iter().any(|p| p.address == n.address);
    out.extend(neighbors.into_iter().filter(|n| !stays(n)).cloned().map(Step::DeleteNeighbor));
    let stays = |e: &&ForwardingEntry| plan.forwarding.iter().any(|p| p.mac == e.mac);
    out.extend(there.into_iter().filter(|e| !stays(e)).cloned().map(Step::DeleteForwarding));
    out
}

/// Steps for the device; true if the one that is there stays.
fn device(plan: &Plan, present: &Present, out: &mut Vec<Step>) -> bool {
    let Some(want) = &plan.device else { return true };
    let name = || want.spec.name.clone();
    // What cannot be changed on a device that is there.
    let identity = |s: &VxlanSpec| (s.vni, s.port, s.local, s.underlay, s.learning);
    let now = present.device.as_ref();
    let kept = now.filter(|d| identity(&d.spec) == identity(&want.spec));
    match kept {
        None => {
            out.extend(now.map(|_| Step::DeleteDevice(name())));
            out.push(Step::AddDevice(want.spec.clone()));
        }
        Some(d) => {
            let change = |c| Step::Change(name(), c);
            out.extend((d.spec.mac != want.spec.mac).then(|| change(LinkChange::Mac(want.spec.mac))));
            out.extend((d.spec.mtu != want.spec.mtu).then(|| change(LinkChange::Mtu(want.spec.mtu))));
        }
    }
    if kept.map(|d| d.tx_checksum) != Some(want.tx_checksum) {
        // A device that is new offloads what it can.
        if kept.is_some() || want.tx_checksum == Offload::Off {
            out.push(Step::Change(name(), LinkChange::TxChecksum(want.tx_checksum)));
        }
    }
    let has: &[IpNetwork] = kept.map(|d| d.addresses.as_slice()).unwrap_or_default();
    let missing = want.addresses.iter().filter(|a| !has.contains(a));
    out.extend(missing.map(|a| Step::AddAddress(name(), *a)));
    let strange = has.iter().filter(|a| !want.addresses.contains(a));
    out.extend(strange.map(|a| Step::DeleteAddress(name(), *a)));
    if !kept.is_some_and(|d| d.up) {
        out.push(Step::Change(name(), LinkChange::Up));
    }
    kept.is_some()
}
