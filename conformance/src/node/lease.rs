//! Upstream: `test/e2e/common/node/lease.go`.

use serde_json::json;

use crate::Result;
use crate::api::Patch;
use crate::context::Context;
use crate::kinds::LEASES;

tests! {
    "[sig-node] Lease lease API should be available" => lease,
}

async fn lease(c: Context) -> Result<()> {
    let api = c.api(&LEASES);
    let spec = |holder: &str, seconds: i64, transitions: i64| {
        json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": "2026-01-01T00:00:02.000000Z",
            "renewTime": "2026-01-01T00:00:05.123456Z",
            "leaseTransitions": transitions,
        })
    };
    let body = json!({"metadata": {"name": "lease", "labels": {"deletecollection": "true"}}, "spec": spec("holder", 30, 0)});
    let made = api.create(&body).await?;
    ensure_eq!(made["spec"], body["spec"], "spec of the new lease");
    let mut read = api.get("lease").await?;
    ensure_eq!(read["spec"], body["spec"], "spec read back");
    read["spec"] = spec("holder2", 50, 1);
    api.update(&read).await?;
    let read = api.get("lease").await?;
    ensure_eq!(read["spec"], spec("holder2", 50, 1), "spec after the update");
    api.patch("lease", Patch::Strategic(json!({"spec": spec("holder3", 60, 2)}))).await?;
    ensure_eq!(api.get("lease").await?["spec"], spec("holder3", 60, 2), "spec after the patch");
    let second = json!({"metadata": {"name": "lease2", "labels": {"deletecollection": "true"}}, "spec": spec("holder", 30, 0)});
    api.create(&second).await?;
    let query = [("labelSelector", "deletecollection=true")];
    ensure_eq!(api.items(&query).await?.len(), 2, "leases with the label");
    api.delete_collection(&query).await?;
    ensure_eq!(api.items(&query).await?.len(), 0, "leases after the collection's deletion");
    api.create(&body).await?;
    api.delete("lease").await?;
    crate::rest::refused(api.get("lease").await, 404, "reading a deleted lease").map(|_| ())
}
