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

    /// Waits until the policies that select the pod are in force for it; not if there are none. `addresses` are the
    /// pod's, which the API need not know yet. They count until [`release`](Self::release).
    ///
    /// # Errors
    /// [`Error::Late`] after 30 seconds.
    pub async fn pass(&self, pod: &Pod, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let isolated = async {
            self.shared.policies_known().await;
            if let Some(generation) = self.shared.admit(pod, addresses) {
                self.shared.in_force(generation).await;
            }
        };
        let late = tokio::time::timeout(PATIENCE, isolated).await;
        late.map_err(|_| Error::Late { seconds: PATIENCE.as_secs(), waiting_for: self.shared.awaits() })
    }

    /// Nothing of the pod with this UID is left: its rules may go. Until then they stay, even if the API says that the
    /// pod has ended or is gone.
    pub fn release(&self, uid: &str) {
        self.shared.release(uid);
    }
}
