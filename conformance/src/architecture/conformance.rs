//! Upstream: `test/e2e/architecture/conformance.go`.

use crate::Result;
use crate::context::Context;

tests! {
    "[sig-architecture] Conformance Tests should have at least two untainted nodes" => two_nodes,
}

async fn two_nodes(c: Context) -> Result<()> {
    let nodes = c.nodes().await?.len();
    anyhow::ensure!(
        nodes >= 2,
        "conformance requires at least two ready, schedulable nodes without taints, there are {nodes}"
    );
    Ok(())
}
