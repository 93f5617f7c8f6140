//! Upstream's namespace.go: the order of deletion.

use std::time::Duration;

use serde_json::{Value, json};

use super::namespace::LIMIT;
use crate::Result;
use crate::api::{array, text};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::{CONFIG_MAPS, NAMESPACES, PODS};

tests! {
    "[sig-api-machinery] OrderedNamespaceDeletion namespace deletion should delete pod first" => pods_first,
}

async fn pods_first(cx: Context) -> Result<()> {
    let name = cx.new_namespace("nsdeletetest").await?;
    let pods = cx.api_in(&PODS, &name);
    let maps = cx.api_in(&CONFIG_MAPS, &name);
    let made = json!({
        "metadata": {"name": "testpod", "finalizers": ["e2e.example.com/finalizer"]},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "nginx", "image": PAUSE}]},
    });
    pods.create(&made).await?;
    pods.wait_running("testpod").await?;
    maps.create(&json!({"metadata": {"name": "test-configmap"}, "data": {"key": "value"}})).await?;
    let namespaces = cx.api(&NAMESPACES);
    namespaces.delete(&name).await?;
    let outcome = held(&cx, &name).await;
    pods.modify("testpod", |p| p["metadata"]["finalizers"] = json!([])).await?;
    outcome?;
    namespaces.wait_gone(&name, LIMIT).await
}

/// While the pod is held by its finalizer nothing else is deleted.
async fn held(cx: &Context, name: &str) -> Result<()> {
    let pods = cx.api_in(&PODS, name);
    let deleted =
        |p: Option<&Value>| Ok(p.is_some_and(|p| !text(p, "/metadata/deletionTimestamp").is_empty()));
    pods.wait("testpod", Duration::from_secs(60), "the pod is being deleted", deleted).await?;
    let remaining = |n: Option<&Value>| {
        let n = n.ok_or_else(|| anyhow::anyhow!("the namespace is gone although a pod is held in it"))?;
        let on = |kind: &str| {
            array(n, "/status/conditions").iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        Ok(on("NamespaceContentRemaining") && on("NamespaceFinalizersRemaining"))
    };
    let namespaces = cx.api(&NAMESPACES);
    namespaces.wait(name, Duration::from_secs(60), "conditions name what remains", remaining).await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(15);
    while tokio::time::Instant::now() < end {
        let map = cx.api_in(&CONFIG_MAPS, name).get("test-configmap").await?;
        anyhow::ensure!(
            map["metadata"]["deletionTimestamp"].is_null(),
            "the ConfigMap is deleted before the pod is gone"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
