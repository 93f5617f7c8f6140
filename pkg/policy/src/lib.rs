//! Network policies: NetworkPolicies, Pods and Namespaces in, one nftables table per address family out.
//!
//! Entry points: [`NetworkPolicies::run`], which keeps the rules of this node's pods, and [`Gate`], where the kubelet asks before it
//! starts a pod's containers, so that a pod is isolated from its first instant. [`model`] is what counts of the API
//! objects, [`plan`] the pure decision what the table should be. Before there is a policy in the cluster, pods and
//! namespaces are not watched; where none selects a pod, no table is there.
//!
//! Semantics: <https://kubernetes.io/docs/concepts/services-networking/network-policies/>. Pods on the host's
//! network are neither isolated nor selected as peers. What is not allowed is dropped without an answer.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod feed;
mod gate;
pub mod model;
mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knarr_client::Informers;
use knarr_netlink::keep::Pace;
use knarr_netlink::nft::{Family, Table};
use knarr_netlink::tables::Tables;
use knarr_netlink::{ErrorKind, Kernel, Ledger, RealKernel, tables};
use tokio_util::sync::CancellationToken;

use feed::Shared;
pub use gate::Gate;
pub use plan::{TABLE, plan};

/// Changes that come within this time go into one transaction.
const GATHER: Duration = Duration::from_millis(20);

/// Settings.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// Name of this node: its pods are isolated here, others' where they run.
    pub node_name: String,
    /// The bridge of this node's pods.
    pub bridge: String,
    /// The names of its ports, with `*` at the end.
    pub ports: String,
    /// The host ledger.
    pub ledger: PathBuf,
}

/// What keeps policies from being applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger or the kernel failed at start.
    #[error("network policies: {0}")]
    Kernel(#[from] knarr_netlink::Error),
    /// A pod's rules were not in place in time.
    #[error("network policies are not in force after {seconds} s: {waiting_for}")]
    Late {
        /// How long was waited.
        seconds: u64,
        /// What for.
        waiting_for: &'static str,
    },
}

/// What one node's policies need: the keeper of the rules and the gate in front of its pods.
pub struct NetworkPolicies {
    cfg: PolicyConfig,
    shared: Arc<Shared>,
}

impl NetworkPolicies {
    /// Nothing is known and nothing touched yet.
    pub fn new(cfg: PolicyConfig) -> Self {
        Self { shared: Shared::new(&cfg.node_name), cfg }
    }

    /// The gate in front of this node's pods.
    pub fn gate(&self) -> Gate {
        Gate::new(self.shared.clone())
    }

    /// Keeps the kernel's tables as the API objects want them, until shutdown. Failures are logged and retried.
    ///
    /// # Errors
    /// The ledger cannot be opened.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
        let informers = Informers::new(client, shutdown.clone());
        self.run_with(&informers, Arc::new(RealKernel), shutdown).await
    }

    /// As [`run`](Self::run), on the given informers and kernel.
    ///
    /// # Errors
    /// The ledger cannot be opened.
    pub async fn run_with(
        self,
        informers: &Informers,
        kernel: Arc<dyn Kernel>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        let mut own = Own {
            tables: Tables::new(TABLE, kernel.clone(), Ledger::open(&self.cfg.ledger)?),
            guarded: true,
        };
        informers.feed(shared.policies());
        if shutdown.run_until_cancelled(shared.policies_known()).await.is_none() {
            return Ok(());
        }
        let watch = |family| tables::watch(&shared.changes, &*kernel, family, TABLE, &shutdown);
        let deleted = async { tokio::join!(watch(Family::Ip), watch(Family::Ip6), watch(Family::Bridge)) };
        let kept = async {
            let (mut pace, mut fed) = (Pace::new(GATHER, "network policies not applied"), false);
            loop {
                if !fed && shared.has_policies() {
                    fed = true;
                    informers.feed(shared.pods());
                    informers.feed(shared.namespaces());
                    if shutdown.run_until_cancelled(shared.all_known()).await.is_none() {
                        return;
                    }
                }
                if shared.changes.take_lost() {
                    own.tables.forget();
                }
                pace.begin();
                let outcome = own.apply(shared, &self.cfg).await;
                if !pace.wait(outcome, &shared.changes, &shutdown).await {
                    return;
                }
            }
        };
        tokio::join!(kept, deleted);
        Ok(())
    }
}

/// This node's tables.
struct Own {
    tables: Tables,
    /// Whether the kernel filters bridges, as far as that is known.
    guarded: bool,
}

impl Own {
    async fn apply(&mut self, shared: &Shared, cfg: &PolicyConfig) -> knarr_netlink::Result<()> {
        let (generation, wanted) = shared.decide(|cluster| plan(cluster, cfg));
        for family in [Family::Ip, Family::Ip6] {
            self.tables.apply(family, wanted.get(&family)).await?;
        }
        if self.guarded {
            self.guard(wanted.get(&Family::Bridge)).await?;
        }
        shared.applied(generation);
        Ok(())
    }

    /// Not every kernel filters bridges. Rules hold without, but for pods that make frames of their own.
    async fn guard(&mut self, wanted: Option<&Table>) -> knarr_netlink::Result<()> {
        match self.tables.apply(Family::Bridge, wanted).await {
            Err(error) if error.kind == ErrorKind::Unsupported => {
                tracing::warn!(%error, "a pod may evade network policies by frames to pods of the same node");
                self.guarded = false;
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }
}

/// Deletes what an earlier run with policies left, for a node that runs without.
///
/// # Errors
/// The ledger or the kernel failed.
pub async fn remove(cfg: &PolicyConfig, kernel: &dyn Kernel) -> Result<(), Error> {
    Ok(tables::remove(kernel, &Ledger::open(&cfg.ledger)?, TABLE).await?)
}
