//! The node half of a server or agent: container runtime, images, network, proxy, DNS, network policies and kubelet.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use knarr_agent::containerd::Containerd;
use knarr_agent::registries::Registries;
use knarr_config::Config;
use knarr_cri::Runtime;
use knarr_kubelet::Isolation;
use knarr_netlink::{Kernel, RealKernel};
use knarr_overlay::OverlayConfig;
use knarr_plugin::Conflist;
use kube::Api;
use kube::runtime::watcher;

use crate::host::{self, Host};
use crate::process::Process;

/// How long the runtime may take from its socket to its first answer.
const RUNTIME_LIMIT: Duration = Duration::from_secs(30);
/// Where the kubelet keeps the containers' logs, as log collectors expect.
const LOG_DIR: &str = "/var/log/pods";
/// The bridge of the node's pods.
const BRIDGE: &str = "knarr0";
/// Port of the cluster DNS.
const DNS_PORT: u16 = 53;
/// Name of the configuration file for the runtime.
const CONFLIST: &str = "10-knarr.conflist";

/// Clients of the node's parts, each with its own identity.
pub struct Clients {
    /// The node itself.
    pub kubelet: kube::Client,
    /// The service proxy.
    pub proxy: kube::Client,
    /// The cluster DNS.
    pub dns: kube::Client,
    /// Network policies.
    pub policies: kube::Client,
    /// Keeper of the objects of add-ons; on servers only.
    pub addons: Option<kube::Client>,
}

/// What the parts of a node share.
pub struct Node {
    /// The tasks.
    pub process: Arc<Process>,
    /// Settings.
    pub config: Config,
    /// Paths.
    pub host: Host,
    /// Node name.
    pub node_name: String,
    /// Node address.
    pub node_ip: IpAddr,
    /// Clients.
    pub clients: Clients,
    /// TLS of the kubelet's endpoint.
    pub serving_tls: knarr_kubelet::ServingTls,
}

/// Finds out before anything runs what a node could not start with.
///
/// # Errors
/// The file of registries is not valid, or a flag of the kubelet.
pub fn check(config: &Config) -> anyhow::Result<()> {
    if config.container_runtime_endpoint.is_none() {
        Registries::read(&config.private_registry)?;
    }
    kubelet_arguments(&mut knarr_kubelet::KubeletConfig::new(""), config)
}

/// Starts everything a node needs.
///
/// # Errors
/// The first part that does not start, by name.
pub async fn start(node: &Arc<Node>) -> anyhow::Result<()> {
    let (config, host, process) = (&node.config, &node.host, &node.process);
    if config.container_runtime_endpoint.is_none() {
        host::link_cni_programs(host)?;
        host::share_netns_dir(&host.open_ledger()?)?;
        let registries = Registries::read(&config.private_registry)?;
        let containerd = Containerd { credentials: registries.credentials(), ..host.containerd(config) };
        answer_pulls(node, &registries, &containerd).await?;
        let supervisor = containerd.start(process.shutdown.clone()).await?;
        process.tasks.spawn(async move {
            if let Err(error) = supervisor.await {
                tracing::error!(%error, "containerd supervision failed");
            }
        });
    }
    let endpoint = host.runtime_endpoint(config);
    let runtime: Arc<dyn Runtime> = Arc::new(knarr_cri::Containerd::new(&endpoint.display().to_string())?);
    let answers = async {
        wait_for_runtime(&*runtime).await?;
        runtime.ensure_pause_image().await.context("pause image")
    };
    tokio::select! {
        ready = answers => ready?,
        // Told to stop meanwhile, which ends the runtime: it will never answer.
        () = process.shutdown.cancelled() => return Ok(()),
    };
    process.spawn(
        "image folder",
        crate::image::watch_folder(host.images.clone(), runtime.clone(), process.shutdown.clone()),
    );
    let network = node.clone();
    process.spawn("network", async move { run_network(&network).await });
    let mut kubelet = kubelet_config(node)?;
    kubelet.isolation = network_policies(node).await?;
    let client = node.clients.kubelet.clone();
    process.spawn("kubelet", knarr_kubelet::run(kubelet, client, runtime, process.shutdown.clone()));
    if let Some(client) = node.clients.addons.clone() {
        let role = knarr_addons::server_node::run(node.node_name.clone(), client, process.shutdown.clone());
        process.spawn("node role", role);
    }
    Ok(())
}

/// Tells containerd where to pull from. Registries that are listed as mirrors are answered from this node's own
/// archives first.
async fn answer_pulls(node: &Node, registries: &Registries, containerd: &Containerd) -> anyhow::Result<()> {
    let local = if registries.mirrors.is_empty() {
        None
    } else {
        let images = knarr_cri::Containerd::new(&containerd.socket().display().to_string())?.local_images();
        let address = knarr_agent::local_registry::serve(images, node.process.shutdown.clone()).await;
        Some(format!("http://{}", address.context("local registry")?))
    };
    Ok(registries.write_hosts(&containerd.hosts_dir(), local.as_deref())?)
}

/// The socket opens before the CRI service behind it is ready.
pub async fn wait_for_runtime(runtime: &dyn Runtime) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + RUNTIME_LIMIT;
    loop {
        match runtime.status().await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(error).context("container runtime is not ready");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn kubelet_arguments(kubelet: &mut knarr_kubelet::KubeletConfig, config: &Config) -> anyhow::Result<()> {
    knarr_kubelet::arguments::apply(kubelet, &config.kubelet_arg)
        .map_err(|detail| anyhow::anyhow!("--kubelet-arg: {detail}"))
}

fn kubelet_config(node: &Node) -> anyhow::Result<knarr_kubelet::KubeletConfig> {
    let (config, host) = (&node.config, &node.host);
    let ledger = host.open_ledger()?;
    let log_dir = PathBuf::from(LOG_DIR);
    host::own_tree(&ledger, &log_dir)?;
    let mut kubelet = knarr_kubelet::KubeletConfig {
        node_ips: vec![node.node_ip],
        root_dir: host.kubelet.clone(),
        log_dir,
        cluster_dns: vec![config.dns_address().to_string()],
        cluster_domain: config.cluster_domain.clone(),
        serving_tls: Some(node.serving_tls.clone()),
        kubelet_version: crate::VERSION.to_string(),
        ..knarr_kubelet::KubeletConfig::new(&node.node_name)
    };
    kubelet_arguments(&mut kubelet, config)?;
    Ok(kubelet)
}

/// The gate that network policies put in front of pods.
struct Gate(knarr_policy::Gate);

#[async_trait::async_trait]
impl Isolation for Gate {
    async fn isolate(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Result<(), String> {
        self.0.pass(pod, addresses).await.map_err(|e| e.to_string())
    }

    fn release(&self, uid: &str) {
        self.0.release(uid);
    }
}

/// Starts what enforces network policies; without them, takes back what an earlier run with them left.
async fn network_policies(node: &Node) -> anyhow::Result<Option<Arc<dyn Isolation>>> {
    let config = knarr_policy::PolicyConfig {
        node_name: node.node_name.clone(),
        bridge: BRIDGE.to_string(),
        ports: format!("{}*", knarr_plugin::PORT_PREFIX),
        ledger: node.host.ledger.clone(),
    };
    if node.config.is_disabled("network-policy") {
        knarr_policy::remove(&config, &RealKernel).await?;
        return Ok(None);
    }
    let policies = knarr_policy::NetworkPolicies::new(config);
    let gate = Gate(policies.gate());
    let (client, shutdown) = (node.clients.policies.clone(), node.process.shutdown.clone());
    node.process.spawn("network policies", policies.run(client, shutdown));
    Ok(Some(Arc::new(gate)))
}

/// Waits for the node's range of pod addresses, then puts bridge, CNI configuration, DNS and proxy in place.
async fn run_network(node: &Arc<Node>) -> anyhow::Result<()> {
    let (config, host) = (&node.config, &node.host);
    let pod_cidr = tokio::select! {
        () = node.process.shutdown.cancelled() => return Ok(()),
        cidr = pod_cidr(node.clients.kubelet.clone(), &node.node_name) => cidr?,
    };
    let overlay = OverlayConfig {
        backend: config.flannel_backend.clone(),
        node_name: node.node_name.clone(),
        node_ip: node.node_ip,
        pod_cidrs: vec![pod_cidr],
        cluster_cidrs: vec![config.cluster_cidr],
        ledger: host.ledger.clone(),
    };
    let mtu = knarr_overlay::mtu(&overlay, &RealKernel).await.context("network backend")?;
    let conflist = Conflist {
        pod_cidr,
        cluster_cidr: config.cluster_cidr,
        service_cidr: Some(config.service_cidr),
        bridge: BRIDGE.to_string(),
        mtu: Some(mtu),
        state_dir: host.ipam.clone(),
        ledger: host.ledger.clone(),
    };
    knarr_plugin::node::ensure(&RealKernel, &conflist).await.context("node network")?;
    let path = host.cni_conf.join(CONFLIST);
    knarr_pki::file::write_atomic(&path, knarr_plugin::conflist(&conflist).as_bytes(), 0o600)?;
    tracing::info!(%pod_cidr, "pod network is up");
    let (kept, shutdown) = (conflist.clone(), node.process.shutdown.clone());
    node.process.spawn("pod network", async move {
        knarr_plugin::node::keep(&RealKernel, &kept, shutdown).await;
        anyhow::Ok(())
    });
    let clients =
        knarr_overlay::Clients { node: node.clients.kubelet.clone(), watch: node.clients.proxy.clone() };
    let kernel: Arc<dyn Kernel> = Arc::new(RealKernel);
    node.process
        .spawn("overlay", knarr_overlay::run(overlay, clients, kernel, node.process.shutdown.clone()));
    if !config.is_disabled("proxy") {
        let proxy = knarr_proxy::ProxyConfig {
            node_name: node.node_name.clone(),
            cluster_cidrs: vec![config.cluster_cidr],
            node_port_addresses: Vec::new(),
            ledger: host.ledger.clone(),
        };
        let client = node.clients.proxy.clone();
        node.process.spawn("proxy", knarr_proxy::run(proxy, client, node.process.shutdown.clone()));
    }
    if !config.is_disabled("dns") {
        start_dns(node, &conflist).await?;
    }
    Ok(())
}

/// Puts the cluster-DNS address on the bridge, answers on it, and keeps the Service that names it.
async fn start_dns(node: &Arc<Node>, conflist: &Conflist) -> anyhow::Result<()> {
    let address = node.config.dns_address();
    knarr_plugin::node::bind_cluster_dns(&RealKernel, conflist, address)
        .await
        .context("cluster DNS address")?;
    let dns = knarr_dns::DnsConfig {
        listen: vec![SocketAddr::new(address, DNS_PORT)],
        cluster_domain: node.config.cluster_domain.clone(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let client = node.clients.dns.clone();
    node.process.spawn("dns", knarr_dns::run(dns, client, node.process.shutdown.clone()));
    let Some(client) = node.clients.addons.clone() else { return Ok(()) };
    let service = knarr_addons::dns_service::DnsServiceConfig { addresses: vec![address] };
    node.process
        .spawn("dns service", knarr_addons::dns_service::run(service, client, node.process.shutdown.clone()));
    Ok(())
}

/// The node's `spec.podCIDR`, as soon as it has one.
async fn pod_cidr(client: kube::Client, node: &str) -> anyhow::Result<IpNetwork> {
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = Box::pin(watcher(Api::<NodeObject>::all(client), only));
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                if let Some(cidr) = node.spec.and_then(|s| s.pod_cidr) {
                    return cidr.parse().with_context(|| format!("node's podCIDR {cidr:?}"));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "watch of this node failed, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    anyhow::bail!("the watch of node {node} ended")
}
