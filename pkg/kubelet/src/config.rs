//! What the kubelet is told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Pod, Taint};

use crate::arguments::{self, Threshold};

/// TLS of the kubelet's own endpoint; a fresh configuration is taken for every connection, so renewed certificates count at once.
pub type ServingTls = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// Configuration of a node.
#[derive(Clone)]
pub struct KubeletConfig {
    /// Name of the node object.
    pub node_name: String,
    /// Addresses of the node, the main one first.
    pub node_ips: Vec<IpAddr>,
    /// Where pods' directories are (`<data-dir>/agent/kubelet`).
    pub root_dir: PathBuf,
    /// Where containers' logs are (`/var/log/pods`).
    pub log_dir: PathBuf,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// The cgroup below which `kubepods` is made.
    pub cgroup_root: String,
    /// Labels the node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// Most pods the node takes.
    pub max_pods: u32,
    /// Where the kubelet's HTTPS endpoint listens.
    pub listen: SocketAddr,
    /// Its TLS; without it no endpoint is opened. Client certificates must be asked for, not required, by the configuration.
    pub serving_tls: Option<ServingTls>,
    /// Who may use the endpoint; without it the API server is asked.
    pub access: Option<Arc<dyn crate::Access>>,
    /// Who keeps apart what NetworkPolicies forbid; without it nobody does.
    pub isolation: Option<Arc<dyn crate::Isolation>>,
    /// A log is rotated when it has grown beyond this.
    pub log_max_bytes: u64,
    /// So many files of a log are kept.
    pub log_max_files: usize,
    /// Unused images are removed when their file system is this full, in percent; 100 keeps them all.
    pub image_gc_high_percent: u8,
    /// Until it is emptier than this, in percent.
    pub image_gc_low_percent: u8,
    /// Below these limits the node is under pressure.
    pub eviction_hard: Vec<Threshold>,
    /// The version that the node reports.
    pub kubelet_version: String,
}

impl KubeletConfig {
    /// The defaults for a node of this name.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            root_dir: "/var/lib/knarr/agent/kubelet".into(),
            log_dir: "/var/log/pods".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: "/etc/resolv.conf".into(),
            cgroup_root: "/".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 10250),
            serving_tls: None,
            access: None,
            isolation: None,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            eviction_hard: arguments::default_eviction_hard(),
            kubelet_version: "v1.37.0+knarr".to_owned(),
        }
    }

    /// The node's directory for a pod.
    pub fn pod_dir(&self, pod: &Pod) -> PathBuf {
        self.root_dir.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
    }

    /// The node's addresses as text.
    pub fn host_ips(&self) -> Vec<String> {
        self.node_ips.iter().map(ToString::to_string).collect()
    }
}
