//! Upstream: `test/e2e/storage/volume_attachment.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::api::Patch;
use crate::battery::lifecycle;
use crate::context::Context;
use crate::kinds::VOLUME_ATTACHMENTS;

tests! {
    "[sig-storage] VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment" => whole,
    "[sig-storage] VolumeAttachment Conformance should apply changes to a volumeattachment status" => status,
}

fn body(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"va-e2e": name}},
        "spec": {
            "attacher": "e2e-test.storage.k8s.io",
            "nodeName": "e2e-no-such-node",
            "source": {"persistentVolumeName": format!("pv-{name}")},
        },
    })
}

async fn whole(c: Context) -> Result<()> {
    lifecycle(&c, &VOLUME_ATTACHMENTS, body).await
}

async fn status(c: Context) -> Result<()> {
    let api = c.api(&VOLUME_ATTACHMENTS);
    let name = c.unique("e2e-va");
    let made = c.create(&VOLUME_ATTACHMENTS, &body(&name)).await?;
    ensure_eq!(made["status"]["attached"].as_bool().unwrap_or(false), false, "status of a new attachment");
    let path = format!("{name}/status");
    let patched = api.patch(&path, Patch::Merge(json!({"status": {"attached": true}}))).await?;
    ensure_eq!(patched["status"]["attached"], json!(true), "status after its patch");
    let seen = api.get(&path).await?;
    ensure_eq!(seen["status"]["attached"], json!(true), "status read back");
    let updated = api.modify_at(&name, "status", |o| o["status"]["attached"] = json!(false)).await?;
    ensure_eq!(updated["status"]["attached"], json!(false), "status after its update");
    ensure_eq!(updated["spec"], made["spec"], "spec after the changes of status");
    api.delete(&name).await?;
    api.wait_gone(&name, std::time::Duration::from_secs(60)).await
}
