//! `knarr agent`: joins a cluster and runs a node. It never opens a datastore.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::HeaderMap;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_addons::join_roles::PROXY_USER;
use knarr_addons::roles::{DNS_USER, POLICY_USER};
use knarr_agent::balancer::Balancer;
use knarr_agent::certificates::{self, Kept, Wanted};
use knarr_agent::join::{self, Joining, Membership};
use knarr_agent::remote::{self, Remote};
use knarr_agent::tunnel::{self, Tunnel};
use knarr_config::Config;
use knarr_pki::Token;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::host::Host;
use crate::node::{self, Clients, Node};
use crate::process::Process;
use crate::tls;

/// How long the first join goes on trying a server that does not answer.
const REACH_LIMIT: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(1);

/// What the parts of an agent share.
struct Agent {
    process: Arc<Process>,
    config: Config,
    host: Host,
    node_name: String,
    node_ip: IpAddr,
    membership: Membership,
    /// `127.0.0.1:<port>` of the load balancer.
    local: String,
}

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
/// The first thing that cannot be set up, with its name.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let begun = Instant::now();
    let host = Host::new(&config);
    let _lock = host.lock()?;
    node::check(&config)?;
    let process = Process::start()?;
    let node_name = match &config.node_name {
        Some(name) => name.clone(),
        None => knarr_agent::node::host_name()?,
    };
    let node_ip = match config.node_ip {
        Some(ip) => ip,
        None => knarr_agent::node::address()?,
    };
    let kept = host.data_dir.join("agent/membership.json");
    let joining = joining(&config, &node_name)?;
    anyhow::ensure!(
        config.server.is_some(),
        "--server (KNARR_URL) is missing: which server is to be joined?"
    );
    let first = Kept::new(&host.agent_tls, Wanted::kubelet_client(&node_name));
    let before = Membership::load(&kept)?;
    let usable = before.clone().filter(|_| matches!(first.load(), Ok(Some(_))));
    let membership = member(joining.as_ref(), usable, &process).await?;
    if before.is_some_and(|b| b.config.client_ca_pem != membership.config.client_ca_pem) {
        tracing::warn!("the cluster is another than before: its certificates are asked for anew");
        forget_certificates(&host)?;
    }
    membership.store(&kept)?;
    let config = shared(config, &membership)?;

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.lb_server_port));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} (--lb-server-port)"))?;
    let local = listener.local_addr()?.to_string();
    let given = config.server.as_deref().and_then(|s| s.strip_prefix("https://")).unwrap_or_default();
    let balancer = Balancer::new(given, membership.servers.clone());
    let serving = balancer.clone().serve(listener, process.shutdown.clone());
    process.spawn("load balancer", async move {
        serving.await;
        anyhow::Ok(())
    });
    let agent = Agent { process: process.clone(), config, host, node_name, node_ip, membership, local };
    let started = start(agent, joining, first, balancer, kept).await;
    if started.is_ok() {
        tracing::info!(elapsed_ms = begun.elapsed().as_millis() as u64, "knarr agent is up");
        process.serve().await;
    }
    process.stop().await;
    started
}

/// Certificates of another cluster are of no use in this one.
fn forget_certificates(host: &Host) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(&host.agent_tls) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", host.agent_tls.display()))
        }
        _ => Ok(()),
    }
}

fn joining(config: &Config, node_name: &str) -> anyhow::Result<Option<Joining>> {
    let Some(text) = &config.token else { return Ok(None) };
    let server = config.server.clone().unwrap_or_default();
    let token = Token::parse(text).map_err(|e| anyhow::anyhow!("--token (KNARR_TOKEN): {e}"))?;
    Ok(Some(Joining {
        server,
        token,
        node_name: node_name.to_string(),
        password_file: config.node_password_file(),
        machine_id: join::machine_id(),
    }))
}

/// Joins; an agent that was a member before goes on with what it knows while no server answers.
async fn member(
    joining: Option<&Joining>,
    known: Option<Membership>,
    process: &Process,
) -> anyhow::Result<Membership> {
    let Some(joining) = joining else {
        return known.context("--token (KNARR_TOKEN) is missing: it is needed to join");
    };
    let deadline = Instant::now() + REACH_LIMIT;
    let mut told = false;
    loop {
        let error = match join::join(joining).await {
            Ok(membership) => return Ok(membership),
            Err(error) => error,
        };
        let unreachable = matches!(error, knarr_agent::Error::Server { .. });
        match known {
            Some(known) if unreachable => {
                tracing::warn!(%error, "going on with what an earlier start knew");
                return Ok(known);
            }
            None if unreachable && Instant::now() < deadline => {}
            _ => return Err(anyhow::Error::new(error).context("join")),
        }
        if !told {
            tracing::warn!(%error, "trying for {} s", REACH_LIMIT.as_secs());
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = process.shutdown.cancelled() => anyhow::bail!("stopped before the agent had joined: {error}"),
        }
    }
}

/// The agent's settings with those that the cluster shares.
fn shared(mut config: Config, membership: &Membership) -> anyhow::Result<Config> {
    let told = &membership.config;
    let bad = |what: &str| format!("{what} as the server tells it");
    config.cluster_cidr = told.cluster_cidr.parse().with_context(|| bad("cluster-cidr"))?;
    config.service_cidr = told.service_cidr.parse().with_context(|| bad("service-cidr"))?;
    config.cluster_dns = Some(told.cluster_dns.parse().with_context(|| bad("cluster-dns"))?);
    config.cluster_domain.clone_from(&told.cluster_domain);
    config.flannel_backend.clone_from(&told.flannel_backend);
    config.disable.clone_from(&told.disable);
    Ok(config)
}

async fn start(
    agent: Agent,
    joining: Option<Joining>,
    first: Kept,
    balancer: Arc<Balancer>,
    membership_file: PathBuf,
) -> anyhow::Result<()> {
    let agent = Arc::new(agent);
    let (client, tls) = node_identity(&agent, joining.as_ref(), &first).await?;
    let component =
        |name: &'static str, user: &'static str| component(agent.clone(), client.clone(), name, user);
    let (proxy, dns, policies) = tokio::try_join!(
        component("kube-proxy", PROXY_USER),
        component("dns", DNS_USER),
        component("network-policy", POLICY_USER)
    )?;
    let servers = follow_servers(&agent, &balancer, proxy.clone(), membership_file);
    let allow = follow_addresses(&agent, client.clone());
    let shutdown = agent.process.shutdown.clone();
    agent.process.spawn("tunnel", async move {
        tunnel::keep(Tunnel { tls, allow }, servers, shutdown).await;
        anyhow::Ok(())
    });
    let serving_tls = serving(&agent, client.clone())?;
    let node = Arc::new(Node {
        process: agent.process.clone(),
        config: agent.config.clone(),
        host: agent.host.clone(),
        node_name: agent.node_name.clone(),
        node_ip: agent.node_ip,
        clients: Clients { kubelet: client, proxy, dns, policies, addons: None },
        serving_tls,
    });
    node::start(&node).await
}

/// The node's certificate, its client, and TLS that shows it.
async fn node_identity(
    agent: &Arc<Agent>,
    joining: Option<&Joining>,
    kept: &Kept,
) -> anyhow::Result<(Client, rustls::ClientConfig)> {
    let ca = &agent.membership.ca_pem;
    let pair = match kept.load()? {
        Some(pair) => pair,
        None => {
            let joining =
                joining.context("--token (KNARR_TOKEN) is missing: the node's certificate has expired")?;
            let remote = Remote::new(&agent.local, remote::tls(ca, None)?, join::headers(joining)?)?;
            kept.load_or_obtain(&remote.client()).await?
        }
    };
    write_kubeconfig(agent)?;
    let tls = remote::tls(ca, Some(kept.current.clone()))?;
    let remote = Remote::new(&agent.local, tls.clone(), HeaderMap::new())?;
    let client = remote.client();
    renew(agent, "node certificate", kept.clone(), pair, client.clone(), move || remote.reconnect());
    Ok((client, tls))
}

/// A kubeconfig with the node's identity, for `knarr status --node` on this machine.
fn write_kubeconfig(agent: &Agent) -> anyhow::Result<()> {
    let dir = &agent.host.agent_tls;
    let ca = dir.join("server-ca.crt");
    knarr_pki::file::write_atomic(&ca, agent.membership.ca_pem.as_bytes(), 0o644)?;
    let text = knarr_pki::kubeconfig::render_files(
        &format!("https://{}", agent.local),
        &ca,
        &dir.join("client-kubelet.crt"),
        &dir.join("client-kubelet.key"),
    );
    let path = agent.host.data_dir.join("agent/kubelet.kubeconfig");
    Ok(knarr_pki::file::write_atomic(&path, text.as_bytes(), 0o600)?)
}

fn renew(
    agent: &Arc<Agent>,
    name: &'static str,
    kept: Kept,
    pair: knarr_pki::CertKey,
    client: Client,
    changed: impl Fn() + Send + 'static,
) {
    let shutdown = agent.process.shutdown.clone();
    agent.process.spawn(name, async move {
        certificates::keep(kept, pair, client, changed, shutdown).await;
        anyhow::Ok(())
    });
}

/// A client with the identity of another part of the node.
async fn component(
    agent: Arc<Agent>,
    node: Client,
    name: &'static str,
    user: &'static str,
) -> anyhow::Result<Client> {
    let kept = Kept::new(&agent.host.agent_tls, Wanted::component(name, user));
    let pair = kept.load_or_obtain(&node).await?;
    let tls = remote::tls(&agent.membership.ca_pem, Some(kept.current.clone()))?;
    let remote = Remote::new(&agent.local, tls, HeaderMap::new())?;
    let client = remote.client();
    renew(&agent, name, kept, pair, node, move || remote.reconnect());
    Ok(client)
}

/// Keeps the list of servers: from the endpoints of the `kubernetes` service, into balancer, tunnels and file.
fn follow_servers(
    agent: &Arc<Agent>,
    balancer: &Arc<Balancer>,
    client: Client,
    file: PathBuf,
) -> watch::Receiver<Vec<String>> {
    let mut servers = agent.membership.servers.clone();
    if servers.is_empty() {
        let given = agent.config.server.as_deref().and_then(|s| s.strip_prefix("https://"));
        servers.extend(given.map(str::to_string));
    }
    let (sender, receiver) = watch::channel(servers);
    let (agent, balancer) = (agent.clone(), balancer.clone());
    let process = agent.process.clone();
    process.spawn("servers", async move {
        let api: Api<EndpointSlice> = Api::namespaced(client, "default");
        let only = watcher::Config::default().labels("kubernetes.io/service-name=kubernetes");
        let mut events = Box::pin(watcher(api, only));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = agent.process.shutdown.cancelled() => return anyhow::Ok(()),
            };
            match event {
                Some(Ok(watcher::Event::Apply(slice) | watcher::Event::InitApply(slice)))
                    if slice.metadata.name.as_deref() == Some("kubernetes") =>
                {
                    let found = addresses(&slice);
                    if balancer.set(found.clone()) {
                        tracing::info!(servers = ?found, "API servers");
                        sender.send_replace(found.clone());
                        Membership { servers: found, ..agent.membership.clone() }.store(&file)?;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "watch of the API servers, trying again");
                    tokio::time::sleep(AGAIN).await;
                }
                None => anyhow::bail!("the watch of the API servers ended"),
            }
        }
    });
    receiver
}

fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let port = slice.ports.iter().flatten().find_map(|p| p.port).unwrap_or(6443);
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    let mut out: Vec<String> = ready
        .flat_map(|e| e.addresses.iter())
        .map(|a| if a.contains(':') { format!("[{a}]:{port}") } else { format!("{a}:{port}") })
        .collect();
    out.sort();
    out
}

/// What servers may reach through the tunnel: this node's own address and those of its pods.
fn follow_addresses(agent: &Arc<Agent>, client: Client) -> tunnel::Allow {
    let pods: Arc<parking_lot::RwLock<Vec<ipnetwork::IpNetwork>>> = Arc::default();
    let (known, node, own) = (pods.clone(), agent.node_name.clone(), agent.node_ip);
    let process = agent.process.clone();
    process.clone().spawn("pod addresses", async move {
        let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
        let mut events = Box::pin(watcher(Api::<NodeObject>::all(client), only));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = process.shutdown.cancelled() => return anyhow::Ok(()),
            };
            match event {
                Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                    let cidrs = node.spec.and_then(|s| s.pod_cidrs).unwrap_or_default();
                    *known.write() = cidrs.iter().filter_map(|c| c.parse().ok()).collect();
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => tokio::time::sleep(AGAIN).await,
                None => anyhow::bail!("the watch of this node ended"),
            }
        }
    });
    Arc::new(move |ip| ip == own || pods.read().iter().any(|net| net.contains(ip)))
}

/// TLS of the kubelet's endpoint. Its certificate is asked for as soon as the node has registered its addresses.
fn serving(agent: &Arc<Agent>, client: Client) -> anyhow::Result<knarr_kubelet::ServingTls> {
    let wanted =
        Wanted::kubelet_serving(&agent.node_name, vec![agent.node_name.clone()], vec![agent.node_ip]);
    let kept = Kept::new(&agent.host.agent_tls, wanted);
    let agent = agent.clone();
    let config = tls::kubelet_serving(&agent.membership.config.client_ca_pem, kept.current.clone())?;
    let process = agent.process.clone();
    process.spawn("kubelet certificate", async move {
        let shutdown = agent.process.shutdown.clone();
        let pair = loop {
            match kept.load_or_obtain(&client).await {
                Ok(pair) => break pair,
                Err(error) => tracing::warn!(%error, "the kubelet has no certificate yet, trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = shutdown.cancelled() => return anyhow::Ok(()),
            }
        };
        certificates::keep(kept, pair, client, || {}, shutdown).await;
        Ok(())
    });
    Ok(Arc::new(move || config.clone()))
}
