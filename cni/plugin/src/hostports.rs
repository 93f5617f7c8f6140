//! The table of host ports and masquerading. A container's part of it is map elements that carry its address,
//! added and removed in one transaction.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use knarr_netlink::nft::{
    Base, Chain, ChainKind, Data, Family, Field, FieldType, Hook, Key, Rule, Sense, Set, SetData, Side, Stmt,
    Table, Verdict, diff, transport,
};
use knarr_netlink::{ConntrackFlow, Error, ErrorKind, Item, Kernel, Ledger, Netns, Result};

use crate::config::{Conflist, PortMapping};

/// Name of the table.
pub(crate) const TABLE: &str = "knarr-cni";
const UDP: u8 = 17;
const PORTS: &str = "host-ports";
const ADDRESS_PORTS: &str = "host-address-ports";
const HAIRPINS: &str = "hairpins";

fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { kind, hook, priority }), rules }
}

/// The table without any container's elements.
fn skeleton(cfg: &Conflist, family: Family) -> Table {
    use Field::{DestinationAddress, DestinationPort, Protocol, SourceAddress};
    let mut t = Table::default();
    let value = || SetData::Value(vec![FieldType::Address, FieldType::Port]);
    t.sets.insert(PORTS.into(), Set::new(vec![FieldType::Protocol, FieldType::Port], value()));
    let key = vec![FieldType::Address, FieldType::Protocol, FieldType::Port];
    t.sets.insert(ADDRESS_PORTS.into(), Set::new(key, value()));
    t.sets.insert(HAIRPINS.into(), Set::new(vec![FieldType::Address, FieldType::Address], SetData::None));
    let jump = || Stmt::Verdict(Verdict::Jump(PORTS.into()));
    let local = || Stmt::LocalAddress(Side::Destination, Sense::Is);
    let translate = |key: Vec<Field>, map: &str| Rule::new(vec![Stmt::Resolve(key, map.into()), Stmt::Dnat]);
    let chain = vec![
        translate(vec![DestinationAddress, Protocol, DestinationPort], ADDRESS_PORTS),
        translate(vec![Protocol, DestinationPort], PORTS),
    ];
    t.chains.insert(PORTS.into(), Chain { base: None, rules: chain });
    // IPv4 loopback is translated too, which the bridge's `route_localnet` allows; IPv6 has no such thing.
    let mut from_host: Vec<Stmt> = Vec::new();
    if family == Family::Ip6 {
        from_host.extend(family.loopback().map(|n| Stmt::Address(Side::Destination, Sense::IsNot, n)));
    }
    from_host.extend([local(), jump()]);
    // Just before the service proxy: a host port wins over a node port of the same number.
    let prerouting = base(ChainKind::Nat, Hook::Prerouting, -101, vec![vec![local(), jump()].into()]);
    t.chains.insert("prerouting".into(), prerouting);
    t.chains.insert("output".into(), base(ChainKind::Nat, Hook::Output, -101, vec![from_host.into()]));
    let hairpin = vec![
        Stmt::Translated(Sense::Is),
        Stmt::InSet(Sense::Is, vec![SourceAddress, DestinationAddress], HAIRPINS.into()),
        Stmt::Masquerade,
    ];
    let mut from_loopback = vec![Stmt::Translated(Sense::Is)];
    from_loopback.extend(family.loopback().map(|n| Stmt::Address(Side::Source, Sense::Is, n)));
    from_loopback.push(Stmt::Masquerade);
    // With `route_localnet` nothing else keeps pods from speaking to what listens on this host's loopback.
    let mut guard = vec![Stmt::FromInterface(cfg.bridge.clone())];
    guard.extend(family.loopback().map(|n| Stmt::Address(Side::Destination, Sense::Is, n)));
    guard.push(Stmt::Verdict(Verdict::Drop));
    t.chains.insert("guard".into(), base(ChainKind::Filter, Hook::Prerouting, -150, vec![guard.into()]));
    let mut outside = vec![
        Stmt::Address(Side::Source, Sense::Is, cfg.pod_cidr),
        Stmt::Address(Side::Destination, Sense::IsNot, cfg.cluster_cidr),
    ];
    outside.extend(family.multicast().map(|n| Stmt::Address(Side::Destination, Sense::IsNot, n)));
    outside.push(Stmt::Masquerade);
    let postrouting = base(
        ChainKind::Nat,
        Hook::Postrouting,
        100,
        vec![hairpin.into(), from_loopback.into(), outside.into()],
    );
    t.chains.insert("postrouting".into(), postrouting);
    t
}

/// The table as it should be with the elements that are in it now.
fn with_elements(cfg: &Conflist, family: Family, current: Option<&Table>) -> Table {
    let mut t = skeleton(cfg, family);
    for (name, set) in &mut t.sets {
        if let Some(now) =
            current.and_then(|c| c.sets.get(name)).filter(|n| n.key == set.key && n.data == set.data)
        {
            set.elements = now.elements.clone();
        }
    }
    t
}

async fn change(kernel: &dyn Kernel, cfg: &Conflist, edit: impl FnOnce(&mut Table)) -> Result<()> {
    let family = Family::of(cfg.pod_cidr.network());
    let current = kernel.nft_table(&Netns::Host, family, TABLE).await?;
    let mut desired = with_elements(cfg, family, current.as_ref());
    if current.is_none() {
        // Somebody flushed the host's rules: what the containers had is on disk.
        for (pod, mappings) in saved(cfg)? {
            put(&mut desired, pod, elements(pod, &mappings)?);
        }
    }
    edit(&mut desired);
    kernel.nft_commit(&Netns::Host, family, TABLE, &diff(current.as_ref(), &desired)).await
}

fn directory(cfg: &Conflist) -> PathBuf {
    cfg.state_dir.join("ports")
}

/// The host ports of every container, as they were given.
fn saved(cfg: &Conflist) -> Result<Vec<(IpAddr, Vec<PortMapping>)>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory(cfg)).into_iter().flatten().flatten() {
        let Some(pod) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let read = std::fs::read(entry.path()).and_then(|b| Ok(serde_json::from_slice(&b)?));
        out.push((pod, read.map_err(|e| failed("read", &entry.path(), &e))?));
    }
    Ok(out)
}

fn failed(operation: &'static str, path: &Path, e: &std::io::Error) -> Error {
    Error::new(operation, format!("host ports {}", path.display()), ErrorKind::Other, e.to_string())
}

fn save(cfg: &Conflist, pod: IpAddr, mappings: &[PortMapping]) -> Result<()> {
    let (dir, path) = (directory(cfg), directory(cfg).join(pod.to_string()));
    let tmp = dir.join(format!(".{pod}.tmp"));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(&tmp, serde_json::to_vec(mappings)?)?;
        std::fs::rename(&tmp, &path)
    };
    write().map_err(|e| failed("save", &path, &e))
}

fn forget(cfg: &Conflist, pod: IpAddr) -> Result<()> {
    let path = directory(cfg).join(pod.to_string());
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("forget", &path, &e)),
        _ => Ok(()),
    }
}

/// Makes the table, or brings it up to date without touching containers' elements.
pub(crate) async fn ensure(kernel: &dyn Kernel, cfg: &Conflist, ledger: &Ledger) -> Result<()> {
    ledger.record(&Item::nft_table(Family::of(cfg.pod_cidr.network()), TABLE))?;
    change(kernel, cfg, |_| {}).await
}

fn protocol_number(m: &PortMapping) -> Result<u8> {
    transport(&m.protocol.to_ascii_uppercase()).ok_or_else(|| {
        let detail = format!("protocol {:?} is not one of tcp, udp, sctp", m.protocol.to_ascii_lowercase());
        Error::new("map host port", m.host_port.to_string(), ErrorKind::Unsupported, detail)
    })
}

fn insert(t: &mut Table, set: &str, key: Key, data: Data) {
    if let Some(set) = t.sets.get_mut(set) {
        set.insert(key, data);
    }
}

type Element = (&'static str, Key, Data);

/// The map elements of a container's host ports.
fn elements(pod: IpAddr, mappings: &[PortMapping]) -> Result<Vec<Element>> {
    let mut out = Vec::new();
    for m in mappings.iter().filter(|m| m.host_port != 0) {
        let protocol = protocol_number(m)?;
        let data = Data::Value(Key::new().address(pod).port(m.container_port).bytes());
        let host: Option<IpAddr> = match m.host_ip.as_str() {
            "" | "0.0.0.0" | "::" => None,
            text => Some(text.parse().map_err(|_| {
                let detail = format!("hostIP {text:?} is not an IP address");
                Error::new("map host port", m.host_port.to_string(), ErrorKind::Other, detail)
            })?),
        };
        // A mapping for an address of the other family is another attachment's business.
        if host.is_some_and(|h| h.is_ipv4() != pod.is_ipv4()) {
            continue;
        }
        out.push(match host {
            None => (PORTS, Key::new().protocol(protocol).port(m.host_port), data),
            Some(h) => (ADDRESS_PORTS, Key::new().address(h).protocol(protocol).port(m.host_port), data),
        });
    }
    Ok(out)
}

fn put(t: &mut Table, pod: IpAddr, elements: Vec<Element>) {
    for (set, key, data) in elements {
        insert(t, set, key, data);
    }
    insert(t, HAIRPINS, Key::new().address(pod).address(pod), Data::None);
}

/// Adds a container's host ports.
pub(crate) async fn add(
    kernel: &dyn Kernel,
    cfg: &Conflist,
    pod: IpAddr,
    mappings: &[PortMapping],
) -> Result<()> {
    let elements = elements(pod, mappings)?;
    if elements.is_empty() {
        return Ok(());
    }
    save(cfg, pod, mappings)?;
    change(kernel, cfg, |t| put(t, pod, elements)).await?;
    // A client that kept sending before the port was there would go on being answered by nobody.
    for m in mappings.iter().filter(|m| m.host_port != 0 && protocol_number(m).is_ok_and(|p| p == UDP)) {
        let flow = ConntrackFlow {
            protocol: UDP,
            original_destination: m.host_ip.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified()),
            original_port: Some(m.host_port),
            endpoint: None,
        };
        kernel.delete_conntrack(&Netns::Host, &flow).await?;
    }
    Ok(())
}

/// Removes all that carries a pod's address.
pub(crate) async fn remove(kernel: &dyn Kernel, cfg: &Conflist, pod: IpAddr) -> Result<()> {
    forget(cfg, pod)?;
    let family = Family::of(cfg.pod_cidr.network());
    let prefix = Key::new().address(pod).bytes();
    let of_pod = |key: &[u8], data: &Data| match data {
        Data::Value(v) => v.starts_with(&prefix),
        _ => key.starts_with(&prefix),
    };
    let current = kernel.nft_table(&Netns::Host, family, TABLE).await?;
    let Some(current) = current else {
        return Ok(());
    };
    let mut desired = current.clone();
    for set in desired.sets.values_mut() {
        set.elements.retain(|k, d| !of_pod(k, d));
    }
    kernel.nft_commit(&Netns::Host, family, TABLE, &diff(Some(&current), &desired)).await
}
