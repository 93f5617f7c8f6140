//! The service proxy: Services and EndpointSlices in, one nftables table per address family out.
//!
//! Entry point: [`run`]. [`services`] reads the API objects, [`plan`] is the pure decision what the table
//! should be, and only the difference to what the kernel has is sent, in one transaction. A table found at start
//! is adopted. Nobody else's rules are read or touched. Services that name another proxy with the label
//! `service.kubernetes.io/service-proxy-name` are left alone; the cluster DNS Service is one of them, because
//! every node answers on its address itself.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod conntrack;
mod model;
mod plan;
mod sync;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Informers, Store};
use knarr_netlink::nft::Family;
use knarr_netlink::{Kernel, Ledger, Netns, RealKernel};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use model::{AffinitySeconds, Endpoint, Reach, ServicePort, services};
pub use plan::TABLE;
pub use plan::{Tables, plan};
pub use sync::Synchronizer;

/// Changes that come within this time go into one transaction.
const GATHER: Duration = Duration::from_millis(20);
/// Waiting time after a failed transaction, doubled up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Settings of the proxy.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Name of this node, to tell its own endpoints from others'.
    pub node_name: String,
    /// Ranges of pod addresses: what comes from elsewhere to a cluster IP is masqueraded.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// Local addresses that node ports listen on; all but loopback when empty.
    pub node_port_addresses: Vec<IpNetwork>,
    /// The host ledger.
    pub ledger: PathBuf,
}

/// What makes the proxy stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger or the kernel failed at start.
    #[error("service proxy: {0}")]
    Kernel(#[from] knarr_netlink::Error),
}

/// Keeps the kernel's tables as the API objects want them, until shutdown. Failures are logged and retried.
pub async fn run(cfg: ProxyConfig, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = Informers::new(client, shutdown.clone());
    run_with(cfg, &informers, Arc::new(RealKernel), shutdown).await
}

/// As [`run`], on shared informers and the given kernel.
pub async fn run_with(
    cfg: ProxyConfig,
    informers: &Informers,
    kernel: Arc<dyn Kernel>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let service_store = informers.of::<Service>();
    let slice_store = informers.of::<EndpointSlice>();
    let changed = Arc::new(Changes::default());
    let wake = changed.clone();
    service_store.on_event(move |_| wake.notify.notify_one());
    let wake = changed.clone();
    slice_store.on_event(move |_| wake.notify.notify_one());
    let synced = async {
        service_store.synced().await;
        slice_store.synced().await;
    };
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return Ok(());
    }
    let deleted = tokio::spawn(watch_tables(kernel.clone(), changed.clone(), shutdown.clone()));
    let mut synchronizer = Synchronizer::new(cfg.clone(), kernel, Ledger::open(&cfg.ledger)?);
    let ended = keep(&mut synchronizer, &cfg, &service_store, &slice_store, &changed, &shutdown).await;
    deleted.abort();
    ended
}

/// Wakes the proxy when somebody deletes its table (`nft flush ruleset`, a firewall that reloads).
async fn watch_tables(kernel: Arc<dyn Kernel>, lost: Arc<Changes>, shutdown: CancellationToken) {
    loop {
        let gone = kernel.nft_table_deleted(&Netns::Host, Family::Ip, TABLE);
        match shutdown.run_until_cancelled(gone).await {
            None => return,
            Some(Ok(())) => {
                tracing::warn!(table = TABLE, "somebody deleted the service rules; putting them back");
                lost.table_lost.store(true, Ordering::Release);
                lost.notify.notify_one();
            }
            Some(Err(e)) => tracing::warn!(error = %e, "a deletion of the service rules would go unnoticed"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_FIRST)).await.is_none() {
            return;
        }
    }
}

/// What wakes the proxy.
#[derive(Default)]
struct Changes {
    notify: Notify,
    table_lost: AtomicBool,
}

async fn keep(
    synchronizer: &mut Synchronizer,
    cfg: &ProxyConfig,
    service_store: &Store<Service>,
    slice_store: &Store<EndpointSlice>,
    changed: &Changes,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut retry = RETRY_FIRST;
    loop {
        if changed.table_lost.swap(false, Ordering::AcqRel) {
            synchronizer.forget();
        }
        let wanted = services(&service_store.list(), &slice_store.list(), &cfg.node_name);
        let again = match synchronizer.apply(wanted).await {
            Ok(()) => {
                retry = RETRY_FIRST;
                None
            }
            Err(e) => {
                tracing::warn!(error = %e, retry_seconds = retry.as_secs_f32(), "service rules not applied");
                let wait = retry;
                retry = (retry * 2).min(RETRY_MOST);
                Some(wait)
            }
        };
        let next = async {
            match again {
                Some(wait) => drop(tokio::time::timeout(wait, changed.notify.notified()).await),
                None => changed.notify.notified().await,
            }
            tokio::time::sleep(GATHER).await;
        };
        if shutdown.run_until_cancelled(next).await.is_none() {
            return Ok(());
        }
    }
}
