//! Upstream: `test/e2e/storage/csi_node.go`.

use serde_json::json;

use crate::Result;
use crate::battery::lifecycle;
use crate::context::Context;
use crate::kinds::CSI_NODES;

tests! {
    "[sig-storage] CSINodes CSI Conformance should run through the lifecycle of a csinode" => node,
}

async fn node(c: Context) -> Result<()> {
    let driver = json!({"name": "e2e-driver", "nodeID": "e2e-node", "topologyKeys": ["e2e/zone"]});
    lifecycle(&c, &CSI_NODES, |name| json!({"metadata": {"name": name}, "spec": {"drivers": [driver]}})).await
}
