//! Upstream: `test/e2e/network/service_cidrs.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, array, condition, name_of, text, version_of};
use crate::battery::discovered;
use crate::context::Context;
use crate::kinds::{IP_ADDRESSES, SERVICE_CIDRS};
use crate::rest::refused;

tests! {
    "[sig-network] ServiceCIDR and IPAddress API should support IPAddress API operations" => addresses,
    "[sig-network] ServiceCIDR and IPAddress API should support ServiceCIDR API operations" => cidrs,
}

const LIMIT: Duration = Duration::from_secs(60);

/// Every verb over objects whose names are given.
async fn verbs(c: &Context, kind: &crate::api::Kind, label: &str, bodies: [Value; 2]) -> Result<()> {
    discovered(c, kind).await?;
    let api = c.api(kind);
    let selector = format!("e2e-test={label}");
    let query = [("labelSelector", selector.as_str())];
    let list = api.list(&query).await?;
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    for body in &bodies {
        let mut body = body.clone();
        body["metadata"]["labels"] = json!({"e2e-test": label});
        c.create(kind, &body).await?;
        watch.until(LIMIT, "the new object", |e| e.kind == "ADDED").await?;
    }
    let name = name_of(&bodies[0])?;
    let seen = api.get(name).await?;
    ensure_eq!(text(&seen, "/metadata/name"), name, "name of the object read");
    ensure_eq!(seen["spec"], bodies[0]["spec"], "spec of the object read");
    ensure_eq!(api.items(&query).await?.len(), 2, "objects with the label");
    let patched =
        api.patch(name, Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}))).await?;
    ensure_eq!(text(&patched, "/metadata/annotations/patched"), "true", "annotation after the patch");
    watch
        .until(LIMIT, "the patched object", |e| e.object["metadata"]["annotations"]["patched"] == "true")
        .await?;
    api.modify(name, |o| o["metadata"]["annotations"]["updated"] = json!("true")).await?;
    watch
        .until(LIMIT, "the updated object", |e| e.object["metadata"]["annotations"]["updated"] == "true")
        .await?;
    Ok(())
}

async fn remove(c: &Context, kind: &crate::api::Kind, label: &str, name: &str) -> Result<()> {
    let api = c.api(kind);
    api.delete(name).await?;
    api.wait_gone(name, LIMIT).await?;
    refused(api.get(name).await, 404, "reading the deleted object")?;
    let selector = format!("e2e-test={label}");
    let query = [("labelSelector", selector.as_str())];
    api.delete_collection(&query).await?;
    api.wait_set(&query, LIMIT, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await
}

async fn addresses(c: Context) -> Result<()> {
    let label = c.unique("address");
    // An address outside of every service range: only the API is looked at.
    let third = 1 + (u16::from(rand::random::<u8>()) % 200);
    let body = |last: u8| {
        json!({
            "metadata": {"name": format!("192.168.{third}.{last}")},
            "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "no-such-service"}},
        })
    };
    verbs(&c, &IP_ADDRESSES, &label, [body(7), body(8)]).await?;
    remove(&c, &IP_ADDRESSES, &label, &format!("192.168.{third}.7")).await
}

async fn cidrs(c: Context) -> Result<()> {
    let label = c.unique("cidr");
    let (one, two) = (c.unique("e2e-cidr"), c.unique("e2e-cidr"));
    let body = |name: &str, range: &str| json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}});
    verbs(&c, &SERVICE_CIDRS, &label, [body(&one, "192.0.2.0/24"), body(&two, "198.51.100.0/24")]).await?;
    let api = c.api(&SERVICE_CIDRS);
    let seen = api.get(&format!("{one}/status")).await?;
    ensure_eq!(text(&seen, "/metadata/name"), one, "name in the status subresource");
    let entry = json!({
        "type": "StatusUpdated", "status": "True", "reason": "E2E", "message": "Set from e2e test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let patched =
        api.patch(&format!("{one}/status"), Patch::Merge(json!({"status": {"conditions": [entry]}}))).await?;
    ensure_eq!(
        condition(&patched, "StatusUpdated")["message"],
        json!("Set from e2e test"),
        "condition after the patch of status"
    );
    let updated = api
        .modify_at(&one, "status", |o| {
            for e in o["status"]["conditions"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .filter(|e| e["type"] == "StatusUpdated")
            {
                e["message"] = json!("Set from e2e test again");
            }
        })
        .await?;
    ensure_eq!(
        condition(&updated, "StatusUpdated")["message"],
        json!("Set from e2e test again"),
        "condition after the update of status"
    );
    ensure_eq!(array(&updated, "/spec/cidrs").len(), 1, "ranges after the changes of status");
    remove(&c, &SERVICE_CIDRS, &label, &one).await
}
