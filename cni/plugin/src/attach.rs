//! The commands: attach a container, detach it, check it, collect what was left behind.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_ipam::{Owner, Store};
use knarr_netlink::nft::fnv;
use knarr_netlink::{AddressOptions, Item, Kernel, Ledger, LinkChange, Netns, Route, RouteScope, VethSpec};
use serde_json::json;

use crate::config::{Conflist, NetConf};
use crate::hostports;
use crate::node;
use crate::protocol::{CniError, Invocation};

type Outcome<T> = std::result::Result<T, CniError>;

/// Name of the host's end of a container's veth pair: the same for the same attachment.
fn host_link(owner: &Owner) -> String {
    let hash = fnv(owner.container.bytes().chain([0]).chain(owner.interface.bytes()));
    format!("{}{:012x}", crate::PORT_PREFIX, hash >> 16)
}

fn store(conf: &NetConf) -> Outcome<Store> {
    Ok(Store::open(conf.state_dir.join("addresses"), conf.pod_cidr)?)
}

/// ADD.
pub async fn add(kernel: &dyn Kernel, call: &Invocation, conf: &NetConf) -> Outcome<String> {
    let (cfg, store) = (conf.node(), store(conf)?);
    let owner = Owner::new(&call.container, &call.interface);
    let netns = Netns::Path(call.netns.clone().unwrap_or_default());
    let wanted = conf.wanted_address(&call.args)?;
    {
        let _lock = node::lock(&cfg)?;
        node::ensure_locked(kernel, &cfg).await?;
    }
    let address = store.allocate(&owner, wanted)?;
    match connect(kernel, conf, &cfg, &owner, &netns, address).await {
        Ok(result) => Ok(result),
        Err(e) => {
            // Leave nothing half made. What cannot be taken back now is taken back by the runtime's DEL.
            if let Err(also) = disconnect(kernel, &cfg, &store, &owner).await {
                return Err(CniError {
                    code: e.code,
                    message: format!("{}; and taking back: {}", e.message, also.message),
                });
            }
            Err(e)
        }
    }
}

async fn connect(
    kernel: &dyn Kernel,
    conf: &NetConf,
    cfg: &Conflist,
    owner: &Owner,
    netns: &Netns,
    address: IpAddr,
) -> Outcome<String> {
    let (host, link) = (Netns::Host, host_link(owner));
    let ledger = Ledger::open(&cfg.ledger)?;
    ledger.record(&Item::Link { name: link.clone() })?;
    // One left by an attachment of the same name that was never detached.
    kernel.delete_link(&host, &link).await?;
    let mac = node::mac_of(address);
    let spec = VethSpec {
        name: link.clone(),
        peer_ns: netns.clone(),
        peer_name: owner.interface.clone(),
        peer_mac: Some(mac),
        mtu: cfg.mtu,
    };
    kernel.add_veth(&host, &spec).await?;
    for change in [LinkChange::Master(cfg.bridge.clone()), LinkChange::Hairpin, LinkChange::Up] {
        kernel.change_link(&host, &link, &change).await?;
    }
    inside(kernel, cfg, netns, &owner.interface, address).await?;
    let mappings = &conf.runtime_config.port_mappings;
    if !mappings.is_empty() {
        let _lock = node::lock(cfg)?;
        hostports::add(kernel, cfg, address, mappings).await?;
    }
    let outer = kernel.link(&host, &link).await?.map(|l| l.mac_text()).unwrap_or_default();
    let inner = kernel.link(netns, &owner.interface).await?.map(|l| l.mac_text()).unwrap_or_default();
    let gateway = knarr_ipam::gateway(cfg.pod_cidr);
    let mut ip = json!({"address": IpNetwork::from(address).to_string(), "gateway": gateway.to_string(), "interface": 2});
    if conf.cni_version.starts_with("0.") {
        ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
    }
    let bridge = kernel.link(&host, &cfg.bridge).await?.map(|l| l.mac_text()).unwrap_or_default();
    let sandbox = match netns {
        Netns::Path(p) => p.display().to_string(),
        Netns::Host => String::new(),
    };
    Ok(json!({
        "cniVersion": conf.cni_version,
        "interfaces": [
            {"name": cfg.bridge, "mac": bridge},
            {"name": link, "mac": outer},
            {"name": owner.interface, "mac": inner, "sandbox": sandbox},
        ],
        "ips": [ip],
        "routes": [{"dst": default_route(address).to_string(), "gw": gateway.to_string()}],
        "dns": {},
    })
    .to_string())
}

fn default_route(like: IpAddr) -> IpNetwork {
    let any: IpAddr = if like.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    IpNetwork::new(any, 0).unwrap_or_else(|_| IpNetwork::from(any))
}

/// The pod's own side: loopback up, the address alone, everything through the gateway.
async fn inside(
    kernel: &dyn Kernel,
    cfg: &Conflist,
    netns: &Netns,
    interface: &str,
    address: IpAddr,
) -> Outcome<()> {
    kernel.change_link(netns, "lo", &LinkChange::Up).await?;
    // A redirect would make the pod bypass the gateway.
    for conf in ["all", interface] {
        let key = format!("net/ipv4/conf/{conf}/accept_redirects");
        if kernel.sysctl(netns, &key).await?.is_some_and(|v| v != "0") {
            kernel.set_sysctl(netns, &key, "0").await?;
        }
    }
    kernel.add_address(netns, interface, IpNetwork::from(address), AddressOptions::AddressOnly).await?;
    kernel.change_link(netns, interface, &LinkChange::Up).await?;
    let gateway = knarr_ipam::gateway(cfg.pod_cidr);
    let device = Some(interface.to_owned());
    let to_gateway = Route {
        destination: IpNetwork::from(gateway),
        gateway: None,
        device: device.clone(),
        source: Some(address),
        scope: RouteScope::Link,
    };
    kernel.replace_route(netns, &to_gateway).await?;
    let default = Route {
        destination: default_route(address),
        gateway: Some(gateway),
        device,
        source: Some(address),
        scope: RouteScope::Universe,
    };
    kernel.replace_route(netns, &default).await?;
    Ok(())
}

/// Takes everything of an attachment back; goes on after a failure and reports the first.
async fn disconnect(kernel: &dyn Kernel, cfg: &Conflist, store: &Store, owner: &Owner) -> Outcome<()> {
    let link = host_link(owner);
    let mut failed: Vec<CniError> = Vec::new();
    match kernel.delete_link(&Netns::Host, &link).await {
        Ok(_) => {
            let forgotten = Ledger::open(&cfg.ledger).and_then(|l| l.forget(&Item::Link { name: link }));
            failed.extend(forgotten.err().map(CniError::from));
        }
        Err(e) => failed.push(e.into()),
    }
    match store.find(owner) {
        Ok(Some(address)) => {
            let lock = node::lock(cfg);
            failed.extend(hostports::remove(kernel, cfg, address).await.err().map(CniError::from));
            drop(lock);
        }
        Ok(None) => {}
        Err(e) => failed.push(e.into()),
    }
    // The address is free only when nothing refers to it any more.
    if failed.is_empty() {
        failed.extend(store.release(owner).err().map(CniError::from));
    }
    match failed
        .into_iter()
        .reduce(|a, b| CniError { code: a.code, message: format!("{}; {}", a.message, b.message) })
    {
        None => Ok(()),
        Some(e) => Err(e),
    }
}

/// DEL: succeeds also if there is nothing (left) to take back.
pub async fn delete(kernel: &dyn Kernel, call: &Invocation, conf: &NetConf) -> Outcome<String> {
    let owner = Owner::new(&call.container, &call.interface);
    disconnect(kernel, &conf.node(), &store(conf)?, &owner).await?;
    Ok(String::new())
}

/// CHECK.
pub async fn check(kernel: &dyn Kernel, call: &Invocation, conf: &NetConf) -> Outcome<String> {
    let owner = Owner::new(&call.container, &call.interface);
    let netns = Netns::Path(call.netns.clone().unwrap_or_default());
    let who = format!("container {} interface {}", owner.container, owner.interface);
    let Some(address) = store(conf)?.find(&owner)? else {
        return Err(CniError::check(format!("{who} holds no address")));
    };
    let link = host_link(&owner);
    if !kernel.link(&Netns::Host, &link).await?.is_some_and(|l| l.up && l.master.is_some()) {
        return Err(CniError::check(format!(
            "{who}: host link {link} is missing, down or not on the bridge"
        )));
    }
    match kernel.link(&netns, &owner.interface).await? {
        None => return Err(CniError::check(format!("{who} is missing in {netns}"))),
        Some(l) if !l.up => return Err(CniError::check(format!("{who} is down"))),
        Some(_) => {}
    }
    if !kernel.addresses(&netns, &owner.interface).await?.iter().any(|a| a.ip() == address) {
        return Err(CniError::check(format!("{who} lacks its address {address}")));
    }
    let default = default_route(address);
    if !kernel
        .routes(&netns)
        .await?
        .iter()
        .any(|r| r.destination == default && r.device.as_ref() == Some(&owner.interface))
    {
        return Err(CniError::check(format!("{who} lacks its default route")));
    }
    Ok(String::new())
}

/// GC: takes back what belongs to no valid attachment.
pub async fn collect(kernel: &dyn Kernel, conf: &NetConf) -> Outcome<String> {
    let Some(valid) = &conf.valid_attachments else {
        return Err(CniError::config("cni.dev/valid-attachments is not given"));
    };
    let (cfg, store) = (conf.node(), store(conf)?);
    let is_valid = |o: &Owner| valid.iter().any(|v| v.container == o.container && v.interface == o.interface);
    let mut failed: Vec<String> = Vec::new();
    for owner in store.held()?.into_values().filter(|o| !is_valid(o)) {
        failed.extend(disconnect(kernel, &cfg, &store, &owner).await.err().map(|e| e.message));
    }
    if failed.is_empty() { Ok(String::new()) } else { Err(CniError::io("collect", failed.join("; "))) }
}

/// STATUS: ready if an address could be had.
pub async fn status(conf: &NetConf) -> Outcome<String> {
    let unavailable = |e: &dyn std::fmt::Display| CniError::unavailable(format!("not ready: {e}"));
    let store = store(conf).map_err(|e| unavailable(&e))?;
    let held = store.held().map_err(|e| unavailable(&e))?;
    match knarr_ipam::pick(conf.pod_cidr, &held, None) {
        Some(_) => Ok(String::new()),
        None => Err(unavailable(&format!("no free address in {}", conf.pod_cidr))),
    }
}
