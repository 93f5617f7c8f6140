//! Keeping the kernel as the plan wants it. Entry points: [`run`], [`run_with`], [`mtu`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node as ApiNode;
use knarr_client::{Informers, Recorder, Store};
use knarr_netlink::keep::{Changes, Pace, RETRY_FIRST};
use knarr_netlink::{Kernel, Ledger, Netns, NetworkInterest};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backends::vxlan::DEVICE;
use crate::{Backend, Error, Here, Node, Problem, annotations, backend, plan, present};

/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// The least MTU that IPv6 allows; IPv4 could do with less, but nobody's network has less.
const LEAST_MTU: u32 = 1280;
/// Field manager and event source.
const COMPONENT: &str = "knarr-overlay";

/// Settings of the overlay.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// Name of the backend, one of [`BACKENDS`](crate::BACKENDS); `vxlan` unless the user wants another.
    pub backend: String,
    /// Name of this node.
    pub node_name: String,
    /// Address that other nodes reach this one at; a link of this host has it.
    pub node_ip: IpAddr,
    /// This node's ranges of pod addresses (`spec.podCIDRs`).
    pub pod_cidrs: Vec<IpNetwork>,
    /// All nodes' ranges of pod addresses: routes into them are watched.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The host ledger.
    pub ledger: PathBuf,
}

/// Whom the overlay asks and tells.
pub struct Clients {
    /// The node's own identity (`system:node:<name>`), to annotate its Node and to record events.
    pub node: kube::Client,
    /// An identity that may list and watch all Nodes, which the node's own may not: that of the service proxy
    /// (`system:kube-proxy`) will do.
    pub watch: kube::Client,
}

/// The MTU that pods and their bridge must have, so that their packets fit through the overlay.
///
/// # Errors
/// The backend is not known, no link has the node's address, or the link's MTU is too small.
pub async fn mtu(cfg: &OverlayConfig, kernel: &dyn Kernel) -> Result<u32, Error> {
    let overhead = backend(&cfg.backend)?.overhead(cfg.node_ip);
    let underlay = present::underlay(kernel, cfg.node_ip).await?;
    match underlay.mtu.checked_sub(overhead) {
        Some(mtu) if mtu >= LEAST_MTU => Ok(mtu),
        _ => Err(Error::SmallMtu { link: underlay.link, mtu: underlay.mtu }),
    }
}

/// Keeps this node joined to all others until shutdown. Failures are logged and retried; unreachable peers become
/// events on this node's Node.
///
/// # Errors
/// The backend is not known, or the ledger cannot be read.
pub async fn run(
    cfg: OverlayConfig,
    clients: Clients,
    kernel: Arc<dyn Kernel>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let informers = Informers::new(clients.watch, shutdown.clone());
    run_with(cfg, clients.node, &informers, kernel, shutdown).await
}

/// As [`run`], on shared informers.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    cfg: OverlayConfig,
    node: kube::Client,
    informers: &Informers,
    kernel: Arc<dyn Kernel>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let nodes = informers.of::<ApiNode>();
    let changes = Arc::new(Changes::default());
    let wake = changes.clone();
    nodes.on_event(move |_| wake.wake());
    if shutdown.run_until_cancelled(nodes.synced()).await.is_none() {
        return Ok(());
    }
    let mut overlay = Overlay {
        backend: backend(&cfg.backend)?,
        ledger: Ledger::open(&cfg.ledger)?,
        recorder: Recorder::new(node.clone(), COMPONENT, &cfg.node_name),
        node,
        kernel,
        nodes,
        watch: None,
        last: None,
        told: Vec::new(),
        cfg,
    };
    let mut pace = Pace::new(GATHER, "overlay not as it should be");
    loop {
        let outcome = overlay.round(&changes, &shutdown).await;
        if outcome.is_err() {
            // Whatever was done before the failure must be looked at again.
            changes.doubt();
        }
        if !pace.wait(outcome, &changes, &shutdown).await {
            return Ok(());
        }
    }
}

/// Why a round was not all it should have been.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Overlay(#[from] Error),
    #[error(transparent)]
    Kernel(#[from] knarr_netlink::Error),
    #[error("annotate node {node}: {error}")]
    Annotate { node: String, error: kube::Error },
}

struct Overlay {
    cfg: OverlayConfig,
    backend: &'static dyn Backend,
    ledger: Ledger,
    node: kube::Client,
    recorder: Recorder,
    kernel: Arc<dyn Kernel>,
    nodes: Arc<Store<ApiNode>>,
    /// Links that are watched, and the task that does.
    watch: Option<(Vec<String>, AbortOnDropHandle<()>)>,
    /// The peers that the kernel was brought up to date with.
    last: Option<Vec<Node>>,
    /// Problems that have been told.
    told: Vec<Problem>,
}

impl Overlay {
    /// Looks at everything once and mends what differs.
    async fn round(
        &mut self,
        changes: &Arc<Changes>,
        shutdown: &CancellationToken,
    ) -> Result<(), RoundError> {
        let kernel_changed = changes.take_lost();
        let peers = self.peers();
        let me = Node {
            name: self.cfg.node_name.clone(),
            backend: self.backend.name().to_owned(),
            address: self.cfg.node_ip,
            pod_cidrs: self.cfg.pod_cidrs.clone(),
            vtep: self.backend.vtep(&self.cfg.pod_cidrs),
        };
        if kernel_changed || self.last.as_ref() != Some(&peers) {
            self.last = None;
            let underlay = present::underlay(&*self.kernel, self.cfg.node_ip).await?;
            self.watch(&underlay.link, changes, shutdown);
            let plan = plan(self.backend, &Here { node: me.clone(), underlay }, &peers);
            present::converge(&*self.kernel, &self.ledger, &plan).await?;
            self.tell(plan.problems);
            self.last = Some(peers);
        }
        self.publish(&me).await
    }

    fn peers(&self) -> Vec<Node> {
        let others = self.nodes.list();
        let mut peers: Vec<Node> = others
            .iter()
            .filter(|n| n.metadata.name.as_ref() != Some(&self.cfg.node_name))
            .filter_map(|n| annotations::read(n))
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    /// Watches the tunnel and the link that it goes through.
    fn watch(&mut self, underlay: &str, changes: &Arc<Changes>, shutdown: &CancellationToken) {
        let links = vec![DEVICE.to_owned(), underlay.to_owned()];
        if self.watch.as_ref().is_some_and(|(now, _)| *now == links) {
            return;
        }
        let interest = NetworkInterest { links: links.clone(), destinations: self.cfg.cluster_cidrs.clone() };
        let task = watch(self.kernel.clone(), interest, changes.clone(), shutdown.clone());
        self.watch = Some((links, AbortOnDropHandle::new(tokio::spawn(task))));
    }

    /// Says what is new among the problems, in the log and as events.
    fn tell(&mut self, problems: Vec<Problem>) {
        let own = self.nodes.get("", &self.cfg.node_name);
        for problem in problems.iter().filter(|p| !self.told.contains(p)) {
            tracing::error!(%problem, "a node's pods cannot be reached");
            if let Some(own) = &own {
                self.recorder.about(&**own, "Warning", "OverlayPeerUnreachable", &problem.to_string());
            }
        }
        self.told = problems;
    }

    /// Writes this node's annotations when they differ.
    async fn publish(&self, me: &Node) -> Result<(), RoundError> {
        let Some(own) = self.nodes.get("", &me.name) else { return Ok(()) };
        let assigned = annotations::pod_cidrs(&own);
        if !assigned.is_empty() && assigned != me.pod_cidrs {
            tracing::error!(
                ?assigned, in_use = ?me.pod_cidrs,
                "this node was given another range of pod addresses than its pods have: restart knarr on it"
            );
        }
        let Some(patch) = annotations::patch(me, &own) else { return Ok(()) };
        let api = Api::<ApiNode>::all(self.node.clone());
        let params = PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() };
        match api.patch(&me.name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            // Deleted meanwhile: when it comes again we are told.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(RoundError::Annotate { node: me.name.clone(), error }),
        }
    }
}

async fn watch(
    kernel: Arc<dyn Kernel>,
    interest: NetworkInterest,
    changes: Arc<Changes>,
    shutdown: CancellationToken,
) {
    let changed = || changes.lose();
    loop {
        let watching = kernel.watch_network(&Netns::Host, &interest, &changed);
        match shutdown.run_until_cancelled(watching).await {
            None => return,
            Some(Err(error)) => tracing::warn!(%error, "changes of links and routes would go unnoticed"),
            Some(Ok(never)) => match never {},
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_FIRST)).await.is_none() {
            return;
        }
    }
}
