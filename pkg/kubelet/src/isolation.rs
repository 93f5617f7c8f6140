//! Pods are isolated before anything runs in them and until nothing of them is left. Entry point: [`Isolation`].

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;

use crate::{observed::Observed, worker::Worker};

/// Who keeps apart what NetworkPolicies forbid.
#[async_trait::async_trait]
pub trait Isolation: Send + Sync {
    /// Comes back when the policies that select the pod are in force for these addresses of its own. They stay so,
    /// and follow the policies, until [`release`](Self::release).
    ///
    /// # Errors
    /// Why they are not; the pod's containers are not started then.
    async fn isolate(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Result<(), String>;

    /// Nothing of the pod with this UID is left.
    fn release(&self, uid: &str);
}

impl Worker {
    /// Waits for the pod's isolation; pods on the host's network have none.
    pub(crate) async fn isolate(
        &mut self,
        pod: &Pod,
        observed: &Observed,
    ) -> Result<(), (&'static str, String)> {
        let Some(isolation) = self.node.config.isolation.clone() else { return Ok(()) };
        let Some(sandbox) = observed.sandboxes.first().filter(|s| !s.host_network) else { return Ok(()) };
        let outcome = match sandbox.ips.iter().map(|ip| ip.parse()).collect::<Result<BTreeSet<IpAddr>, _>>() {
            Ok(addresses) if !addresses.is_empty() => isolation.isolate(pod, &addresses).await,
            _ => Err(format!("the runtime tells no address of the pod's: {:?}", sandbox.ips)),
        };
        self.isolated = outcome.is_ok();
        outcome.map_err(|message| {
            let text = format!("network is not ready: {message}");
            self.node.event(pod, None, "Warning", "NetworkNotReady", &text);
            ("isolating the pod", message)
        })
    }

    /// The pod's isolation may go.
    pub(crate) fn release(&mut self) {
        self.isolated = false;
        if let Some(isolation) = &self.node.config.isolation {
            isolation.release(&self.uid);
        }
    }
}
