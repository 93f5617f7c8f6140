//! Upstream: `test/e2e/storage/storageclass.go`.

use serde_json::json;

use crate::Result;
use crate::battery::lifecycle;
use crate::context::Context;
use crate::kinds::STORAGE_CLASSES;

tests! {
    "[sig-storage] StorageClasses CSI Conformance should run through the lifecycle of a StorageClass" => class,
}

async fn class(c: Context) -> Result<()> {
    lifecycle(&c, &STORAGE_CLASSES, |name| {
        json!({
            "metadata": {"name": name, "labels": {"e2e-storageclass": name}},
            "provisioner": "e2e-fake-provisioner",
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        })
    })
    .await
}
