//! What services and pods say about endpoints. Pure.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

/// One resolved port of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPortKey {
    /// Name of the service's port, "" when it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The pod's port.
    pub port: i32,
    /// Application protocol, if told.
    pub app_protocol: Option<String>,
}

/// The pod's port behind a service's port; `None` when the pod has no port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Sidecars (restartable init containers) may serve, too.
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()).find_map(|p| {
                let fits =
                    p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol;
                fits.then_some(p.container_port)
            })
        }
    }
}

/// All ports of a service as this pod serves them, sorted.
pub fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPortKey> {
    let declared = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    let mut ports: Vec<_> = declared
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPortKey {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: target_port(pod, port)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The pod's address of a family: `IPv4` or `IPv6`.
pub fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|p| p.ip.as_str()).chain(status.pod_ip.as_deref());
    let six = family == "IPv6";
    all.filter(|ip| !ip.is_empty()).find(|ip| ip.contains(':') == six).map(str::to_owned)
}

/// Whether the pod can be behind a service at all.
pub fn is_candidate(pod: &Pod) -> bool {
    !pods::is_finished(pod)
        && pod.status.as_ref().is_some_and(|s| {
            s.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty())
                || s.pod_ips.as_ref().is_some_and(|p| !p.is_empty())
        })
}

/// Whether the service has no cluster address.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods that are not ready count as ready.
pub fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The pod's host name, when it names this service as its subdomain.
pub fn host_name(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.as_deref() == service.metadata.name.as_deref()
        && pod.metadata.namespace == service.metadata.namespace;
    spec.hostname.clone().filter(|h| ours && !h.is_empty())
}

/// Whether a change of the pod can change endpoints.
pub fn matters(new: &Pod, old: &Pod) -> bool {
    let seen = |p: &Pod| {
        (
            p.metadata.uid.clone(),
            p.metadata.deletion_timestamp.is_some(),
            pods::is_ready(p),
            pods::is_finished(p),
            pods::node_name(p).map(str::to_owned),
            p.status.as_ref().map(|s| (s.pod_ip.clone(), s.pod_ips.clone())),
            p.metadata.labels.clone(),
        )
    };
    seen(new) != seen(old)
}
