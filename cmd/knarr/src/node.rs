//! The node half of the server: container runtime, images, network, proxy, DNS and kubelet.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use knarr_cri::Runtime;
use knarr_netlink::RealKernel;
use knarr_plugin::Conflist;
use kube::Api;
use kube::runtime::watcher;

use crate::host;
use crate::server::Wiring;

/// How long the runtime may take from its socket to its first answer.
const RUNTIME_LIMIT: Duration = Duration::from_secs(30);
/// Where the kubelet keeps the containers' logs, as log collectors expect.
const LOG_DIR: &str = "/var/log/pods";
/// Port of the cluster DNS.
const DNS_PORT: u16 = 53;
/// Name of the configuration file for the runtime.
const CONFLIST: &str = "10-knarr.conflist";

/// Starts everything a node needs.
///
/// # Errors
/// The first part that does not start, by name.
pub async fn start(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let (config, host) = (&wiring.config, &wiring.host);
    if config.container_runtime_endpoint.is_none() {
        host::link_cni_programs(host)?;
        host::share_netns_dir(&host.open_ledger()?)?;
        let supervisor = host.containerd(config).start(wiring.shutdown.clone()).await?;
        wiring.tasks.spawn(async move {
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
        () = wiring.shutdown.cancelled() => return Ok(()),
    };
    wiring.spawn(
        "image folder",
        crate::image::watch_folder(host.images.clone(), runtime.clone(), wiring.shutdown.clone()),
    );
    let network = wiring.clone();
    wiring.spawn("network", async move { run_network(&network).await });
    let client = node_client(wiring);
    let kubelet = kubelet_config(wiring)?;
    wiring.spawn("kubelet", knarr_kubelet::run(kubelet, client, runtime, wiring.shutdown.clone()));
    Ok(())
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

fn node_client(wiring: &Wiring) -> kube::Client {
    wiring.client(&format!("system:node:{}", wiring.node_name), &["system:nodes"])
}

fn kubelet_config(wiring: &Wiring) -> anyhow::Result<knarr_kubelet::KubeletConfig> {
    let (config, host) = (&wiring.config, &wiring.host);
    let ledger = host.open_ledger()?;
    let log_dir = PathBuf::from(LOG_DIR);
    host::own_tree(&ledger, &log_dir)?;
    let serving = wiring.pki.kubelet_serving(&host.agent_tls, &wiring.node_name, vec![wiring.node_ip])?;
    let tls = crate::tls::kubelet_serving(&wiring.pki, &serving)?;
    Ok(knarr_kubelet::KubeletConfig {
        node_ips: vec![wiring.node_ip],
        root_dir: host.kubelet.clone(),
        log_dir,
        cluster_dns: vec![config.dns_address().to_string()],
        cluster_domain: config.cluster_domain.clone(),
        serving_tls: Some(Arc::new(move || tls.clone())),
        kubelet_version: crate::VERSION.to_string(),
        ..knarr_kubelet::KubeletConfig::new(&wiring.node_name)
    })
}

/// Waits for the node's range of pod addresses, then puts bridge, CNI configuration, DNS and proxy in place.
async fn run_network(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let (config, host) = (&wiring.config, &wiring.host);
    let pod_cidr = tokio::select! {
        () = wiring.shutdown.cancelled() => return Ok(()),
        cidr = pod_cidr(node_client(wiring), &wiring.node_name) => cidr?,
    };
    let conflist = Conflist {
        pod_cidr,
        cluster_cidr: config.cluster_cidr,
        service_cidr: Some(config.service_cidr),
        bridge: "knarr0".to_string(),
        mtu: None,
        state_dir: host.ipam.clone(),
        ledger: host.ledger.clone(),
    };
    knarr_plugin::node::ensure(&RealKernel, &conflist).await.context("node network")?;
    let path = host.cni_conf.join(CONFLIST);
    knarr_pki::file::write_atomic(&path, knarr_plugin::conflist(&conflist).as_bytes(), 0o600)?;
    tracing::info!(%pod_cidr, "pod network is up");
    let (kept, shutdown) = (conflist.clone(), wiring.shutdown.clone());
    wiring.spawn("pod network", async move {
        knarr_plugin::node::keep(&RealKernel, &kept, shutdown).await;
        anyhow::Ok(())
    });
    if !config.is_disabled("proxy") {
        let proxy = knarr_proxy::ProxyConfig {
            node_name: wiring.node_name.clone(),
            cluster_cidrs: vec![config.cluster_cidr],
            node_port_addresses: Vec::new(),
            ledger: host.ledger.clone(),
        };
        let client = wiring.client("system:kube-proxy", &[]);
        wiring.spawn("proxy", knarr_proxy::run(proxy, client, wiring.shutdown.clone()));
    }
    if !config.is_disabled("dns") {
        start_dns(wiring, &conflist).await?;
    }
    Ok(())
}

/// Puts the cluster-DNS address on the bridge, answers on it, and keeps the Service that names it.
async fn start_dns(wiring: &Arc<Wiring>, conflist: &Conflist) -> anyhow::Result<()> {
    let address = wiring.config.dns_address();
    knarr_plugin::node::bind_cluster_dns(&RealKernel, conflist, address)
        .await
        .context("cluster DNS address")?;
    let dns = knarr_dns::DnsConfig {
        listen: vec![SocketAddr::new(address, DNS_PORT)],
        cluster_domain: wiring.config.cluster_domain.clone(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
    };
    let client = wiring.client(knarr_addons::roles::DNS_USER, &[]);
    wiring.spawn("dns", knarr_dns::run(dns, client, wiring.shutdown.clone()));
    let service = knarr_addons::dns_service::DnsServiceConfig { addresses: vec![address] };
    let client = wiring.client(knarr_addons::roles::ADDONS_USER, &[]);
    wiring.spawn("dns service", knarr_addons::dns_service::run(service, client, wiring.shutdown.clone()));
    Ok(())
}

/// The node's `spec.podCIDR`, as soon as it has one.
async fn pod_cidr(client: kube::Client, node: &str) -> anyhow::Result<IpNetwork> {
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = Box::pin(watcher(Api::<Node>::all(client), only));
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
