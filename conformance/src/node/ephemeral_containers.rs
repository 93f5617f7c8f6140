//! Upstream: `test/e2e/common/node/ephemeral_containers.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, array, text};
use crate::context::{Context, POD_START};
use crate::images::{BUSYBOX, PAUSE};
use crate::pods::{container, container_status, pod};

tests! {
    "[sig-node] Ephemeral Containers will start an ephemeral container in an existing pod" => start,
    "[sig-node] Ephemeral Containers should update the ephemeral containers in an existing pod" => update,
}

fn debugger(name: &str) -> Value {
    json!({
        "name": name, "image": BUSYBOX, "stdin": true, "tty": true,
        "command": ["/bin/sh", "-c", "while true; do echo polo; sleep 2; done"],
    })
}

async fn target(c: &Context) -> Result<String> {
    let name = c.unique("ephemeral-containers-target-pod");
    c.start(&pod(&name, json!([container("test-container-1", PAUSE, &[])]))).await?;
    Ok(name)
}

async fn runs(c: &Context, pod: &str, name: &str) -> Result<()> {
    let what = format!("ephemeral container {name} must run");
    c.pods()
        .wait(pod, POD_START, &what, |p| {
            Ok(p.is_some_and(|p| container_status(p, name)["state"]["running"].is_object()))
        })
        .await
        .map(|_| ())
}

async fn start(c: Context) -> Result<()> {
    let name = target(&c).await?;
    let patch = json!({"spec": {"ephemeralContainers": [debugger("debugger")]}});
    c.pods().patch(&format!("{name}/ephemeralcontainers"), Patch::Strategic(patch)).await?;
    runs(&c, &name, "debugger").await?;
    c.logs_until(&name, "debugger", "polo", Duration::from_secs(60)).await?;
    let seen = c.pods().get(&name).await?;
    ensure_eq!(crate::pods::restarts(&seen), 0, "restarts of the pod's own container");
    Ok(())
}

async fn update(c: Context) -> Result<()> {
    let name = target(&c).await?;
    let path = format!("{name}/ephemeralcontainers");
    let patch = json!({"spec": {"ephemeralContainers": [debugger("debugger1")]}});
    c.pods().patch(&path, Patch::Strategic(patch)).await?;
    runs(&c, &name, "debugger1").await?;
    let listed = |p: &Value| -> Vec<String> {
        array(p, "/spec/ephemeralContainers").iter().map(|e| text(e, "/name").to_string()).collect()
    };
    let seen = c.pods().get(&path).await?;
    ensure_eq!(listed(&seen), ["debugger1"], "ephemeral containers after the patch");
    let replaced = c
        .pods()
        .modify_at(&name, "ephemeralcontainers", |p| {
            if let Some(list) = p["spec"]["ephemeralContainers"].as_array_mut() {
                list.push(debugger("debugger2"));
            }
        })
        .await?;
    ensure_eq!(listed(&replaced), ["debugger1", "debugger2"], "ephemeral containers after the replacement");
    runs(&c, &name, "debugger2").await?;
    ensure_eq!(
        listed(&c.pods().get(&name).await?),
        ["debugger1", "debugger2"],
        "ephemeral containers of the pod"
    );
    Ok(())
}
