//! What the API server is told at start.

use std::net::IpAddr;
use std::sync::Arc;

/// Configuration of the API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses of services, `10.43.0.0/16`.
    pub service_cidr: String,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// Domain of the cluster, `cluster.local`.
    pub cluster_domain: String,
    /// Issuer of service-account tokens, `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Address that other nodes reach the server at.
    pub advertise_address: IpAddr,
    /// Port of the server.
    pub port: u16,
    /// TLS for connections to kubelets: client certificate and CA.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// The front proxy's certificate, for connections to aggregated APIs.
    pub proxy_client: Option<Arc<dyn rustls::client::ResolvesClientCert>>,
    /// CA of client certificates (PEM), told to extension servers. Empty tells nothing.
    pub client_ca_pem: String,
    /// CA of the front proxy (PEM), told to extension servers. Empty tells nothing.
    pub request_header_ca_pem: String,
    /// Version for `/version`, such as `v1.37.0+knarr1`.
    pub git_version: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service_cidr: "10.43.0.0/16".into(),
            node_ports: (30000, 32767),
            cluster_domain: "cluster.local".into(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            port: 6443,
            kubelet_tls: None,
            proxy_client: None,
            client_ca_pem: String::new(),
            request_header_ca_pem: String::new(),
            git_version: "v1.37.0+knarr1".into(),
        }
    }
}
