//! PodTopologyLabels: a pod learns the zone and region of the node that it is bound to.

use async_trait::async_trait;
use knarr_machinery::{ApiError, meta};

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub(crate) struct PodTopologyLabels {
    api: Api,
}

impl PodTopologyLabels {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        // The write of a binding puts these labels on the pod.
        if request.subresource != Some("binding") || !request.is("", "pods") {
            return Ok(());
        }
        let node = request.new_object()["target"]["name"].as_str().unwrap_or_default().to_string();
        let Some(node) = self.api.get(&format!("/api/v1/nodes/{node}")).await? else { return Ok(()) };
        if let Some(binding) = request.object.as_mut() {
            for key in LABELS {
                if let Some(value) = meta::label(&node, key) {
                    meta::set_label(binding, key, value);
                }
            }
        }
        Ok(())
    }
}
