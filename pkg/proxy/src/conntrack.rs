//! Which tracked connections are wrong after a change. Only UDP: it has no end of its own, so a client that keeps
//! sending would stay with a vanished endpoint (or with none).

use std::collections::BTreeMap;
use std::net::IpAddr;

use knarr_netlink::ConntrackFlow;

use crate::model::{Reach, ServicePort};

const UDP: u8 = 17;

fn usable(s: &ServicePort) -> Vec<IpAddr> {
    [true, false].iter().flat_map(|v4| s.eligible(Reach::Cluster, *v4)).map(|e| e.address).collect()
}

/// Flows to forget when the service ports go from `old` to `new`.
pub fn stale_flows(old: &[ServicePort], new: &[ServicePort]) -> Vec<ConntrackFlow> {
    let after: BTreeMap<&str, &ServicePort> = new.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut flows = Vec::new();
    for was in old.iter().filter(|s| s.protocol == UDP) {
        let now = after.get(was.name.as_str()).copied();
        let (before, usable_now) = (usable(was), now.map(usable).unwrap_or_default());
        for endpoint in before.iter().filter(|e| !usable_now.contains(e)) {
            flows.extend(entries(was, Some(*endpoint)));
        }
        if let Some(now) = now.filter(|_| before.is_empty() && !usable_now.is_empty()) {
            flows.extend(entries(now, None));
        }
    }
    flows
}

/// The ways into a service port, with the endpoint they were translated to.
fn entries(s: &ServicePort, endpoint: Option<IpAddr>) -> Vec<ConntrackFlow> {
    let ips = s.cluster_ips.iter().chain(&s.external_ips).chain(&s.balancer_ips);
    let family = |ip: &&IpAddr| endpoint.is_none_or(|e| e.is_ipv4() == ip.is_ipv4());
    let flow = |destination: Option<IpAddr>, port: u16| ConntrackFlow {
        protocol: UDP,
        original_destination: destination,
        original_port: Some(port),
        endpoint,
    };
    let by_ip = ips.filter(family).map(|ip| flow(Some(*ip), s.port));
    by_ip.chain(s.node_port.map(|p| flow(None, p))).collect()
}
