//! Upstream: `test/e2e/storage/csistoragecapacity.go`.

use serde_json::json;

use crate::Result;
use crate::battery::operations;
use crate::context::Context;
use crate::kinds::CSI_CAPACITIES;

tests! {
    "[sig-storage] CSIStorageCapacity should support CSIStorageCapacities API operations" => capacity,
}

async fn capacity(c: Context) -> Result<()> {
    operations(&c, &CSI_CAPACITIES, json!({"storageClassName": "e2e-example", "metadata": {}}), None).await
}
