//! The role of a server's node, which `kubectl get nodes` shows as `control-plane`. Entry point: [`run`].
//!
//! Labels of this prefix are not a kubelet's to set (the NodeRestriction admission plugin), so the server does it.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// The label of nodes that run a control plane.
pub const LABEL: &str = "node-role.kubernetes.io/control-plane";
const RETRY: Duration = Duration::from_secs(1);

/// Labels the node when it is first seen, and whenever it was registered anew. Who takes the label away is heard until the
/// next start.
pub async fn run(node: String, client: Client, shutdown: CancellationToken) -> Result<(), kube::Error> {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut changes = std::pin::pin!(watcher(api.clone(), only));
    let mut done = None;
    loop {
        let event = match shutdown.run_until_cancelled(changes.next()).await {
            None | Some(None) => return Ok(()),
            Some(Some(event)) => event,
        };
        let object = match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => object,
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "watch of the server's node");
                if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                    return Ok(());
                }
                continue;
            }
        };
        if object.uid() == done {
            continue;
        }
        while !object.labels().contains_key(LABEL) {
            let patch = json!({"metadata": {"labels": {LABEL: "true"}}});
            match api.patch(&node, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => break,
                // Gone: when it registers again, that is an event of its own.
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => {
                    tracing::warn!(%error, "the server's node has no role yet");
                    if shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
        done = object.uid();
    }
}
