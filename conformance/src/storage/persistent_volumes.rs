//! Upstream: `test/e2e/storage/persistent_volumes.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Patch, condition, text};
use crate::context::Context;
use crate::kinds::{CLAIMS, VOLUMES};
use crate::rest::refused;

tests! {
    "[sig-storage] PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC" => whole,
    "[sig-storage] PersistentVolumes CSI Conformance should apply changes to a pv/pvc status" => status,
}

const LIMIT: Duration = Duration::from_secs(120);

fn volume(name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"e2e-pv-pool": label}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "2Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": label,
            "csi": {"driver": "e2e-driver.example.com", "volumeHandle": name},
        },
    })
}

fn claim(name: &str, label: &str) -> Value {
    // Another class than the volume's: they are not to be bound.
    json!({
        "metadata": {"name": name, "labels": {"e2e-pv-pool": label}},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": format!("{label}-other"),
        },
    })
}

async fn remove(api: &Api, name: &str) -> Result<()> {
    api.delete(name).await?;
    api.wait_gone(name, LIMIT).await?;
    refused(api.get(name).await, 404, "reading what was deleted").map(|_| ())
}

async fn whole(c: Context) -> Result<()> {
    let (pvs, pvcs, label) = (c.api(&VOLUMES), c.api(&CLAIMS), c.unique("pool"));
    let selector = format!("e2e-pv-pool={label}");
    let query = [("labelSelector", selector.as_str())];
    let (pv, pvc) = (c.unique("pv"), c.unique("pvc"));
    c.create(&VOLUMES, &volume(&pv, &label)).await?;
    pvcs.create(&claim(&pvc, &label)).await?;
    ensure_eq!(pvs.items(&query).await?.len(), 1, "volumes with the label");
    ensure_eq!(pvcs.items(&query).await?.len(), 1, "claims with the label");
    for (api, name) in [(&pvs, &pv), (&pvcs, &pvc)] {
        let key = name.as_str();
        let patched =
            api.patch(key, Patch::Strategic(json!({"metadata": {"labels": {key: "patched"}}}))).await?;
        ensure_eq!(patched["metadata"]["labels"][key], json!("patched"), "label after the patch");
        let seen = api.get(key).await?;
        ensure_eq!(seen["metadata"]["uid"], patched["metadata"]["uid"], "uid of the object read");
        ensure_eq!(seen["metadata"]["labels"][key], json!("patched"), "label read back");
    }
    remove(&pvcs, &pvc).await?;
    remove(&pvs, &pv).await?;
    let (pv, pvc) = (c.unique("pv"), c.unique("pvc"));
    c.create(&VOLUMES, &volume(&pv, &label)).await?;
    pvcs.create(&claim(&pvc, &label)).await?;
    for (api, name) in [(&pvs, &pv), (&pvcs, &pvc)] {
        let key = name.as_str();
        let updated = api.modify(key, |o| o["metadata"]["labels"][key] = json!("updated")).await?;
        ensure_eq!(updated["metadata"]["labels"][key], json!("updated"), "label after the update");
    }
    ensure_eq!(c.api_all(&CLAIMS).items(&query).await?.len(), 1, "claims over all namespaces");
    let selector = format!("{pvc}=updated");
    pvcs.delete_collection(&[("labelSelector", &selector)]).await?;
    pvcs.wait_gone(&pvc, LIMIT).await?;
    let selector = format!("{pv}=updated");
    pvs.delete_collection(&[("labelSelector", &selector)]).await?;
    pvs.wait_gone(&pv, LIMIT).await
}

async fn status(c: Context) -> Result<()> {
    let (pvs, pvcs, label) = (c.api(&VOLUMES), c.api(&CLAIMS), c.unique("pool"));
    let (pv, pvc) = (c.unique("pv"), c.unique("pvc"));
    let made = c.create(&VOLUMES, &volume(&pv, &label)).await?;
    pvcs.create(&claim(&pvc, &label)).await?;
    let seen = pvcs.get(&format!("{pvc}/status")).await?;
    anyhow::ensure!(
        condition(&seen, "StatusPatched").is_null(),
        "a new claim has conditions: {}",
        seen["status"]
    );
    let entry = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set by an e2e test"});
    let patch = json!({"status": {"conditions": [entry("StatusPatched")]}});
    let patched = pvcs.patch(&format!("{pvc}/status"), Patch::Merge(patch)).await?;
    ensure_eq!(
        condition(&patched, "StatusPatched")["status"],
        json!("True"),
        "the claim's condition after the patch"
    );
    let updated = pvcs
        .modify_at(&pvc, "status", |o| {
            o["status"]["conditions"] = json!([entry("StatusPatched"), entry("StatusUpdated")])
        })
        .await?;
    ensure_eq!(
        condition(&updated, "StatusUpdated")["message"],
        json!("Set by an e2e test"),
        "the claim's condition after the update"
    );
    let patch = json!({"status": {"message": "StatusPatched", "reason": "E2E patchedStatus"}});
    let patched = pvs.patch(&format!("{pv}/status"), Patch::Merge(patch)).await?;
    ensure_eq!(text(&patched, "/status/message"), "StatusPatched", "the volume's message after the patch");
    ensure_eq!(text(&patched, "/status/reason"), "E2E patchedStatus", "the volume's reason after the patch");
    let updated = pvs
        .modify_at(&pv, "status", |o| {
            o["status"]["message"] = json!("StatusUpdated");
            o["status"]["reason"] = json!("E2E updateStatus");
        })
        .await?;
    ensure_eq!(text(&updated, "/status/message"), "StatusUpdated", "the volume's message after the update");
    ensure_eq!(
        updated["spec"]["capacity"],
        made["spec"]["capacity"],
        "the volume's spec after changes of status"
    );
    remove(&pvcs, &pvc).await?;
    remove(&pvs, &pv).await
}
