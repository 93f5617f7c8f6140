//! What servers tell agents that join: facts every node of a cluster must share.

use serde::{Deserialize, Serialize};

/// Answer of `/v1-knarr/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterConfig {
    /// Pod addresses.
    pub cluster_cidr: String,
    /// Service addresses.
    pub service_cidr: String,
    /// Address of the cluster DNS.
    pub cluster_dns: String,
    /// Domain of services and pods.
    pub cluster_domain: String,
    /// Network backend.
    pub flannel_backend: String,
    /// Components that the servers leave out.
    #[serde(default)]
    pub disable: Vec<String>,
    /// CA of client certificates, PEM: kubelets check their callers with it.
    pub client_ca_pem: String,
    /// Version of the server.
    pub version: String,
}
