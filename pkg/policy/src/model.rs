//! NetworkPolicies and pods as this part sees them. Entry points: [`policy`], [`pod`]. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_client::{Key, selector_of};
use knarr_machinery::labels::Selector;
use knarr_netlink::nft::transport;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Transport protocol, as IP protocol number.
pub type Protocol = u8;

/// What a policy says, by name of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it isolates.
    pub selects: Selector,
    /// Rules for what comes to them; `None` if it does not isolate them in this direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what they send.
    pub egress: Option<Vec<Rule>>,
}

/// What is allowed: from or to one of the peers, on one of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Everybody if `None`.
    pub peers: Option<Vec<Peer>>,
    /// Everything if `None`.
    pub ports: Option<Vec<Ports>>,
}

/// Somebody to speak with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods of the policy's own namespace.
    Own(Selector),
    /// Pods of the namespaces with these labels.
    Of(Selector, Selector),
    /// Addresses of the first network that are in none of the others.
    Block(IpNetwork, Vec<IpNetwork>),
}

/// Destination ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All of a protocol.
    All(Protocol),
    /// From the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The port that the destination pod calls so.
    Named(Protocol, String),
}

/// What counts of a pod that has addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// UID.
    pub uid: String,
    /// Node.
    pub node: String,
    /// Labels.
    pub labels: Labels,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Ports with a name.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// Everything that rules are made from.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Policies by namespace and name.
    pub policies: BTreeMap<Key, Policy>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<Key, PodFacts>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods of this node that the kubelet told of, by UID, with their namespaces: from before their first container
    /// runs until nothing of them is left, whatever the API says of them meanwhile.
    pub local: BTreeMap<String, (String, PodFacts)>,
}

impl Cluster {
    /// The pods of a namespace.
    pub fn pods_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a PodFacts> {
        let from = (namespace.to_owned(), String::new());
        self.pods.range(from..).take_while(move |((ns, _), _)| ns == namespace).map(|(_, pod)| pod)
    }

    /// The pods that a node isolates, with their namespaces. Where the kubelet and the API tell of the same pod or
    /// address, the kubelet is right.
    pub fn pods_on<'a>(&'a self, node: &'a str) -> Vec<(&'a str, &'a PodFacts)> {
        let taken: BTreeSet<IpAddr> =
            self.local.values().flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
        let told = self.pods.iter().filter(|(_, pod)| pod.node == node && !self.local.contains_key(&pod.uid));
        let told = told.filter(|(_, pod)| pod.addresses.is_disjoint(&taken));
        let told = told.map(|((namespace, _), pod)| (namespace.as_str(), pod));
        told.chain(self.local.values().map(|(namespace, pod)| (namespace.as_str(), pod))).collect()
    }

    /// The policies that isolate a pod in some direction.
    pub fn policies_of<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = (&'a Key, &'a Policy)> {
        let from = (namespace.to_owned(), String::new());
        let of_namespace = self.policies.range(from..).take_while(move |((ns, _), _)| ns == namespace);
        of_namespace.filter(|(_, policy)| policy.selects.matches(labels))
    }
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    transport(name.unwrap_or("TCP"))
}

/// A policy. Without a specification it is as with an empty one.
pub fn policy(object: &NetworkPolicy) -> Policy {
    let empty = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let everything = Selector::everything;
    let rule = |peers: Option<&Vec<NetworkPolicyPeer>>, ports: Option<&Vec<NetworkPolicyPort>>| Rule {
        peers: peers.filter(|l| !l.is_empty()).map(|l| l.iter().filter_map(peer).collect()),
        ports: ports.filter(|l| !l.is_empty()).map(|l| l.iter().filter_map(self::ports).collect()),
    };
    let ingress = spec.ingress.iter().flatten().map(|r| rule(r.from.as_ref(), r.ports.as_ref()));
    let egress = spec.egress.iter().flatten().map(|r| rule(r.to.as_ref(), r.ports.as_ref()));
    let (incoming, outgoing) = directions(spec);
    Policy {
        selects: spec.pod_selector.as_ref().map_or_else(everything, |s| selector_of(Some(s))),
        ingress: incoming.then(|| ingress.collect()),
        egress: outgoing.then(|| egress.collect()),
    }
}

/// Whether a policy isolates incoming and outgoing traffic. Without a word on it: incoming always, outgoing if
/// there are rules for it.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Some(types) => {
            let has = |wanted: &str| types.iter().any(|t| t == wanted);
            (has("Ingress"), has("Egress"))
        }
    }
}

/// A peer; `None` for one of a sort that is not known here, which allows nobody.
fn peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except: Result<Vec<IpNetwork>, _> = block.except.iter().flatten().map(|n| n.parse()).collect();
        return Some(Peer::Block(block.cidr.parse().ok()?, except.ok()?));
    }
    let pods = peer.pod_selector.as_ref().map(|s| selector_of(Some(s)));
    match (&peer.namespace_selector, pods) {
        (Some(namespaces), pods) => {
            Some(Peer::Of(selector_of(Some(namespaces)), pods.unwrap_or_else(Selector::everything)))
        }
        (None, pods) => pods.map(Peer::Own),
    }
}

fn ports(port: &NetworkPolicyPort) -> Option<Ports> {
    let protocol = protocol(port.protocol.as_deref())?;
    let number = |n: i32| u16::try_from(n).ok();
    match &port.port {
        None => Some(Ports::All(protocol)),
        Some(IntOrString::String(name)) => Some(Ports::Named(protocol, name.clone())),
        Some(IntOrString::Int(first)) => {
            Some(Ports::Range(protocol, number(*first)?, number(port.end_port.unwrap_or(*first))?))
        }
    }
}

/// A pod with these addresses; `None` if it has none of its own, or has run its course.
pub fn pod(object: &Pod, addresses: BTreeSet<IpAddr>) -> Option<PodFacts> {
    let spec = object.spec.as_ref()?;
    let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if over || addresses.is_empty() || spec.host_network == Some(true) {
        return None;
    }
    Some(PodFacts {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        node: spec.node_name.clone().unwrap_or_default(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses,
        ports: named_ports(spec),
    })
}

/// The addresses that a pod's status tells.
pub fn addresses(object: &Pod) -> BTreeSet<IpAddr> {
    let Some(status) = &object.status else { return BTreeSet::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    all.filter_map(|ip| ip.parse().ok()).collect()
}

fn named_ports(spec: &PodSpec) -> Vec<(String, Protocol, u16)> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let named = ports.filter_map(|p| {
        Some((p.name.clone()?, protocol(p.protocol.as_deref())?, u16::try_from(p.container_port).ok()?))
    });
    named.collect()
}
