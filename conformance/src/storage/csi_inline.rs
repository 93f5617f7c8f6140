//! Upstream: `test/e2e/storage/csi_inline.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::api::array;
use crate::battery::lifecycle;
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::CSI_DRIVERS;
use crate::pods::{container, pod};

tests! {
    "[sig-storage] CSIInlineVolumes should support CSIVolumeSource in Pod API" => inline,
    "[sig-storage] CSIInlineVolumes should run through the lifecycle of a CSIDriver" => driver,
}

fn body(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"e2e-csidriver": name}},
        "spec": {"volumeLifecycleModes": ["Ephemeral"], "attachRequired": false, "podInfoOnMount": true},
    })
}

async fn driver(c: Context) -> Result<()> {
    lifecycle(&c, &CSI_DRIVERS, body).await
}

async fn inline(c: Context) -> Result<()> {
    let driver = c.unique("inline-driver");
    c.create(&CSI_DRIVERS, &body(&driver)).await?;
    let mut main = container("pause", PAUSE, &[]);
    main["volumeMounts"] = json!([{"name": "csi-volume", "mountPath": "/inline"}]);
    let mut pod = pod("csi-inline", json!([main]));
    pod["metadata"]["labels"] = json!({"special-label": driver});
    let source = json!({"driver": driver, "readOnly": true, "volumeAttributes": {"foo": "bar"}});
    pod["spec"]["volumes"] = json!([{"name": "csi-volume", "csi": source}]);
    // No node has the driver, so the pod never runs; only the API is looked at.
    pod["spec"]["nodeSelector"] = json!({"e2e-no-such-label": "true"});
    let has = |p: &Value| array(p, "/spec/volumes").iter().any(|v| v["csi"] == source);
    let made = c.pods().create(&pod).await?;
    anyhow::ensure!(has(&made), "the created pod lacks the volume: {}", made["spec"]["volumes"]);
    anyhow::ensure!(has(&c.pods().get("csi-inline").await?), "the pod read lacks the volume");
    let listed = c.pods().labelled(&format!("special-label={driver}")).await?;
    anyhow::ensure!(listed.len() == 1 && has(&listed[0]), "the listed pod lacks the volume: {listed:?}");
    c.remove_pod("csi-inline").await
}
