//! The gate in front of a node's pods. Entry point: [`Gate::pass`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::Error;
use crate::feed::Shared;

/// How long a pod waits for its rules before its start counts as failed (and is tried again).
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the kubelet asks before it starts containers of a pod. May be cloned.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

impl Gate {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits until the policies that select the pod are in force for it; at once if there are none. `addresses` are
    /// the pod's, which the API need not know yet.
    ///
    /// # Errors
    /// [`Error::Late`] after 30 seconds.
    pub async fn pass(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let mut waiting_for = "the list of policies";
        let isolated = async {
            self.shared.policies_known().await;
            if !self.shared.has_policies() {
                return;
            }
            waiting_for = "the list of pods and namespaces";
            self.shared.all_known().await;
            waiting_for = "the pod's rules";
            if let Some(generation) = self.shared.early(pod, addresses) {
                self.shared.in_force(generation).await;
            }
        };
        let late = tokio::time::timeout(PATIENCE, isolated).await;
        late.map_err(|_| Error::Late { seconds: PATIENCE.as_secs(), waiting_for })
    }
}
