//! Reading what is there of ours, and performing steps. Everything is in the ledger before it is made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::{Error, ErrorKind, Item, Kernel, Ledger, Netns, Result, Route};

use crate::backends::vxlan::DEVICE_PREFIX;
use crate::diff::{Present, PresentDevice, Step};
use crate::{Plan, Underlay};

const HOST: &Netns = &Netns::Host;
/// Sysctls of a tunnel's device; they go with it. Packets of a node may come through the tunnel and the answers
/// go beside it, which strict reverse path filtering would drop; nobody advertises routers in the tunnel.
const SYSCTLS: &[(&str, &str, &str)] =
    &[("net/ipv4/conf", "rp_filter", "2"), ("net/ipv6/conf", "accept_ra", "0")];

/// What the ledger says is ours.
struct Owned {
    links: BTreeSet<String>,
    /// Routes through a gateway: destination, device, gateway.
    routes: Vec<(IpNetwork, String, IpAddr)>,
}

fn owned(ledger: &Ledger) -> Result<Owned> {
    let mut out = Owned { links: BTreeSet::new(), routes: Vec::new() };
    for entry in ledger.entries()? {
        match entry.item {
            Item::Link { name } if name.starts_with(DEVICE_PREFIX) => drop(out.links.insert(name)),
            Item::Route { destination, device: Some(device), gateway: Some(gateway) } => {
                if let (Ok(to), Ok(via)) = (destination.parse(), gateway.parse()) {
                    out.routes.push((to, device, via));
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

fn record_of(route: &Route) -> Option<Item> {
    Some(Item::Route {
        destination: route.destination.to_string(),
        device: Some(route.device.clone()?),
        gateway: Some(route.gateway?.to_string()),
    })
}

/// The link that has the node's address.
///
/// # Errors
/// No link has it, or the kernel fails.
pub async fn underlay(kernel: &dyn Kernel, address: IpAddr) -> std::result::Result<Underlay, crate::Error> {
    use knarr_netlink::Offload;
    let found = kernel.link_with(HOST, address).await?;
    let (link, network) = found.ok_or(crate::Error::NoUnderlay(address))?;
    let driver = match kernel.driver(HOST, &link.name).await {
        Ok(d) => d.name,
        // A link without a driver has no driver's bug.
        Err(e) if e.kind == ErrorKind::Unsupported => String::new(),
        Err(e) => return Err(e.into()),
    };
    let bug = crate::checksum_bug(&kernel.release(), &driver);
    let tunnel_checksums = if bug.is_some() { Offload::Off } else { Offload::On };
    Ok(Underlay { link: link.name, index: link.index, mtu: link.mtu, network, tunnel_checksums })
}

/// Reads what is there of ours, as far as the plan is concerned. What the ledger has and the kernel has not any
/// more is struck off the ledger.
async fn read(kernel: &dyn Kernel, ledger: &Ledger, plan: &Plan) -> Result<Present> {
    let owned = owned(ledger)?;
    let mut out = Present::default();
    let planned = plan.device.as_ref().map(|d| d.spec.name.as_str());
    for name in owned.links.iter().filter(|n| Some(n.as_str()) != planned) {
        match kernel.link(HOST, name).await? {
            Some(_) => out.leftovers.push(name.clone()),
            None => ledger.forget(&Item::Link { name: name.clone() })?,
        }
    }
    if let Some(name) = planned {
        out.device = device(kernel, name).await?;
        if out.device.is_some() {
            // Ours by its name, even if a ledger was lost.
            ledger.record(&Item::Link { name: name.to_owned() })?;
            out.neighbors = kernel.neighbors(HOST, name).await?;
            out.forwarding = kernel.forwarding(HOST, name).await?;
        }
    }
    let routes = kernel.routes(HOST).await?;
    let is = |r: &Route, o: &(IpNetwork, String, IpAddr)| {
        r.destination == o.0 && r.device.as_deref() == Some(&o.1) && r.gateway == Some(o.2)
    };
    for gone in owned.routes.iter().filter(|o| !routes.iter().any(|r| is(r, o))) {
        ledger.forget(&Item::Route {
            destination: gone.0.to_string(),
            device: Some(gone.1.clone()),
            gateway: Some(gone.2.to_string()),
        })?;
    }
    let ours = |r: &Route| {
        (planned.is_some() && r.device.as_deref() == planned && r.gateway.is_some())
            || owned.routes.iter().any(|o| is(r, o))
    };
    out.routes = routes.into_iter().filter(ours).collect();
    Ok(out)
}

async fn device(kernel: &dyn Kernel, name: &str) -> Result<Option<PresentDevice>> {
    let Some(link) = kernel.link(HOST, name).await? else { return Ok(None) };
    let Some(spec) = kernel.vxlan(HOST, name).await? else {
        let detail = format!("there is a link of that name, but of kind {:?}", link.kind);
        return Err(Error::new("use tunnel", name, ErrorKind::Exists, detail));
    };
    let made_by_kernel = |a: &IpNetwork| matches!(a.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let mut addresses = kernel.addresses(HOST, name).await?;
    addresses.retain(|a| !made_by_kernel(a));
    let tx_checksum = kernel.driver(HOST, name).await?.tx_checksum;
    Ok(Some(PresentDevice { spec, up: link.up, addresses, tx_checksum }))
}

/// Makes the kernel what the plan wants; returns how many steps that took. One step's failure does not keep the
/// others from being tried (a single odd peer must not cut off the rest); the first is returned.
///
/// # Errors
/// The state cannot be read, or a step failed.
pub async fn converge(kernel: &dyn Kernel, ledger: &Ledger, plan: &Plan) -> Result<usize> {
    let present = read(kernel, ledger, plan).await?;
    let todo = crate::steps(plan, &present);
    let mut first = None;
    for step in &todo {
        tracing::debug!(?step, "overlay changes");
        if let Err(error) = perform(kernel, ledger, step).await {
            tracing::debug!(%error, "step failed");
            first.get_or_insert(error);
        }
    }
    first.map_or(Ok(todo.len()), Err)
}

/// Performs one step.
async fn perform(kernel: &dyn Kernel, ledger: &Ledger, step: &Step) -> Result<()> {
    match step {
        Step::DeleteDevice(name) => {
            kernel.delete_link(HOST, name).await?;
            ledger.forget(&Item::Link { name: name.clone() })
        }
        Step::AddDevice(spec) => {
            ledger.record(&Item::Link { name: spec.name.clone() })?;
            kernel.add_vxlan(HOST, spec).await?;
            for (dir, key, value) in SYSCTLS {
                let key = format!("{dir}/{}/{key}", spec.name);
                if kernel.sysctl(HOST, &key).await?.is_some_and(|v| v != *value) {
                    kernel.set_sysctl(HOST, &key, value).await?;
                }
            }
            Ok(())
        }
        Step::Change(name, change) => kernel.change_link(HOST, name, change).await,
        Step::AddAddress(name, address) => {
            kernel.add_address(HOST, name, *address, knarr_netlink::AddressOptions::WithSubnetRoute).await
        }
        Step::DeleteAddress(name, address) => kernel.delete_address(HOST, name, *address).await.map(drop),
        Step::PutForwarding(entry) => kernel.replace_forwarding(HOST, entry).await,
        Step::PutNeighbor(entry) => kernel.replace_neighbor(HOST, entry).await,
        Step::PutRoute(route) => {
            // A route over a tunnel of ours goes with it; any other needs a record of its own.
            let with_tunnel = route.device.as_ref().is_some_and(|d| d.starts_with(DEVICE_PREFIX));
            if let Some(item) = record_of(route).filter(|_| !with_tunnel) {
                ledger.record(&item)?;
            }
            kernel.replace_route(HOST, route).await
        }
        Step::DeleteRoute(route) => {
            kernel.delete_route(HOST, route).await?;
            record_of(route).map_or(Ok(()), |item| ledger.forget(&item))
        }
        Step::DeleteNeighbor(entry) => kernel.delete_neighbor(HOST, entry).await.map(drop),
        Step::DeleteForwarding(entry) => kernel.delete_forwarding(HOST, entry).await.map(drop),
    }
}
