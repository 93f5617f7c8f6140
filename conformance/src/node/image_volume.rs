//! Upstream: `test/e2e/common/node/image_volume.go`.

use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::context::Context;
use crate::images::{BUSYBOX, KITTEN};
use crate::pods::{pod, shell};

tests! {
    "[sig-node] ImageVolume should succeed with pod and pull policy of Always [LinuxOnly] [MinimumKubeletVersion:1.35]" => always,
}

async fn always(c: Context) -> Result<()> {
    let line = "cat /volume/data.json && cat /volume/etc/os-release && sleep 10000";
    let mut main = shell("image-volume-container", BUSYBOX, line);
    main["volumeMounts"] = json!([{"name": "volume", "mountPath": "/volume"}]);
    let name = c.unique("image-volume-test");
    let mut pod = pod(&name, json!([main]));
    pod["spec"]["volumes"] =
        json!([{"name": "volume", "image": {"reference": KITTEN, "pullPolicy": "Always"}}]);
    c.start(&pod).await?;
    let limit = Duration::from_secs(60);
    c.logs_until(&name, "image-volume-container", "kitten.jpg", limit).await?;
    c.logs_until(&name, "image-volume-container", "Alpine Linux", limit).await?;
    let write = c.exec(&name, "image-volume-container", &["touch", "/volume/new"]).await?;
    anyhow::ensure!(write.code != 0, "the volume of an image must be read-only");
    Ok(())
}
