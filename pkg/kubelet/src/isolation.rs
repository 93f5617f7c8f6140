//! Pods are isolated before anything runs in them. Entry point: [`Isolation`].

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;

use crate::{observed::Observed, worker::Worker};

/// Who keeps apart what NetworkPolicies forbid.
#[async_trait::async_trait]
pub trait Isolation: Send + Sync {
    /// Comes back when the policies that select the pod are in force for these addresses of its own.
    ///
    /// # Errors
    /// Why they are not; the pod's containers are not started then.
    async fn isolate(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Result<(), String>;
}

impl Worker {
    /// Waits for the pod's isolation; pods on the host's network have none.
    pub(crate) async fn isolate(&self, pod: &Pod, observed: &Observed) -> Result<(), (&'static str, String)> {
        let Some(isolation) = &self.node.config.isolation else { return Ok(()) };
        let Some(sandbox) = observed.sandboxes.first().filter(|s| !s.host_network) else { return Ok(()) };
        let addresses = sandbox.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        isolation.isolate(pod, &addresses).await.map_err(|message| {
            let text = format!("network is not ready: {message}");
            self.node.event(pod, None, "Warning", "NetworkNotReady", &text);
            ("isolating the pod", message)
        })
    }
}
