//! Upstream: `test/e2e/common/node/init_container.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{array, condition, text};
use crate::context::{Context, POD_START};
use crate::images::{BUSYBOX, PAUSE};
use crate::pods::{command, container, container_status, phase, pod};

tests! {
    "[sig-node] InitContainer should invoke init containers on a RestartNever pod" => never,
    "[sig-node] InitContainer should invoke init containers on a RestartAlways pod" => always,
    "[sig-node] InitContainer should not start app containers if init containers fail on a RestartAlways pod" => failing_always,
    "[sig-node] InitContainer should not start app containers and fail the pod if init containers fail on a RestartNever pod" => failing_never,
}

fn test_pod(c: &Context, restart: &str, init: [&str; 2], run: Value) -> Value {
    let mut pod = pod(&c.unique("pod-init"), json!([run]));
    pod["spec"]["restartPolicy"] = json!(restart);
    pod["spec"]["initContainers"] =
        json!([command("init1", BUSYBOX, &[init[0]]), command("init2", BUSYBOX, &[init[1]])]);
    pod
}

fn pause() -> Value {
    let mut run = container("run1", PAUSE, &[]);
    run["resources"] = json!({"limits": {"cpu": "100m"}});
    run
}

fn initialized(pod: &Value) -> Result<()> {
    ensure_eq!(condition(pod, "Initialized")["status"], json!("True"), "condition Initialized");
    ensure_eq!(array(pod, "/status/initContainerStatuses").len(), 2, "statuses of init containers");
    for s in array(pod, "/status/initContainerStatuses") {
        ensure_eq!(s["ready"], json!(true), "ready of {}", s["name"]);
        ensure_eq!(s["state"]["terminated"]["exitCode"], json!(0), "exit code of {}", s["name"]);
    }
    Ok(())
}

async fn never(c: Context) -> Result<()> {
    let pod = test_pod(&c, "Never", ["/bin/true", "/bin/true"], command("run1", BUSYBOX, &["/bin/true"]));
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    let end = c.pods().wait_success(&name).await?;
    initialized(&end)
}

async fn always(c: Context) -> Result<()> {
    let pod = test_pod(&c, "Always", ["/bin/true", "/bin/true"], pause());
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    let running = c.pods().wait_running(&name).await?;
    initialized(&running)
}

fn app_waits(pod: &Value) -> Result<()> {
    let run = container_status(pod, "run1");
    ensure_eq!(run["state"]["waiting"]["reason"], json!("PodInitializing"), "why run1 waits");
    anyhow::ensure!(
        run["state"]["running"].is_null() && run["state"]["terminated"].is_null(),
        "run1 started: {run}"
    );
    anyhow::ensure!(run["started"] != true && run["ready"] != true, "run1 started: {run}");
    Ok(())
}

async fn failing_always(c: Context) -> Result<()> {
    let pod = test_pod(&c, "Always", ["/bin/false", "/bin/true"], pause());
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    let what = "init1 must be restarted 3 times and nothing else start";
    let seen = c
        .pods()
        .wait(&name, POD_START, what, |p| {
            let Some(p) = p else { return Ok(false) };
            ensure_eq!(phase(p), "Pending", "phase while init1 fails");
            if array(p, "/status/initContainerStatuses").len() < 2 {
                return Ok(false);
            }
            app_waits(p)?;
            let second = container_status(p, "init2");
            anyhow::ensure!(second["state"]["waiting"].is_object(), "init2 does not wait: {second}");
            ensure_eq!(second["restartCount"], json!(0), "restarts of init2");
            ensure_eq!(second["ready"], json!(false), "ready of init2");
            let first = container_status(p, "init1");
            Ok(first["restartCount"].as_i64().unwrap_or(0) >= 3)
        })
        .await?;
    incomplete(&seen, "containers with incomplete status: [init1 init2]")?;
    ensure_eq!(seen["spec"]["restartPolicy"], json!("Always"), "restart policy");
    c.pods().delete_now(&name).await.map(|_| ())
}

fn incomplete(pod: &Value, message: &str) -> Result<()> {
    let condition = condition(pod, "Initialized");
    ensure_eq!(condition["status"], json!("False"), "condition Initialized");
    ensure_eq!(condition["reason"], json!("ContainersNotInitialized"), "its reason");
    ensure_eq!(condition["message"], json!(message), "its message");
    Ok(())
}

async fn failing_never(c: Context) -> Result<()> {
    let pod = test_pod(&c, "Never", ["/bin/true", "/bin/false"], command("run1", BUSYBOX, &["/bin/true"]));
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    let end = c
        .pods()
        .wait(&name, POD_START, "the pod must fail", |p| {
            let Some(p) = p else { return Ok(false) };
            anyhow::ensure!(phase(p) != "Succeeded" && phase(p) != "Running", "phase {}", phase(p));
            Ok(phase(p) == "Failed")
        })
        .await?;
    ensure_eq!(
        container_status(&end, "init1")["state"]["terminated"]["exitCode"],
        json!(0),
        "exit code of init1"
    );
    let second = container_status(&end, "init2");
    let code = second["state"]["terminated"]["exitCode"].as_i64();
    anyhow::ensure!(code.is_some_and(|c| c != 0), "init2 must have failed: {second}");
    app_waits(&end)?;
    incomplete(&end, "containers with incomplete status: [init2]")
}
