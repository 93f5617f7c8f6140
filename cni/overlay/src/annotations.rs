//! What nodes tell each other on their Node objects.
//!
//! | annotation | value |
//! |---|---|
//! | `knarr.io/overlay-backend` | name of the backend: `vxlan`, `host-gw`, `none` |
//! | `knarr.io/overlay-address` | address that other nodes send to |
//! | `knarr.io/overlay-vtep` | tunnel end, JSON: `{"vni":1,"port":8472,"mac":"0a:59:0a:2a:00:00"}`; absent without a tunnel |
//!
//! Each node writes its own with its node identity, and nobody else's.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node as ApiNode;
use serde_json::{Value, json};

use crate::{Node, Vtep};

/// Name of the backend.
pub const BACKEND: &str = "knarr.io/overlay-backend";
/// Address that other nodes send to.
pub const ADDRESS: &str = "knarr.io/overlay-address";
/// Tunnel end.
pub const VTEP: &str = "knarr.io/overlay-vtep";

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|p| u8::from_str_radix(p, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// What a node writes on itself; `None` takes the annotation away.
pub fn of(node: &Node) -> BTreeMap<&'static str, Option<String>> {
    let vtep = node.vtep.map(|v| json!({"vni": v.vni, "port": v.port, "mac": mac_text(v.mac)}).to_string());
    BTreeMap::from([
        (BACKEND, Some(node.backend.clone())),
        (ADDRESS, Some(node.address.to_string())),
        (VTEP, vtep),
    ])
}

/// The patch that brings a Node's annotations to what they should be; `None` when they are.
pub fn patch(node: &Node, now: &ApiNode) -> Option<Value> {
    let have = now.metadata.annotations.as_ref();
    let want = of(node);
    let differs = want.iter().any(|(k, v)| have.and_then(|h| h.get(*k)) != v.as_ref());
    differs.then(|| json!({"metadata": {"annotations": want}}))
}

/// The pod ranges of a Node.
pub fn pod_cidrs(node: &ApiNode) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let many = spec.pod_cidrs.clone().unwrap_or_default();
    let list = if many.is_empty() { spec.pod_cidr.clone().into_iter().collect() } else { many };
    list.iter().filter_map(|c| c.parse().ok()).collect()
}

fn vtep(text: &str) -> Option<Vtep> {
    let v: Value = serde_json::from_str(text).ok()?;
    Some(Vtep {
        vni: u32::try_from(v["vni"].as_u64()?).ok()?,
        port: u16::try_from(v["port"].as_u64()?).ok()?,
        mac: parse_mac(v["mac"].as_str()?)?,
    })
}

/// A Node as the overlay sees it; `None` as long as it has no pod range or has not said how it is reached.
pub fn read(node: &ApiNode) -> Option<Node> {
    let pod_cidrs = pod_cidrs(node);
    let annotations = node.metadata.annotations.as_ref()?;
    let address = annotations.get(ADDRESS)?.parse().ok()?;
    if pod_cidrs.is_empty() {
        return None;
    }
    Some(Node {
        name: node.metadata.name.clone()?,
        backend: annotations.get(BACKEND)?.clone(),
        address,
        pod_cidrs,
        vtep: annotations.get(VTEP).and_then(|t| vtep(t)),
    })
}
