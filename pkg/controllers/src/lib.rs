//! The controllers: tasks that bring the cluster to what its objects ask for.
//!
//! Entry point is [`run`]. Each controller is one file with a pure decision and a `reconcile`, listed in
//! [`CONTROLLERS`]. They are ordinary API clients: they read the shared informers and write through a
//! [`kube::Client`] with an identity of their own, which RBAC judges.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod context;
pub mod error;

mod claim;
mod clusterrole_aggregation;
mod cronjob;
mod csr;
mod csr_approving;
mod csr_cleaner;
pub mod csr_signing;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod expectations;
mod garbage_collector;
mod index;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_password;
mod pod_certificate_cleaner;
mod pod_gc;
mod pods;
mod protection;
mod pv_protection;
mod pvc_protection;
mod replicas;
mod replicaset;
mod replicationcontroller;
mod resource_quota;
mod revisions;
mod root_ca;
mod selector;
mod service_account;
mod services;
mod slices;
mod statefulset;
mod taint_eviction;
mod template;
mod token_cleaner;
mod ttl_after_finished;
mod vac_protection;

pub use context::{ClientFor, Config};
pub use error::Error;

use std::sync::Arc;

use context::{Controller, Shared};
use tokio_util::sync::CancellationToken;

/// All controllers, sorted by name.
pub const CONTROLLERS: &[Controller] = &[
    clusterrole_aggregation::CONTROLLER,
    cronjob::CONTROLLER,
    csr_approving::CONTROLLER,
    csr_cleaner::CONTROLLER,
    csr_signing::CONTROLLER,
    daemonset::CONTROLLER,
    deployment::CONTROLLER,
    disruption::CONTROLLER,
    endpoints::CONTROLLER,
    endpointslice::CONTROLLER,
    endpointslice_mirroring::CONTROLLER,
    garbage_collector::CONTROLLER,
    job::CONTROLLER,
    namespace::CONTROLLER,
    node_ipam::CONTROLLER,
    node_lifecycle::CONTROLLER,
    node_password::CONTROLLER,
    pod_certificate_cleaner::CONTROLLER,
    pod_gc::CONTROLLER,
    pv_protection::CONTROLLER,
    pvc_protection::CONTROLLER,
    replicaset::CONTROLLER,
    replicationcontroller::CONTROLLER,
    resource_quota::CONTROLLER,
    root_ca::CONTROLLER,
    service_account::CONTROLLER,
    statefulset::CONTROLLER,
    taint_eviction::CONTROLLER,
    token_cleaner::CONTROLLER,
    ttl_after_finished::CONTROLLER,
    vac_protection::CONTROLLER,
];

/// Runs every controller of [`CONTROLLERS`] until `shutdown`.
///
/// `client_for` gives a client with the named user's identity: `system:kube-controller-manager` reads for all,
/// `system:serviceaccount:kube-system:<controller>` writes for one.
///
/// # Errors
/// The first controller that cannot go on ends all of them.
pub async fn run(config: Config, client_for: ClientFor, shutdown: CancellationToken) -> Result<(), Error> {
    let shared = Shared::new(config, client_for, shutdown.clone())?;
    run_with(shared, shutdown).await
}

/// As [`run`], on informers that other components of the process use as well.
///
/// # Errors
/// As [`run`].
pub async fn run_with(shared: Arc<Shared>, shutdown: CancellationToken) -> Result<(), Error> {
    let mut tasks = tokio::task::JoinSet::new();
    for controller in CONTROLLERS {
        let ctx = shared.context(controller);
        tasks.spawn(async move { ((controller.start)(ctx).await, controller.name) });
    }
    let mut failure = None;
    while let Some(joined) = tasks.join_next().await {
        let error = match joined {
            Ok((Ok(()), _)) => continue,
            Ok((Err(error), name)) => {
                tracing::error!(controller = name, %error, "controller ended");
                error
            }
            Err(error) => Error::Config(format!("a controller task died: {error}")),
        };
        failure.get_or_insert(error);
        shutdown.cancel();
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
