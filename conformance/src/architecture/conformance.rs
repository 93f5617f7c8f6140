//! Upstream's conformance.go.

use crate::Result;
use crate::context::Context;

tests! {
    "[sig-architecture] Conformance Tests should have at least two untainted nodes" => two_nodes,
}

async fn two_nodes(cx: Context) -> Result<()> {
    let nodes = cx.nodes().await?.len();
    anyhow::ensure!(
        nodes >= 2,
        "a conformant cluster has at least two ready, untainted nodes; this one has {nodes}"
    );
    Ok(())
}
