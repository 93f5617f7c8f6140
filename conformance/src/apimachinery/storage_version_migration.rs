//! Upstream's storage_version_migration.go.

use serde_json::json;

use super::strict::{Resource, test_resource};
use crate::Result;
use crate::context::Context;
use crate::kinds::MIGRATIONS;

tests! {
    "[sig-api-machinery] StorageVersionMigration CRUD Tests storagemigration.k8s.io/v1 StorageVersionMigration" => crud,
}

async fn crud(cx: Context) -> Result<()> {
    let tested = Resource {
        kind: &MIGRATIONS,
        object: json!({
            "metadata": {"name": format!("test-{}", cx.namespace())},
            "spec": {"resource": {"group": "", "resource": "foo"}},
        }),
        // The spec cannot change, so a label does.
        patch: json!({"metadata": {"labels": {"test.storagemigration.example.com": "test"}}}),
        status: json!({"conditions": [{
            "type": "TestCondition", "status": "True", "reason": "TestReason", "message": "TestMessage",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}),
    };
    test_resource(&cx, &tested).await
}
