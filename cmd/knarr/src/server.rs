//! `knarr server`: wires datastore, API server, controllers, scheduler and node, and runs them until a signal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use knarr_apiserver::ApiServer;
use knarr_auth::JoinTokens;
use knarr_config::Config;
use knarr_datastore::Datastore;
use knarr_machinery::UserInfo;
use knarr_pki::{ClusterPki, ServingNames};
use tokio::net::TcpListener;

use crate::host::Host;
use crate::node::{self, Clients, Node};
use crate::process::Process;
use crate::{VERSION, access, joining, renewal, tls};

/// What the parts of the process share.
pub struct Wiring {
    /// Settings.
    pub config: Config,
    /// Paths.
    pub host: Host,
    /// Certificates.
    pub pki: ClusterPki,
    /// Node name.
    pub node_name: String,
    /// Node address.
    pub node_ip: IpAddr,
    /// The API.
    pub api: ApiServer,
    /// The tasks.
    pub process: Arc<Process>,
}

impl Wiring {
    /// A client of this process with a component's identity.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        knarr_client::in_process(self.api.router(), UserInfo::component(user, groups))
    }

    /// Runs a component until it ends; if it fails, the process ends with its error in the log.
    pub fn spawn<E: std::fmt::Display>(
        &self,
        name: &'static str,
        component: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.process.spawn(name, component);
    }
}

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// The first thing that cannot be set up, with its name.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let begun = Instant::now();
    let host = Host::new(&config);
    let _lock = host.lock()?;
    node::check(&config)?;
    let process = Process::start()?;
    let shutdown = process.shutdown.clone();
    let node_name = match &config.node_name {
        Some(name) => name.clone(),
        None => knarr_agent::node::host_name()?,
    };
    let node_ip = match config.node_ip {
        Some(ip) => ip,
        None => knarr_agent::node::address()?,
    };
    let pki = ClusterPki::load_or_create(&host.tls)?;
    let listener = listen(&config).await?;
    let store = Datastore::open(&config.datastore()).await.context("open datastore")?;
    let advertise = config.advertise_address.unwrap_or(node_ip);
    let api = ApiServer::build(
        api_config(&config, &pki, advertise, &process)?,
        store.clone(),
        access::first_authenticators(),
        shutdown.clone(),
    )
    .await
    .context("start the API server")?;

    let wiring = Arc::new(Wiring { config, host, pki, node_name, node_ip, api, process: process.clone() });
    let join = joining::tokens(&wiring)?;
    access::enforce(&wiring, join.clone()).await?;
    if !wiring.config.is_disabled("kubelet") {
        joining::claim_own(&wiring, &join).await?;
    }
    // Clients that come earlier wait in the listener's queue: nobody is told 401 or 403 by a server that is starting.
    serve_api(&wiring, listener, advertise, join)?;
    keep_kubeconfig(&wiring)?;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis() as u64, "API is ready");

    let started = start_components(&wiring).await;
    if started.is_ok() && !shutdown.is_cancelled() {
        tracing::info!(
            elapsed_ms = begun.elapsed().as_millis() as u64,
            node = wiring.node_name,
            "knarr is up"
        );
        process.serve().await;
    }
    process.stop().await;
    store.close().await;
    started
}

fn api_config(
    config: &Config,
    pki: &ClusterPki,
    advertise: IpAddr,
    process: &Arc<Process>,
) -> anyhow::Result<knarr_apiserver::Config> {
    let own = pki.clone();
    let to_kubelets = renewal::keep(
        process,
        "client certificate for kubelets",
        Box::new(move || own.client("kube-apiserver", "system:apiserver", &["system:masters"])),
        Box::new(|_| Ok(())),
    )?;
    let own = pki.clone();
    let front_proxy = renewal::keep(
        process,
        "client certificate for aggregated APIs",
        Box::new(move || own.auth_proxy()),
        Box::new(|_| Ok(())),
    )?;
    Ok(knarr_apiserver::Config {
        proxy_client: Some(front_proxy),
        service_cidr: config.service_cidr.to_string(),
        node_ports: config.service_node_port_range,
        cluster_domain: config.cluster_domain.clone(),
        issuer: access::issuer(&config.cluster_domain),
        advertise_address: advertise,
        port: config.https_listen_port,
        kubelet_tls: Some(tls::to_kubelets(pki, to_kubelets)?),
        git_version: VERSION.to_string(),
        client_ca_pem: pki.client_ca.cert_pem().to_string(),
        request_header_ca_pem: pki.request_header_ca.cert_pem().to_string(),
    })
}

async fn start_components(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let config = &wiring.config;
    // One watch per kind for controllers and scheduler together; each writes with its own identity.
    let reader = wiring.client(knarr_controllers::context::READER, &[]);
    let informers = knarr_client::Informers::new(reader, wiring.process.shutdown.clone());
    if !config.is_disabled("controllers") {
        let own = wiring.clone();
        let client_for = Arc::new(move |user: &str| own.client(user, &groups_of(user)));
        let settings = knarr_controllers::Config {
            cluster_cidrs: vec![config.cluster_cidr.to_string()],
            authorities: Some(Arc::new(knarr_controllers::csr_signing::Authorities {
                client: wiring.pki.client_ca.clone(),
                server: wiring.pki.server_ca.clone(),
            })),
            root_ca: wiring.pki.server_ca.cert_pem().to_string(),
            ..knarr_controllers::Config::default()
        };
        let shared = knarr_controllers::context::Shared::with_informers(
            informers.clone(),
            settings,
            client_for,
            wiring.process.shutdown.clone(),
        )?;
        wiring.spawn("controllers", knarr_controllers::run_with(shared, wiring.process.shutdown.clone()));
    }
    if !config.is_disabled("metrics") {
        crate::metrics::serve(wiring)?;
    }
    if !config.is_disabled("scheduler") {
        let client = wiring.client("system:kube-scheduler", &[]);
        wiring.spawn(
            "scheduler",
            knarr_scheduler::run_with(informers, client, wiring.process.shutdown.clone()),
        );
    }
    if !config.is_disabled("kubelet") {
        node::start(&Arc::new(own_node(wiring)?)).await?;
    }
    Ok(())
}

/// The server's own node: its clients are function calls.
fn own_node(wiring: &Arc<Wiring>) -> anyhow::Result<Node> {
    let (pki, dir) = (wiring.pki.clone(), wiring.host.agent_tls.clone());
    let (name, ip) = (wiring.node_name.clone(), wiring.node_ip);
    let current = renewal::keep(
        &wiring.process,
        "kubelet certificate",
        Box::new(move || pki.kubelet_serving(&dir, &name, vec![ip])),
        Box::new(|_| Ok(())),
    )?;
    let tls = tls::kubelet_serving(wiring.pki.client_ca.cert_pem(), current)?;
    Ok(Node {
        process: wiring.process.clone(),
        config: wiring.config.clone(),
        host: wiring.host.clone(),
        node_name: wiring.node_name.clone(),
        node_ip: wiring.node_ip,
        clients: Clients {
            kubelet: wiring.client(&format!("system:node:{}", wiring.node_name), &["system:nodes"]),
            proxy: wiring.client(knarr_addons::join_roles::PROXY_USER, &[]),
            dns: wiring.client(knarr_addons::roles::DNS_USER, &[]),
            policies: wiring.client(knarr_addons::roles::POLICY_USER, &[]),
            addons: Some(wiring.client(knarr_addons::roles::ADDONS_USER, &[])),
        },
        serving_tls: Arc::new(move || tls.clone()),
    })
}

/// The groups that a service account's token would carry; none for other users.
fn groups_of(user: &str) -> Vec<&str> {
    match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some(("kube-system", _)) => vec!["system:serviceaccounts", "system:serviceaccounts:kube-system"],
        Some(_) => vec!["system:serviceaccounts"],
        None => Vec::new(),
    }
}

async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let ip = config.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let address = SocketAddr::new(ip, config.https_listen_port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} (--bind-address, --https-listen-port)"))
}

fn serve_api(
    wiring: &Arc<Wiring>,
    listener: TcpListener,
    advertise: IpAddr,
    join: Arc<JoinTokens>,
) -> anyhow::Result<()> {
    let config = &wiring.config;
    let (mut dns, mut ips) = (vec![wiring.node_name.clone()], vec![wiring.node_ip, advertise]);
    ips.push(config.kubernetes_address());
    ips.extend(config.bind_address.filter(|a| !a.is_unspecified()));
    for name in &config.tls_san {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(name.clone()),
        }
    }
    let names = ServingNames { dns, ips, cluster_domain: config.cluster_domain.clone() };
    let pki = wiring.pki.clone();
    let current = renewal::keep(
        &wiring.process,
        "serving certificate",
        Box::new(move || pki.serving(&names)),
        Box::new(|_| Ok(())),
    )?;
    let tls = tls::serving(&wiring.pki, current)?;
    let router = joining::router(wiring, join);
    let (api, shutdown) = (wiring.api.clone(), wiring.process.shutdown.clone());
    wiring.spawn("listener", async move { api.serve_router(listener, tls, router, shutdown).await });
    Ok(())
}

/// The admin kubeconfig, written again whenever its certificate is renewed.
fn keep_kubeconfig(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let config = wiring.config.clone();
    let ip = config.bind_address.filter(|a| !a.is_unspecified());
    let server = SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), config.https_listen_port);
    let (pki, ca) = (wiring.pki.clone(), wiring.pki.server_ca.cert_pem().to_string());
    let write = move |admin: &knarr_pki::CertKey| {
        let text = knarr_pki::kubeconfig::render(&format!("https://{server}"), &ca, admin);
        knarr_pki::file::write_atomic(&config.write_kubeconfig, text.as_bytes(), config.write_kubeconfig_mode)
            .context("--write-kubeconfig")
    };
    renewal::keep(
        &wiring.process,
        "admin kubeconfig",
        Box::new(move || pki.client("admin", "system:admin", &["system:masters"])),
        Box::new(write),
    )?;
    Ok(())
}
