//! Upstream: `test/e2e/storage/volumeattributesclass.go`.

use serde_json::json;

use crate::Result;
use crate::battery::lifecycle;
use crate::context::Context;
use crate::kinds::VOLUME_ATTRIBUTES_CLASSES;

tests! {
    "[sig-storage] VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the lifecycle of a VolumeAttributesClass" => class,
}

async fn class(c: Context) -> Result<()> {
    lifecycle(&c, &VOLUME_ATTRIBUTES_CLASSES, |name| {
        json!({
            "metadata": {"name": name, "labels": {"e2e-vac": name}},
            "driverName": "e2e-fake-csi-driver",
            "parameters": {"iops": "3000", "throughput": "125"},
        })
    })
    .await
}
