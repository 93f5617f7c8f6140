//! What is known of Services, EndpointSlices and Namespaces. Entry point: [`Index`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// A port by name and protocol ("tcp", ...), both lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub name: String,
    pub protocol: String,
    pub number: u16,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceEntry {
    /// Empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub external_name: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointEntry {
    /// Its label below the service: its host name, or its address with dashes.
    pub label: String,
    pub address: IpAddr,
    pub ports: Vec<Port>,
}

/// What the server knows. Updated event by event.
#[derive(Debug)]
pub struct Index {
    /// The cluster's domain.
    pub(crate) zone: Name,
    /// All kinds have been listed once.
    pub complete: bool,
    /// Own addresses: the name server's address records.
    pub dns_addresses: Vec<IpAddr>,
    services: HashMap<Key, ServiceEntry>,
    /// By service, then by slice.
    slices: HashMap<Key, BTreeMap<String, Vec<EndpointEntry>>>,
    namespaces: HashSet<String>,
    cluster_ips: HashMap<IpAddr, Key>,
    endpoint_ips: HashMap<IpAddr, BTreeSet<Key>>,
}

/// The label of an address: "10-42-0-5", "fd00--5".
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn protocol(p: Option<&String>) -> String {
    p.map_or_else(|| "tcp".to_owned(), |p| p.to_ascii_lowercase())
}

fn service_entry(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        Some(Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: protocol(p.protocol.as_ref()),
            number: p.port.try_into().ok()?,
        })
    });
    let mut entry = ServiceEntry { ports: ports.collect(), ..ServiceEntry::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        let mut name = Name::from_ascii(spec.external_name.as_deref().unwrap_or_default()).ok()?;
        name.set_fqdn(true);
        entry.external_name = Some(name);
        return Some(entry);
    }
    let listed = spec.cluster_ips.iter().flatten();
    entry.cluster_ips = listed.filter_map(|t| t.parse().ok()).collect();
    if entry.cluster_ips.is_empty() {
        entry.cluster_ips = spec.cluster_ip.iter().filter_map(|t| t.parse().ok()).collect();
    }
    Some(entry)
}

fn slice_entries(slice: &EndpointSlice) -> Vec<EndpointEntry> {
    let ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|p| {
            Some(Port {
                name: p.name.clone().unwrap_or_default(),
                protocol: protocol(p.protocol.as_ref()),
                number: p.port?.try_into().ok()?,
            })
        })
        .collect();
    let mut out = Vec::new();
    for e in slice.endpoints.iter().flatten() {
        // A service that publishes addresses that are not ready has them marked ready in its slices.
        if e.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
            continue;
        }
        for address in e.addresses.iter().filter_map(|a| a.parse().ok()) {
            let label = e.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| dashed(address));
            out.push(EndpointEntry { label: label.to_ascii_lowercase(), address, ports: ports.clone() });
        }
    }
    out
}

fn key(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn slice_service(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some((slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

impl Index {
    /// Nothing known yet of the zone of this domain; `None` if that is not a domain name.
    pub fn new(domain: &str) -> Option<Self> {
        let mut zone = Name::from_ascii(domain).ok()?.to_lowercase();
        zone.set_fqdn(true);
        if zone.num_labels() == 0 {
            return None;
        }
        Some(Self {
            zone,
            complete: false,
            dns_addresses: Vec::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            namespaces: HashSet::new(),
            cluster_ips: HashMap::new(),
            endpoint_ips: HashMap::new(),
        })
    }

    /// A Service is there, or changed.
    pub fn put_service(&mut self, service: &Service) {
        self.remove_service(service);
        if let Some(entry) = service_entry(service) {
            let key = key(&service.metadata);
            for ip in &entry.cluster_ips {
                self.cluster_ips.insert(*ip, key.clone());
            }
            self.services.insert(key, entry);
        }
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, service: &Service) {
        let key = key(&service.metadata);
        for ip in self.services.remove(&key).into_iter().flat_map(|e| e.cluster_ips) {
            if self.cluster_ips.get(&ip) == Some(&key) {
                self.cluster_ips.remove(&ip);
            }
        }
    }

    /// An EndpointSlice is there, or changed.
    pub fn put_slice(&mut self, slice: &EndpointSlice) {
        self.remove_slice(slice);
        let Some(service) = slice_service(slice) else { return };
        let entries = slice_entries(slice);
        for e in &entries {
            self.endpoint_ips.entry(e.address).or_default().insert(service.clone());
        }
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.slices.entry(service).or_default().insert(name, entries);
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, slice: &EndpointSlice) {
        let (namespace, name) = key(&slice.metadata);
        // The label may have changed: look at all of the namespace only if the usual place has nothing.
        let usual =
            slice_service(slice).filter(|s| self.slices.get(s).is_some_and(|m| m.contains_key(&name)));
        let service = usual.or_else(|| {
            self.slices
                .iter()
                .find(|((ns, _), m)| *ns == namespace && m.contains_key(&name))
                .map(|(s, _)| s.clone())
        });
        let Some(service) = service else { return };
        let Some(of_service) = self.slices.get_mut(&service) else { return };
        let gone = of_service.remove(&name).unwrap_or_default();
        let left: HashSet<IpAddr> = of_service.values().flatten().map(|e| e.address).collect();
        if of_service.is_empty() {
            self.slices.remove(&service);
        }
        for ip in gone.iter().map(|e| e.address).filter(|ip| !left.contains(ip)) {
            if let Some(services) = self.endpoint_ips.get_mut(&ip) {
                services.remove(&service);
                if services.is_empty() {
                    self.endpoint_ips.remove(&ip);
                }
            }
        }
    }

    /// A Namespace is there.
    pub fn put_namespace(&mut self, namespace: &Namespace) {
        self.namespaces.extend(namespace.metadata.name.clone());
    }

    /// A Namespace is gone.
    pub fn remove_namespace(&mut self, namespace: &Namespace) {
        if let Some(name) = &namespace.metadata.name {
            self.namespaces.remove(name);
        }
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Endpoints of a service, each once.
    pub(crate) fn endpoints(&self, namespace: &str, name: &str) -> BTreeSet<&EndpointEntry> {
        let slices = self.slices.get(&(namespace.to_owned(), name.to_owned()));
        slices.into_iter().flat_map(BTreeMap::values).flatten().collect()
    }

    /// Names of an address below the zone, as labels.
    pub(crate) fn names_of(&self, address: IpAddr) -> Vec<Vec<String>> {
        if let Some((namespace, name)) = self.cluster_ips.get(&address) {
            return vec![vec![name.clone(), namespace.clone(), "svc".into()]];
        }
        let services =
            self.endpoint_ips.get(&address).into_iter().flatten().filter(|k| self.services.contains_key(*k));
        let named = services.flat_map(|(namespace, name)| {
            let of_address =
                self.endpoints(namespace, name).into_iter().filter(move |e| e.address == address);
            of_address.map(|e| vec![e.label.clone(), name.clone(), namespace.clone(), "svc".into()])
        });
        named.collect()
    }
}
