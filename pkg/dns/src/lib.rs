//! Cluster DNS: answers for services, endpoints and pods from the API, everything else from the node's resolvers.
//!
//! Entry point: [`run`]. [`Index`] is what is known of the API objects, kept up to date event by event; [`answer`]
//! is the pure decision on one question; [`server`] speaks UDP and TCP; [`upstream`] forwards verbatim.
//! Names follow the DNS specification of Kubernetes, version 1.1.0, with the time to live and the negative
//! answers that CoreDNS gives by default.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod answer;
mod index;
mod server;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Event, Informers};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

pub use answer::{Answer, Outcome, answer};
pub use index::Index;
pub use server::{Listeners, bind};
pub use upstream::{Upstream, nameservers};

/// Settings of the DNS server.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Addresses to listen on, UDP and TCP. They must be local (see `knarr_plugin::node::bind_cluster_dns`).
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, usually "cluster.local".
    pub cluster_domain: String,
    /// Where the node's resolvers are read from, usually "/etc/resolv.conf".
    pub resolv_conf: PathBuf,
}

/// What makes the DNS server stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("cluster DNS: listen on {address} ({transport}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// "UDP" or "TCP".
        transport: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster domain is not a domain name.
    #[error("cluster DNS: cluster domain {0:?} is not a domain name")]
    Domain(String),
}

/// Serves until shutdown.
pub async fn run(cfg: DnsConfig, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = Informers::new(client, shutdown.clone());
    run_with(cfg, &informers, shutdown).await
}

/// As [`run`], on shared informers. Listens at once; until the API objects are known, names of the cluster
/// are answered with a server failure, so that nobody takes "not yet" for "no such name".
pub async fn run_with(
    cfg: DnsConfig,
    informers: &Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let index = Arc::new(RwLock::new(
        Index::new(&cfg.cluster_domain).ok_or(Error::Domain(cfg.cluster_domain.clone()))?,
    ));
    let listeners = bind(&cfg.listen).await?;
    index.write().dns_addresses = cfg.listen.iter().map(SocketAddr::ip).collect();
    watch(&index, informers);
    let (services, slices, namespaces) =
        (informers.of::<Service>(), informers.of::<EndpointSlice>(), informers.of::<Namespace>());
    let ready = index.clone();
    let known = async move {
        services.synced().await;
        slices.synced().await;
        namespaces.synced().await;
        ready.write().complete = true;
        std::future::pending::<()>().await;
    };
    let upstream = Upstream::new(cfg.resolv_conf, cfg.listen.iter().map(SocketAddr::ip).collect());
    let serving = server::serve(listeners, index, Arc::new(upstream), shutdown.clone());
    tokio::select! {
        () = known => {}
        () = serving => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

fn watch(index: &Arc<RwLock<Index>>, informers: &Informers) {
    let to = index.clone();
    informers.of::<Service>().on_event(move |e| match e {
        Event::Applied { new, .. } => to.write().put_service(new),
        Event::Deleted(old) => to.write().remove_service(old),
    });
    let to = index.clone();
    informers.of::<EndpointSlice>().on_event(move |e| match e {
        Event::Applied { new, .. } => to.write().put_slice(new),
        Event::Deleted(old) => to.write().remove_slice(old),
    });
    let to = index.clone();
    informers.of::<Namespace>().on_event(move |e| match e {
        Event::Applied { new, .. } => to.write().put_namespace(new),
        Event::Deleted(old) => to.write().remove_namespace(old),
    });
}
