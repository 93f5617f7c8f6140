//! Upstream: `test/e2e/common/node/pods.go`, the tests of the pod's API and status; and the QOS class of `test/e2e/node/pods.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, array, condition, text, version_of};
use crate::context::{Context, POD_GONE, POD_START};
use crate::images::{AGNHOST, AGNHOST_PREV};
use crate::pods::{container, container_status, phase, pod, ready};

tests! {
    "[sig-node] Pods should run through the lifecycle of Pods and PodStatus" => lifecycle,
    "[sig-node] Pods should patch a pod status" => patch_status,
    "[sig-node] Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests and limits for memory and cpu" => qos,
}

async fn lifecycle(c: Context) -> Result<()> {
    let (api, name) = (c.pods(), "pod-test");
    let query = [("labelSelector", "test-pod-static=true")];
    let list = api.list(&query).await?;
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    let mut pod = pod(name, json!([container("pod-test", AGNHOST_PREV, &[])]));
    pod["metadata"]["labels"] = json!({"test-pod-static": "true"});
    pod["spec"]["restartPolicy"] = json!("Always");
    api.create(&pod).await?;
    watch.until(POD_START, "the new pod", |e| e.kind == "ADDED").await?;
    watch.until(POD_START, "the running pod", |e| phase(&e.object) == "Running" && ready(&e.object)).await?;
    let change = json!({
        "metadata": {"labels": {"test-pod": "patched"}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [{"name": "pod-test", "image": AGNHOST}]},
    });
    // The grace period of a pod that exists may not change, its image may.
    let mut allowed = change.clone();
    if let Some(spec) = allowed["spec"].as_object_mut() {
        spec.remove("terminationGracePeriodSeconds");
    }
    crate::rest::refused(
        api.patch(name, Patch::Strategic(change)).await,
        422,
        "a change of the grace period",
    )?;
    api.patch(name, Patch::Strategic(allowed)).await?;
    let seen = watch
        .until(POD_START, "the patched pod", |e| {
            e.kind == "MODIFIED" && e.object["metadata"]["labels"]["test-pod"] == "patched"
        })
        .await?;
    ensure_eq!(text(&seen.object, "/spec/containers/0/image"), AGNHOST, "image after the patch");
    let what = "the pod running the new image";
    let running = |p: &Value| {
        phase(p) == "Running" && ready(p) && text(container_status(p, "pod-test"), "/image") == AGNHOST
    };
    api.wait(name, POD_START, what, |p| Ok(p.is_some_and(running))).await?;
    let status = api.get(&format!("{name}/status")).await?;
    ensure_eq!(text(&status, "/metadata/name"), name, "name in the status subresource");
    ensure_eq!(condition(&status, "Ready")["status"], json!("True"), "Ready in the status subresource");
    let replaced = api
        .modify_at(name, "status", |p| {
            for s in p["status"]["conditions"]
                .as_array_mut()
                .into_iter()
                .flatten()
                .filter(|s| s["type"] == "Ready")
            {
                s["status"] = json!("False");
            }
        })
        .await?;
    ensure_eq!(
        condition(&replaced, "Ready")["status"],
        json!("False"),
        "Ready after the status was replaced"
    );
    watch
        .until(Duration::from_secs(60), "the replaced status", |e| {
            condition(&e.object, "Ready")["status"] == "False"
        })
        .await?;
    api.delete_collection(&query).await?;
    watch.until(POD_GONE, "the pod's deletion", |e| e.kind == "DELETED").await?;
    crate::rest::refused(api.get(name).await, 404, "reading the deleted pod").map(|_| ())
}

async fn patch_status(c: Context) -> Result<()> {
    let (api, name) = (c.pods(), c.unique("pod"));
    let mut pod = pod(&name, json!([container("agnhost", AGNHOST, &["pause"])]));
    pod["metadata"]["labels"] = json!({"test-pod-static": "true"});
    api.create(&pod).await?;
    let running = api.wait_running(&name).await?;
    let change = json!({"status": {"message": "Patched by e2e test", "reason": "E2E"}});
    let patched = api.patch(&format!("{name}/status"), Patch::Strategic(change)).await?;
    ensure_eq!(text(&patched, "/status/message"), "Patched by e2e test", "message after the patch");
    ensure_eq!(text(&patched, "/status/reason"), "E2E", "reason after the patch");
    ensure_eq!(patched["spec"], running["spec"], "spec after the status patch");
    Ok(())
}

async fn qos(c: Context) -> Result<()> {
    let mut main = container("agnhost", AGNHOST, &["pause"]);
    let amounts = json!({"cpu": "100m", "memory": "100Mi"});
    main["resources"] = json!({"limits": amounts, "requests": amounts});
    let name = c.unique("pod-qos-class");
    let made = c.pods().create(&pod(&name, json!([main]))).await?;
    ensure_eq!(text(&made, "/status/qosClass"), "Guaranteed", "QOS class of the new pod");
    let seen = c.pods().get(&name).await?;
    ensure_eq!(text(&seen, "/status/qosClass"), "Guaranteed", "QOS class of the pod read");
    ensure_eq!(array(&seen, "/spec/containers").len(), 1, "containers");
    Ok(())
}
