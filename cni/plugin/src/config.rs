//! The network configuration: what the agent writes and what an invocation gets.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use crate::EXECUTABLE;
use crate::protocol::{CniError, SUPPORTED_VERSIONS};

/// What the agent decides; becomes the configuration list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflist {
    /// This node's range of pod addresses.
    pub pod_cidr: IpNetwork,
    /// The whole cluster's range of pod addresses: traffic to it is not masqueraded.
    pub cluster_cidr: IpNetwork,
    /// The range of service addresses; a route to it is laid so that they work without a default route.
    pub service_cidr: Option<IpNetwork>,
    /// Bridge name, usually "knarr0".
    pub bridge: String,
    /// MTU of bridge and pods; the kernel's default when `None`.
    pub mtu: Option<u32>,
    /// Where held addresses and locks are kept.
    pub state_dir: PathBuf,
    /// The host ledger.
    pub ledger: PathBuf,
}

/// The configuration list for the CNI configuration directory ("10-knarr.conflist").
pub fn conflist(cfg: &Conflist) -> String {
    let plugin = json!({
        "type": EXECUTABLE,
        "bridge": cfg.bridge,
        "podCIDR": cfg.pod_cidr.to_string(),
        "clusterCIDR": cfg.cluster_cidr.to_string(),
        "serviceCIDR": cfg.service_cidr.map(|c| c.to_string()),
        "mtu": cfg.mtu,
        "stateDir": cfg.state_dir,
        "ledger": cfg.ledger,
        "capabilities": {"portMappings": true, "ips": true},
    });
    let list = json!({"cniVersion": "1.0.0", "name": "knarr", "plugins": [plugin]});
    format!("{list:#}\n")
}

/// One host port, as the runtime hands it over: by the convention's names, or by containerd's (its structure has no JSON
/// names, and programs in Go read either).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port on the host; 0 means none.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// Port in the pod.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// "tcp", "udp" or "sctp".
    #[serde(default = "tcp", alias = "Protocol")]
    pub protocol: String,
    /// Only on this host address; empty for all.
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// What the runtime passes for our capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Host ports.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Wanted addresses.
    #[serde(default)]
    pub ips: Vec<String>,
}

/// An attachment in the list of valid ones that GC gets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    /// Container id.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Interface name.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The configuration of one invocation.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification.
    #[serde(default)]
    pub cni_version: String,
    /// Network name.
    #[serde(default)]
    pub name: String,
    /// Bridge name.
    pub bridge: String,
    /// This node's pods.
    #[serde(rename = "podCIDR", deserialize_with = "network")]
    pub pod_cidr: IpNetwork,
    /// All pods.
    #[serde(rename = "clusterCIDR", deserialize_with = "network")]
    pub cluster_cidr: IpNetwork,
    /// Services.
    #[serde(rename = "serviceCIDR", default, deserialize_with = "optional_network")]
    pub service_cidr: Option<IpNetwork>,
    /// MTU.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// State directory.
    pub state_dir: PathBuf,
    /// Ledger.
    pub ledger: PathBuf,
    /// From the runtime.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// For GC.
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

fn network<'de, D: Deserializer<'de>>(d: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|e| serde::de::Error::custom(format!("{text:?}: {e}")))
}

fn optional_network<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpNetwork>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    text.map(|t| t.parse().map_err(|e| serde::de::Error::custom(format!("{t:?}: {e}")))).transpose()
}

impl NetConf {
    /// Decodes and checks.
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let conf: Self = serde_json::from_slice(input).map_err(CniError::decode)?;
        if !SUPPORTED_VERSIONS.contains(&conf.cni_version.as_str()) {
            return Err(CniError::version(&conf.cni_version));
        }
        if conf.name.is_empty() {
            return Err(CniError::config("name is empty"));
        }
        if conf.bridge.is_empty() || conf.bridge.len() > 15 {
            return Err(CniError::config(format!("bridge {:?} is not an interface name", conf.bridge)));
        }
        if !conf.cluster_cidr.contains(conf.pod_cidr.network()) {
            return Err(CniError::config(format!(
                "podCIDR {} is not in clusterCIDR {}",
                conf.pod_cidr, conf.cluster_cidr
            )));
        }
        Ok(conf)
    }

    /// The node's part of it.
    pub fn node(&self) -> Conflist {
        Conflist {
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            bridge: self.bridge.clone(),
            mtu: self.mtu.filter(|m| *m > 0),
            state_dir: self.state_dir.clone(),
            ledger: self.ledger.clone(),
        }
    }

    /// The address wanted for this pod, if any.
    pub fn wanted_address(
        &self,
        args: &std::collections::BTreeMap<String, String>,
    ) -> Result<Option<IpAddr>, CniError> {
        let text = self.runtime_config.ips.first().or_else(|| args.get("IP"));
        text.map(|t| {
            let plain = t.split('/').next().unwrap_or(t);
            plain.parse().map_err(|_| CniError::config(format!("wanted address {t:?} is not an IP address")))
        })
        .transpose()
    }
}
