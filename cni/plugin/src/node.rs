//! The node's part of the pod network: bridge, forwarding, masquerading, cluster-DNS address.

use std::fs::File;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use knarr_netlink::nft::Family;
use knarr_netlink::{
    AddressOptions, BridgeSpec, Error, ErrorKind, Item, Kernel, Ledger, LinkChange, Netns, Result, Route,
    RouteScope,
};

use tokio_util::sync::CancellationToken;

use crate::config::Conflist;
use crate::hostports;

/// Waiting time after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// Serializes what is done to the node: invocations of the executable run side by side.
pub(crate) fn lock(cfg: &Conflist) -> Result<File> {
    let fail = |operation, e: &std::io::Error| {
        Error::new(operation, cfg.state_dir.display().to_string(), ErrorKind::Other, e.to_string())
    };
    std::fs::create_dir_all(&cfg.state_dir).map_err(|e| fail("create state directory", &e))?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(cfg.state_dir.join("node.lock"))
        .map_err(|e| fail("open lock in", &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| fail("lock", &e.into()))?;
    Ok(file)
}

/// A hardware address that stays the same for the same IP address: neighbours that remember it stay right.
pub(crate) fn mac_of(address: IpAddr) -> [u8; 6] {
    let octets = match address {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x0a, 0x58, octets[0], octets[1], octets[2], octets[3]]
}

/// Makes bridge, gateway address, forwarding, the service route and the table for masquerading and host ports,
/// as far as they are missing. Everything is written into the ledger first.
pub async fn ensure(kernel: &dyn Kernel, cfg: &Conflist) -> Result<()> {
    let _lock = lock(cfg)?;
    ensure_locked(kernel, cfg).await
}

pub(crate) async fn ensure_locked(kernel: &dyn Kernel, cfg: &Conflist) -> Result<()> {
    let (ns, ledger) = (&Netns::Host, Ledger::open(&cfg.ledger)?);
    let gateway = knarr_ipam::gateway(cfg.pod_cidr);
    bridge(kernel, cfg, &ledger, gateway).await?;
    let forwarding =
        if cfg.pod_cidr.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
    sysctl(kernel, &ledger, forwarding, "1").await?;
    // Pods of one node speak through this host on purpose: telling them a shorter way would be wrong, and what
    // is sent to tell them counts against the limit for refusals. The kernel takes the "all" key or the link's.
    if cfg.pod_cidr.is_ipv4() {
        sysctl(kernel, &ledger, "net/ipv4/conf/all/send_redirects", "0").await?;
    }
    // The bridge's own settings go with it: no record. Some kernels lack a key, which is then of no concern.
    for (key, value) in [("send_redirects", "0"), ("rp_filter", "2")] {
        let key = format!("net/ipv4/conf/{}/{key}", cfg.bridge);
        if kernel.sysctl(ns, &key).await?.is_some_and(|v| v != value) {
            kernel.set_sysctl(ns, &key, value).await?;
        }
    }
    if let Some(services) = cfg.service_cidr.filter(|s| s.is_ipv4() == cfg.pod_cidr.is_ipv4()) {
        let present = kernel.routes(ns).await?.iter().any(|r| r.destination == services);
        if !present {
            let (destination, device) = (services.to_string(), Some(cfg.bridge.clone()));
            ledger.record(&Item::Route { destination, device: device.clone(), gateway: None })?;
            let route = Route {
                destination: services,
                gateway: None,
                device,
                source: Some(gateway),
                scope: RouteScope::Link,
            };
            kernel.replace_route(ns, &route).await?;
        }
    }
    hostports::ensure(kernel, cfg, &ledger).await?;
    // Host ports on 127.0.0.1. Only after the table that keeps pods away from loopback is there.
    let key = format!("net/ipv4/conf/{}/route_localnet", cfg.bridge);
    if cfg.pod_cidr.is_ipv4() && kernel.sysctl(ns, &key).await?.is_some_and(|v| v != "1") {
        kernel.set_sysctl(ns, &key, "1").await?;
    }
    Ok(())
}

async fn bridge(kernel: &dyn Kernel, cfg: &Conflist, ledger: &Ledger, gateway: IpAddr) -> Result<()> {
    let (ns, name) = (&Netns::Host, cfg.bridge.as_str());
    let item = Item::Link { name: name.to_owned() };
    let link = match kernel.link(ns, name).await? {
        Some(link) if link.kind != "bridge" => {
            let detail = format!("there is a link of that name, but of kind {:?}", link.kind);
            return Err(Error::new("use bridge", name, ErrorKind::Exists, detail));
        }
        Some(link) => Some(link),
        None => None,
    };
    if link.is_some() && !ledger.contains(&item)? {
        // Left by an installation whose ledger is lost: the name is ours, so it is on record from now on and goes
        // with this installation.
        tracing::warn!(bridge = name, "taking over a bridge that was there already");
    }
    ledger.record(&item)?;
    if link.is_none() {
        let spec = BridgeSpec { name: name.to_owned(), mac: mac_of(gateway), mtu: cfg.mtu };
        kernel.add_bridge(ns, &spec).await?;
    }
    let address = IpNetwork::new(gateway, cfg.pod_cidr.prefix()).map_err(|e| {
        Error::new("use pod range", cfg.pod_cidr.to_string(), ErrorKind::Other, e.to_string())
    })?;
    let addresses = kernel.addresses(ns, name).await?;
    if !addresses.contains(&address) {
        kernel.add_address(ns, name, address, AddressOptions::WithSubnetRoute).await?;
    }
    // Of a range that this node had before: another node has it now, and its pods must not be sought here.
    let by_kernel = |a: &IpNetwork| matches!(a.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let former = |a: &&IpNetwork| {
        a.is_ipv4() == address.is_ipv4()
            && a.prefix() == address.prefix()
            && a.ip() != gateway
            && !by_kernel(a)
    };
    for old in addresses.iter().filter(former) {
        kernel.delete_address(ns, name, *old).await?;
    }
    // The overlay may have changed, or the link below it: new pods and the bridge must agree.
    if let (Some(link), Some(mtu)) = (&link, cfg.mtu.filter(|m| link.as_ref().is_some_and(|l| l.mtu != *m))) {
        tracing::info!(bridge = name, old = link.mtu, new = mtu, "MTU of the pod network changes");
        kernel.change_link(ns, name, &LinkChange::Mtu(mtu)).await?;
    }
    if !link.is_some_and(|l| l.up) {
        kernel.change_link(ns, name, &LinkChange::Up).await?;
    }
    Ok(())
}

async fn sysctl(kernel: &dyn Kernel, ledger: &Ledger, key: &str, value: &str) -> Result<()> {
    let ns = &Netns::Host;
    let Some(old) = kernel.sysctl(ns, key).await? else {
        return Err(Error::new("set sysctl", key, ErrorKind::NotFound, "the kernel has no such key"));
    };
    if old != value {
        ledger.record(&Item::Sysctl { key: key.to_owned(), old })?;
        kernel.set_sysctl(ns, key, value).await?;
    }
    Ok(())
}

/// Keeps the node's part in place until shutdown: when somebody deletes the table of masquerading and host ports
/// (`nft flush ruleset`, a firewall that reloads), it is put back with every container's host ports.
pub async fn keep(kernel: &dyn Kernel, cfg: &Conflist, shutdown: CancellationToken) {
    let family = Family::of(cfg.pod_cidr.network());
    loop {
        let gone = kernel.nft_table_deleted(&Netns::Host, family, hostports::TABLE);
        let mended = match shutdown.run_until_cancelled(gone).await {
            None => return,
            Some(Ok(())) => {
                tracing::warn!(
                    table = hostports::TABLE,
                    "somebody deleted the pod network's rules; putting them back"
                );
                ensure(kernel, cfg).await
            }
            Some(Err(e)) => Err(e),
        };
        let Err(e) = mended else { continue };
        tracing::warn!(error = %e, "pod network's rules not kept");
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

/// Makes the cluster-DNS address local to this node, on the bridge: the DNS server can then listen on it, and
/// pods reach it through their gateway. It goes with the bridge, so it needs no record of its own.
pub async fn bind_cluster_dns(kernel: &dyn Kernel, cfg: &Conflist, address: IpAddr) -> Result<()> {
    ensure(kernel, cfg).await?;
    let host = IpNetwork::from(address);
    if !kernel.addresses(&Netns::Host, &cfg.bridge).await?.contains(&host) {
        kernel.add_address(&Netns::Host, &cfg.bridge, host, AddressOptions::AddressOnly).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_netlink::FakeKernel;

    fn bench() -> (tempfile::TempDir, FakeKernel, Conflist) {
        let dir = tempfile::tempdir().unwrap();
        let kernel =
            FakeKernel::new(&[("net/ipv4/ip_forward", "0"), ("net/ipv4/conf/all/send_redirects", "1")]);
        let cfg = Conflist {
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            bridge: "knarr0".into(),
            mtu: None,
            state_dir: dir.path().join("cni"),
            ledger: dir.path().join("ledger"),
        };
        (dir, kernel, cfg)
    }

    async fn undo(kernel: &FakeKernel, cfg: &Conflist) -> Vec<Item> {
        let report = Ledger::open(&cfg.ledger).unwrap().undo_all(kernel).await.unwrap();
        assert!(report.errors.is_empty(), "{report:?}");
        report.undone
    }

    #[tokio::test]
    async fn a_bridge_that_was_left_is_adopted_on_record_and_undone() {
        let (_dir, kernel, cfg) = bench();
        let ns = &Netns::Host;
        let spec = BridgeSpec { name: "knarr0".into(), mac: [2; 6], mtu: None };
        kernel.add_bridge(ns, &spec).await.unwrap();
        let index = kernel.link(ns, "knarr0").await.unwrap().unwrap().index;
        for _ in 0..2 {
            ensure(&kernel, &cfg).await.unwrap();
        }
        assert_eq!(kernel.link(ns, "knarr0").await.unwrap().unwrap().index, index, "used, not made anew");
        let undone = undo(&kernel, &cfg).await;
        let bridges = undone.iter().filter(|i| **i == Item::Link { name: "knarr0".into() }).count();
        assert_eq!(bridges, 1, "{undone:?}");
        assert!(kernel.links(ns).await.unwrap().is_empty());
        assert_eq!(kernel.sysctl(ns, "net/ipv4/ip_forward").await.unwrap().as_deref(), Some("0"));
    }

    #[tokio::test]
    async fn a_link_of_another_kind_is_refused_and_not_recorded() {
        let (_dir, kernel, cfg) = bench();
        let ns = &Netns::Host;
        let veth = knarr_netlink::VethSpec {
            name: "knarr0".into(),
            peer_ns: Netns::Host,
            peer_name: "other".into(),
            peer_mac: None,
            mtu: None,
        };
        kernel.add_veth(ns, &veth).await.unwrap();
        let error = ensure(&kernel, &cfg).await.unwrap_err().to_string();
        assert!(error.contains("knarr0") && error.contains("veth"), "{error}");
        assert!(undo(&kernel, &cfg).await.is_empty());
        assert!(kernel.link(ns, "knarr0").await.unwrap().is_some(), "somebody else's link is left alone");
    }
}
