//! `knarr server`: wires datastore, API server, controllers, scheduler and node, and runs them until a signal.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use knarr_apiserver::ApiServer;
use knarr_config::Config;
use knarr_datastore::Datastore;
use knarr_machinery::UserInfo;
use knarr_pki::{ClusterPki, ServingNames};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host::Host;
use crate::{VERSION, access, node, tls};

/// How long one component may take to end before it is dropped.
const COMPONENT_LIMIT: Duration = Duration::from_secs(3);
/// How long all components may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);

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
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// Every task that must have ended before the process does.
    pub tasks: TaskTracker,
    /// Names of the components that run.
    pub running: parking_lot::Mutex<BTreeSet<&'static str>>,
}

impl Wiring {
    /// A client of this process with a component's identity.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        knarr_client::in_process(self.api.router(), UserInfo::component(user, groups))
    }

    /// Runs a component until it ends; if it fails, the process ends with its error in the log.
    pub fn spawn<E: std::fmt::Display>(
        self: &Arc<Self>,
        name: &'static str,
        component: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let wiring = self.clone();
        self.running.lock().insert(name);
        self.tasks.spawn(async move {
            let overdue = async {
                wiring.shutdown.cancelled().await;
                tokio::time::sleep(COMPONENT_LIMIT).await;
            };
            // Every component must survive a crash at any instant, so it may be dropped when it waits for something.
            let ended = tokio::select! {
                ended = component => ended,
                () = overdue => {
                    tracing::debug!(component = name, "dropped");
                    Ok(())
                }
            };
            if let Err(error) = ended {
                tracing::error!(component = name, error = %format!("{error:#}"), "component failed");
                wiring.shutdown.cancel();
            }
            wiring.running.lock().remove(name);
            tracing::debug!(component = name, "component ended");
        });
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
    let shutdown = CancellationToken::new();
    on_signal(shutdown.clone())?;

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
        api_config(&config, &pki, advertise)?,
        store.clone(),
        access::first_authenticators(),
        shutdown.clone(),
    )
    .await
    .context("start the API server")?;

    let wiring = Arc::new(Wiring {
        config,
        host,
        pki,
        node_name,
        node_ip,
        api,
        shutdown: shutdown.clone(),
        tasks: TaskTracker::new(),
        running: parking_lot::Mutex::default(),
    });
    serve_api(&wiring, listener, advertise)?;
    access::enforce(&wiring).await?;
    write_kubeconfig(&wiring)?;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis() as u64, "API is ready");

    let started = start_components(&wiring).await;
    if started.is_ok() && !shutdown.is_cancelled() {
        notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(
            elapsed_ms = begun.elapsed().as_millis() as u64,
            node = wiring.node_name,
            "knarr is up"
        );
        shutdown.cancelled().await;
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    shutdown.cancel();
    wiring.tasks.close();
    if tokio::time::timeout(STOP_LIMIT, wiring.tasks.wait()).await.is_err() {
        let names = wiring.running.lock().iter().copied().collect::<Vec<_>>().join(", ");
        tracing::warn!(components = names, "did not end in {} s", STOP_LIMIT.as_secs());
    }
    store.close().await;
    started
}

fn api_config(
    config: &Config,
    pki: &ClusterPki,
    advertise: IpAddr,
) -> anyhow::Result<knarr_apiserver::Config> {
    Ok(knarr_apiserver::Config {
        service_cidr: config.service_cidr.to_string(),
        node_ports: config.service_node_port_range,
        cluster_domain: config.cluster_domain.clone(),
        issuer: access::issuer(&config.cluster_domain),
        advertise_address: advertise,
        port: config.https_listen_port,
        kubelet_tls: Some(tls::to_kubelets(pki)?),
        git_version: VERSION.to_string(),
        client_ca_pem: pki.client_ca.cert_pem().to_string(),
        request_header_ca_pem: pki.request_header_ca.cert_pem().to_string(),
    })
}

async fn start_components(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let config = &wiring.config;
    // One watch per kind for controllers and scheduler together; each writes with its own identity.
    let reader = wiring.client(knarr_controllers::context::READER, &[]);
    let informers = knarr_client::Informers::new(reader, wiring.shutdown.clone());
    if !config.is_disabled("controllers") {
        let own = wiring.clone();
        let client_for = Arc::new(move |user: &str| own.client(user, &groups_of(user)));
        let settings = knarr_controllers::Config {
            cluster_cidrs: vec![config.cluster_cidr.to_string()],
            root_ca: wiring.pki.server_ca.cert_pem().to_string(),
            ..knarr_controllers::Config::default()
        };
        let shared = knarr_controllers::context::Shared::with_informers(
            informers.clone(),
            settings,
            client_for,
            wiring.shutdown.clone(),
        )?;
        wiring.spawn("controllers", knarr_controllers::run_with(shared, wiring.shutdown.clone()));
    }
    if !config.is_disabled("metrics") {
        crate::metrics::serve(wiring)?;
    }
    if !config.is_disabled("scheduler") {
        let client = wiring.client("system:kube-scheduler", &[]);
        wiring.spawn("scheduler", knarr_scheduler::run_with(informers, client, wiring.shutdown.clone()));
    }
    if !config.is_disabled("kubelet") {
        node::start(wiring).await?;
    }
    Ok(())
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

fn serve_api(wiring: &Arc<Wiring>, listener: TcpListener, advertise: IpAddr) -> anyhow::Result<()> {
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
    let tls = tls::serving(&wiring.pki, &wiring.pki.serving(&names)?)?;
    let (api, shutdown) = (wiring.api.clone(), wiring.shutdown.clone());
    wiring.spawn("listener", async move { api.serve_tls(listener, tls, shutdown).await });
    Ok(())
}

fn write_kubeconfig(wiring: &Wiring) -> anyhow::Result<()> {
    let config = &wiring.config;
    let admin = wiring.pki.client("admin", "system:admin", &["system:masters"])?;
    let ip = config.bind_address.filter(|a| !a.is_unspecified());
    let server = SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), config.https_listen_port);
    let text =
        knarr_pki::kubeconfig::render(&format!("https://{server}"), wiring.pki.server_ca.cert_pem(), &admin);
    let path = &config.write_kubeconfig;
    knarr_pki::file::write_atomic(path, text.as_bytes(), config.write_kubeconfig_mode)
        .context("--write-kubeconfig")?;
    Ok(())
}

fn on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Tells the service manager, if there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "service manager not notified");
    }
}
