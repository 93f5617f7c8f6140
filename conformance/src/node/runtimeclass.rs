//! Upstream: `test/e2e/common/node/runtimeclass.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::condition;
use crate::battery::operations;
use crate::context::{Context, POD_START};
use crate::images::BUSYBOX;
use crate::kinds::RUNTIME_CLASSES;
use crate::pods::{command, pod};
use crate::rest::refused;

tests! {
    "[sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass" => non_existent,
    "[sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass" => deleted,
    "[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead" => |c| scheduled(c, None),
    "[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead" => |c| scheduled(c, Some(json!({"cpu": "10m", "memory": "1Mi"}))),
    "[sig-node] RuntimeClass should support RuntimeClasses API operations" => api,
}

/// The handler that test clusters may have configured; here the pods are only scheduled.
const HANDLER: &str = "test-handler";

fn test_pod(c: &Context, class: &str) -> Value {
    let mut pod = pod(&c.unique("test-runtimeclass"), json!([command("test", BUSYBOX, &["true"])]));
    pod["spec"]["runtimeClassName"] = json!(class);
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    pod
}

async fn rejected(c: &Context, class: &str) -> Result<()> {
    let refusal =
        refused(c.pods().create(&test_pod(c, class)).await, 403, "a pod of an unknown RuntimeClass")?;
    ensure_contains!(refusal.message(), class, "the refusal");
    Ok(())
}

async fn non_existent(c: Context) -> Result<()> {
    rejected(&c, &c.unique("no-such-class")).await
}

async fn deleted(c: Context) -> Result<()> {
    let name = c.unique("delete-me");
    c.create(&RUNTIME_CLASSES, &json!({"metadata": {"name": name}, "handler": HANDLER})).await?;
    c.api(&RUNTIME_CLASSES).delete(&name).await?;
    c.api(&RUNTIME_CLASSES).wait_gone(&name, Duration::from_secs(60)).await?;
    // Admission may know the class for a moment longer.
    crate::watch::poll(Duration::from_secs(30), Duration::from_secs(1), "rejection", || async {
        rejected(&c, &name).await.map(Some)
    })
    .await
}

async fn scheduled(c: Context, overhead: Option<Value>) -> Result<()> {
    let name = c.unique("preconfigured");
    let mut class = json!({"metadata": {"name": name}, "handler": HANDLER});
    if let Some(fixed) = &overhead {
        class["overhead"] = json!({"podFixed": fixed});
    }
    c.create(&RUNTIME_CLASSES, &class).await?;
    let made = c.pods().create(&test_pod(&c, &name)).await?;
    ensure_eq!(made["spec"]["overhead"], overhead.unwrap_or(Value::Null), "overhead of the pod");
    let pod = crate::api::name_of(&made)?;
    let is_scheduled = |p: &Value| condition(p, "PodScheduled")["status"] == "True";
    c.pods().wait(pod, POD_START, "the pod must be scheduled", |p| Ok(p.is_some_and(is_scheduled))).await?;
    c.pods().delete_now(pod).await.map(|_| ())
}

async fn api(c: Context) -> Result<()> {
    operations(&c, &RUNTIME_CLASSES, json!({"metadata": {}, "handler": HANDLER}), None).await
}
