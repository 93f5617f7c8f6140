//! Upstream's resource_quota.go: the life of a pod.

use serde_json::{Value, json};

use super::quota::{DONGLE, create, exceeds, hard, pod, used};
use crate::Result;
use crate::context::Context;
use crate::kinds::PODS;

tests! {
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a pod." => life,
}

async fn life(cx: Context) -> Result<()> {
    let quota = "test-quota";
    create(&cx, quota, json!({"hard": hard()})).await?;
    used(&cx, quota, json!({"resourcequotas": "1"})).await?;
    let requests = json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", DONGLE: "2"});
    let made = pod("test-pod", requests, json!({DONGLE: "2"}));
    cx.pods().create(&made).await?;
    let taken = json!({
        "resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi",
        "requests.ephemeral-storage": "30Gi", "requests.example.com/dongle": "2",
    });
    used(&cx, quota, taken.clone()).await?;
    let large = pod("fail-pod", json!({"cpu": "600m", "memory": "100Mi"}), json!({}));
    exceeds(&cx, &PODS, &large, "a pod that exceeds the quota").await?;
    let requests = json!({"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "30Gi", DONGLE: "2"});
    let dongles = pod("fail-pod-for-extended-resource", requests, json!({DONGLE: "2"}));
    exceeds(&cx, &PODS, &dongles, "a pod that exceeds the quota of an extended resource").await?;
    // Resources of a pod are fixed but through their own subresource.
    let mut seen = cx.pods().get("test-pod").await?;
    seen["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("100m");
    seen["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("100Mi");
    // The scheduler writes its status meanwhile; that is not what is to be refused here.
    seen["metadata"]["resourceVersion"] = Value::Null;
    crate::rest::refused(cx.pods().update(&seen).await, 422, "an update of a pod's resources")?;
    used(&cx, quota, taken).await?;
    cx.pods().delete_now("test-pod").await?;
    let none = json!({
        "pods": "0", "cpu": "0", "memory": "0", "requests.ephemeral-storage": "0", "requests.example.com/dongle": "0",
    });
    used(&cx, quota, none).await.map(|_| ())
}
