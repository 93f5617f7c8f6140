//! Services and EndpointSlices as the proxy sees them: one record per service port. Entry point: [`services`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_netlink::nft::transport;

const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const DEFAULT_AFFINITY_SECONDS: u64 = 10800;

/// Transport protocol of a service port, as IP protocol number.
pub type Protocol = u8;

/// How long a client sticks to its endpoint; none for no affinity.
pub type AffinitySeconds = Option<u64>;

/// Which endpoints a traffic policy lets traffic go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All of the cluster.
    Cluster,
    /// Those of this node only.
    Local,
}

/// One endpoint of a service port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Takes new connections.
    pub ready: bool,
    /// Terminating, but still answers.
    pub draining: bool,
    /// On this node.
    pub local: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// "namespace/name/protocol/port", unique.
    pub name: String,
    /// Protocol number.
    pub protocol: Protocol,
    /// Cluster IPs.
    pub cluster_ips: Vec<IpAddr>,
    /// Port at cluster IPs, external IPs and load balancer IPs.
    pub port: u16,
    /// Port on the nodes.
    pub node_port: Option<u16>,
    /// External IPs.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer IPs.
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer IPs; everyone when empty.
    pub source_ranges: Vec<IpNetwork>,
    /// Client affinity.
    pub affinity: AffinitySeconds,
    /// Policy for traffic from inside.
    pub internal: Reach,
    /// Policy for traffic from outside.
    pub external: Reach,
    /// Endpoints of both address families.
    pub endpoints: Vec<Endpoint>,
}

impl ServicePort {
    /// Endpoints to use under a policy, of one address family: the ready ones, or else those that drain.
    pub fn eligible(&self, reach: Reach, v4: bool) -> Vec<&Endpoint> {
        let of = |want: fn(&Endpoint) -> bool| -> Vec<&Endpoint> {
            let here = |e: &&Endpoint| e.address.is_ipv4() == v4 && (reach == Reach::Cluster || e.local);
            self.endpoints.iter().filter(here).filter(|e| want(e)).collect()
        };
        let ready = of(|e| e.ready);
        if ready.is_empty() { of(|e| e.draining) } else { ready }
    }
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    transport(name.unwrap_or("TCP"))
}

/// Name of a protocol number of ours.
pub fn protocol_name(p: Protocol) -> &'static str {
    match p {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    }
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|t| t.parse().ok()).collect()
}

/// True if the proxy has nothing to do with the service.
fn ignored(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.is_some_and(|l| l.contains_key(PROXY_NAME_LABEL) || l.contains_key(HEADLESS_LABEL))
        || spec.type_.as_deref() == Some("ExternalName")
        || spec.cluster_ip.as_deref().is_none_or(|ip| ip.is_empty() || ip == "None")
}

/// All service ports, ordered by name.
pub fn services(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], node: &str) -> Vec<ServicePort> {
    let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let labels = slice.metadata.labels.as_ref();
        if let Some(name) = labels.and_then(|l| l.get(SERVICE_NAME_LABEL)) {
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let mut out = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if ignored(service, spec) {
            continue;
        }
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let slices = by_service.get(&(namespace, name)).map(Vec::as_slice).unwrap_or_default();
        for port in service_ports(service, spec, slices, node) {
            out.insert(port.name.clone(), port);
        }
    }
    out.into_values().collect()
}

fn service_ports(
    service: &Service,
    spec: &ServiceSpec,
    slices: &[&EndpointSlice],
    node: &str,
) -> Vec<ServicePort> {
    let mut cluster_ips = addresses(spec.cluster_ips.iter().flatten());
    if cluster_ips.is_empty() {
        cluster_ips = addresses(&spec.cluster_ip);
    }
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let balanced = kind == "LoadBalancer";
    let ingress = service
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref())
        .flat_map(|l| l.ingress.iter().flatten());
    let direct =
        ingress.filter(|i| balanced && i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let balancer_ips = addresses(direct);
    let reach = |policy: Option<&str>| if policy == Some("Local") { Reach::Local } else { Reach::Cluster };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(DEFAULT_AFFINITY_SECONDS)
    });
    let source_ranges = spec.load_balancer_source_ranges.iter().flatten().filter(|_| balanced);
    let source_ranges: Vec<IpNetwork> = source_ranges.filter_map(|r| r.trim().parse().ok()).collect();
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    for p in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(port)) = (protocol(p.protocol.as_deref()), u16::try_from(p.port)) else {
            continue;
        };
        let port_name = p.name.as_deref().unwrap_or_default();
        out.push(ServicePort {
            name: format!(
                "{namespace}/{name}/{}/{}",
                protocol_name(protocol),
                if port_name.is_empty() { p.port.to_string() } else { port_name.to_owned() }
            ),
            protocol,
            cluster_ips: cluster_ips.clone(),
            port,
            node_port: p
                .node_port
                .and_then(|n| u16::try_from(n).ok())
                .filter(|n| *n != 0 && kind != "ClusterIP"),
            external_ips: addresses(spec.external_ips.iter().flatten()),
            balancer_ips: balancer_ips.clone(),
            source_ranges: source_ranges.clone(),
            affinity,
            internal: reach(spec.internal_traffic_policy.as_deref()),
            external: reach(spec.external_traffic_policy.as_deref()),
            endpoints: endpoints(slices, port_name, protocol, node),
        });
    }
    out
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str, wanted: Protocol, node: &str) -> Vec<Endpoint> {
    let mut out = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let matching = ports.filter(|p| {
            p.name.as_deref().unwrap_or_default() == port_name
                && protocol(p.protocol.as_deref()) == Some(wanted)
        });
        for port in matching.filter_map(|p| u16::try_from(p.port?).ok()) {
            for e in slice.endpoints.iter().flatten() {
                let conditions = e.conditions.as_ref();
                let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
                let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
                let draining = !ready && serving && terminating;
                let local = e.node_name.as_deref() == Some(node);
                // Consumers use the first address only: more of them are further names of the same endpoint.
                if let Some(address) = e.addresses.first().and_then(|a| a.parse().ok()) {
                    out.insert(Endpoint { address, port, ready, draining, local });
                }
            }
        }
    }
    out.into_iter().collect()
}
