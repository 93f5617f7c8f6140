//! Upstream: `test/e2e/node/node_lifecycle.go`.

use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::kinds::NODES;

tests! {
    "[sig-node] Node Lifecycle should run through the lifecycle of a node" => node,
}

async fn node(c: Context) -> Result<()> {
    let (api, name) = (c.api(&NODES), c.unique("e2e-fake-node"));
    let condition = json!({
        "type": "Ready", "status": "Unknown", "reason": "E2E", "message": "Set by an e2e test",
    });
    let body = json!({
        "metadata": {"name": name},
        "status": {
            "phase": "Running",
            "conditions": [condition],
            "allocatable": {"cpu": "0", "memory": "0"},
        },
    });
    let made = c.create(&NODES, &body).await?;
    ensure_eq!(text(&made, "/metadata/name"), name, "name of the created node");
    let seen = api.get(&name).await?;
    ensure_eq!(seen["metadata"]["uid"], made["metadata"]["uid"], "uid of the node read");
    let key = name.as_str();
    let patched = api.patch(key, Patch::Strategic(json!({"metadata": {"labels": {key: "patched"}}}))).await?;
    ensure_eq!(patched["metadata"]["labels"][key], json!("patched"), "label after the patch");
    let listed = api.labelled(&format!("{key}=patched")).await?;
    ensure_eq!(listed.len(), 1, "nodes with the patched label");
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "updated"}}});
    let patched = api.patch(&format!("{key}/status"), Patch::Strategic(patch)).await?;
    ensure_eq!(
        patched["metadata"]["annotations"]["patchedstatus"],
        json!("updated"),
        "annotation by the status patch"
    );
    let updated = api.modify(key, |o| o["metadata"]["labels"][key] = json!("updated")).await?;
    ensure_eq!(updated["metadata"]["labels"][key], json!("updated"), "label after the update");
    // Nobody's kubelet: the object must still be there after a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure_eq!(
        api.get(key).await?["metadata"]["uid"],
        made["metadata"]["uid"],
        "uid of the node after a while"
    );
    api.delete(key).await?;
    api.wait_gone(key, Duration::from_secs(60)).await?;
    crate::rest::refused(api.get(key).await, 404, "reading the deleted node").map(|_| ())
}
