//! Upstream's garbage_collector.go: several owners, owners in a circle.

use serde_json::{Value, json};

use super::garbage_collector::{LIMIT, MANY, controller, count, counted, options};
use crate::Result;
use crate::api::{Patch, array, name_of};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::{PODS, REPLICATION_CONTROLLERS};

tests! {
    "[sig-api-machinery] Garbage collector should not delete dependents that have both valid owner and owner that's waiting for dependents to be deleted [Serial]" => two_owners,
    "[sig-api-machinery] Garbage collector should not be blocked by dependency circle" => circle,
}

async fn two_owners(cx: Context) -> Result<()> {
    let api = cx.api(&REPLICATION_CONTROLLERS);
    let (going, staying) = ("simpletest-rc-to-be-deleted", "simpletest-rc-to-stay");
    let first = api.create(&controller(going, MANY, "gctest-valid-and-pending-owners-d")).await?;
    let second = api.create(&controller(staying, 0, "gctest-valid-and-pending-owners-s")).await?;
    counted(&api, going, MANY).await?;
    let pods = cx.pods().items(&[]).await?;
    let half = MANY as usize / 2;
    let owner = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "name": staying, "uid": second["metadata"]["uid"],
    });
    for pod in &pods[..half] {
        let patch = json!({"metadata": {"ownerReferences": [owner]}});
        let patched = cx.pods().patch(name_of(pod)?, Patch::Strategic(patch)).await?;
        ensure_eq!(array(&patched, "/metadata/ownerReferences").len(), 2, "owners of the pod");
    }
    api.delete_with(going, options(&first, "Foreground")).await?;
    api.wait_gone(going, LIMIT).await?;
    let left = cx.pods().items(&[]).await?;
    ensure_eq!(left.len(), half, "pods that have an owner left");
    for pod in &left {
        anyhow::ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "{} is deleted", name_of(pod)?);
        let owners = array(pod, "/metadata/ownerReferences");
        let only = owners.len() == 1 && owners[0]["uid"] == second["metadata"]["uid"];
        anyhow::ensure!(only, "the owners of {} are {owners:?}", name_of(pod)?);
    }
    api.get(staying).await.map(|_| ())
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "nginx", "image": PAUSE}]},
    })
}

async fn circle(cx: Context) -> Result<()> {
    let mut pods = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        pods.push(cx.pods().create(&pod(name)).await?);
    }
    for (index, owned) in pods.iter().enumerate() {
        let owner = &pods[(index + 2) % 3];
        let reference = json!({
            "apiVersion": "v1", "kind": "Pod", "name": name_of(owner)?, "uid": owner["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        });
        let patch = json!({"metadata": {"ownerReferences": [reference]}});
        let patched = cx.pods().patch(name_of(owned)?, Patch::Strategic(patch)).await?;
        ensure_eq!(array(&patched, "/metadata/ownerReferences").len(), 1, "owners of {}", name_of(owned)?);
    }
    cx.pods().delete_with("pod1", options(&pods[0], "Foreground")).await?;
    count(&cx, &PODS, 0).await.map(|_| ())
}
