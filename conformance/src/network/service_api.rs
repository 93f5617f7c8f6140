//! Upstream: `test/e2e/network/service.go`, the tests of the API.

use std::time::Duration;

use serde_json::json;

use crate::Result;
use crate::api::{Patch, condition, text, version_of};
use crate::context::Context;
use crate::kinds::SERVICES;
use crate::rest::refused;

tests! {
    "[sig-network] Services should find a service from listing all namespaces" => find,
    "[sig-network] Services should complete a service status lifecycle" => status,
    "[sig-network] Services should delete a collection of services" => collection,
}

const LIMIT: Duration = Duration::from_secs(60);

async fn find(c: Context) -> Result<()> {
    let all = c.api_all(&SERVICES).items(&[]).await?;
    let found = all
        .iter()
        .any(|s| text(s, "/metadata/name") == "kubernetes" && text(s, "/metadata/namespace") == "default");
    anyhow::ensure!(found, "no service default/kubernetes among those of all namespaces");
    Ok(())
}

async fn status(c: Context) -> Result<()> {
    let (api, name) = (c.api(&SERVICES), c.unique("test-service"));
    let query = [("labelSelector", "test-service-static=true")];
    let list = api.list(&query).await?;
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    let body = json!({
        "metadata": {"name": name, "labels": {"test-service-static": "true"}},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]},
    });
    api.create(&body).await?;
    watch.until(LIMIT, "the new service", |e| e.kind == "ADDED").await?;
    let seen = api.get(&format!("{name}/status")).await?;
    ensure_eq!(text(&seen, "/metadata/name"), name, "name in the status subresource");
    let patch = json!({
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
    });
    let patched = api.patch(&format!("{name}/status"), Patch::Merge(patch)).await?;
    ensure_eq!(
        text(&patched, "/status/loadBalancer/ingress/0/ip"),
        "203.0.113.1",
        "address after the patch of status"
    );
    ensure_eq!(
        text(&patched, "/metadata/annotations/patchedstatus"),
        "true",
        "annotation by the patch of status"
    );
    watch
        .until(LIMIT, "the patched status", |e| {
            e.object["metadata"]["annotations"]["patchedstatus"] == "true"
        })
        .await?;
    let entry = json!({
        "type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from e2e test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let updated = api.modify_at(&name, "status", |s| s["status"]["conditions"] = json!([entry])).await?;
    ensure_eq!(
        condition(&updated, "StatusUpdate")["message"],
        json!("Set from e2e test"),
        "condition after the update of status"
    );
    watch.until(LIMIT, "the updated status", |e| !condition(&e.object, "StatusUpdate").is_null()).await?;
    let patched = api
        .patch(&name, Patch::Strategic(json!({"metadata": {"labels": {"test-service": "patched"}}})))
        .await?;
    ensure_eq!(text(&patched, "/metadata/labels/test-service"), "patched", "label after the patch");
    watch
        .until(LIMIT, "the patched service", |e| e.object["metadata"]["labels"]["test-service"] == "patched")
        .await?;
    api.delete(&name).await?;
    watch.until(LIMIT, "the deleted service", |e| e.kind == "DELETED").await?;
    refused(api.get(&name).await, 404, "reading the deleted service").map(|_| ())
}

async fn collection(c: Context) -> Result<()> {
    let api = c.api(&SERVICES);
    let service = |name: &str, kind: &str, delete: bool| {
        let labels =
            if delete { json!({"e2e-test-service": "delete"}) } else { json!({"e2e-test-service": "keep"}) };
        json!({"metadata": {"name": name, "labels": labels}, "spec": {
            "type": kind, "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80}]}})
    };
    for (name, kind, delete) in [
        ("e2e-svc-a", "ClusterIP", true),
        ("e2e-svc-b", "ClusterIP", true),
        ("e2e-svc-c", "ClusterIP", false),
    ] {
        api.create(&service(name, kind, delete)).await?;
    }
    ensure_eq!(api.items(&[]).await?.len(), 3, "services before the deletion");
    let query = [("labelSelector", "e2e-test-service=delete")];
    api.delete_collection(&query).await?;
    api.wait_set(&query, LIMIT, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await?;
    let left = api.items(&[]).await?;
    ensure_eq!(left.len(), 1, "services after the deletion");
    ensure_eq!(text(&left[0], "/metadata/name"), "e2e-svc-c", "the service that stays");
    Ok(())
}
