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
use std::time::Duration;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::Informers;
use knarr_netlink::keep::{Changes, Pace};
use knarr_netlink::nft::Family;
use knarr_netlink::{Kernel, Ledger, RealKernel, tables};
use tokio_util::sync::CancellationToken;

pub use model::{AffinitySeconds, Endpoint, Reach, ServicePort, services};
pub use plan::TABLE;
pub use plan::{Tables, plan};
pub use sync::Synchronizer;

/// Changes that come within this time go into one transaction.
const GATHER: Duration = Duration::from_millis(20);

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
    let changes = Arc::new(Changes::default());
    let wake = changes.clone();
    service_store.on_event(move |_| wake.wake());
    let wake = changes.clone();
    slice_store.on_event(move |_| wake.wake());
    let synced = async {
        service_store.synced().await;
        slice_store.synced().await;
    };
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return Ok(());
    }
    let mut synchronizer = Synchronizer::new(cfg.clone(), kernel.clone(), Ledger::open(&cfg.ledger)?);
    let deleted = tables::watch(&changes, &*kernel, Family::Ip, TABLE, &shutdown);
    let kept = async {
        let mut pace = Pace::new(GATHER, "service rules not applied");
        loop {
            if changes.take_lost() {
                synchronizer.forget();
            }
            pace.begin();
            let wanted = services(&service_store.list(), &slice_store.list(), &cfg.node_name);
            let outcome = synchronizer.apply(wanted).await;
            if !pace.wait(outcome, &changes, &shutdown).await {
                return;
            }
        }
    };
    tokio::join!(kept, deleted);
    Ok(())
}
