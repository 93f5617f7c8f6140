//! Upstream: `test/e2e/common/node/container_probe.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{condition, text};
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, BUSYBOX};
use crate::pods::{container, container_status, phase, pod, ready, restarts, shell};

tests! {
    "[sig-node] Probing container with readiness probe should not be ready before initial delay and never restart" => initial_delay,
    "[sig-node] Probing container with readiness probe that fails should never be ready and never restart" => never_ready,
    "[sig-node] Probing container should be restarted with a exec \"cat /tmp/health\" liveness probe" => |c| liveness(c, exec_pod("echo ok >/tmp/health; sleep 10; rm -rf /tmp/health; sleep 600"), 1),
    "[sig-node] Probing container should *not* be restarted with a exec \"cat /tmp/health\" liveness probe" => |c| liveness(c, exec_pod("echo ok >/tmp/health; sleep 600"), 0),
    "[sig-node] Probing container should be restarted with a /healthz http liveness probe" => |c| liveness(c, dying(http("/healthz", 8080), 15), 1),
    "[sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe" => |c| liveness(c, dying(json!({"tcpSocket": {"port": 8080}}), 15), 0),
    "[sig-node] Probing container should have monotonically increasing restart count" => |c| liveness(c, dying(http("/healthz", 8080), 5), 5),
    "[sig-node] Probing container should *not* be restarted with a /healthz http liveness probe" => |c| liveness(c, web(), 0),
    "[sig-node] Probing container should be restarted with a GRPC liveness probe" => |c| liveness(c, grpc(2333), 1),
    "[sig-node] Probing container should *not* be restarted with a GRPC liveness probe" => |c| liveness(c, grpc(5000), 0),
}

/// How long upstream looks on.
const LOOK: Duration = Duration::from_secs(240);

fn http(path: &str, port: u16) -> Value {
    json!({"httpGet": {"path": path, "port": port}})
}

fn with(mut main: Value, kind: &str, mut probe: Value, fields: Value) -> Value {
    if let (Some(to), Some(from)) = (probe.as_object_mut(), fields.as_object()) {
        to.extend(from.clone());
    }
    main[kind] = probe;
    let mut pod = pod("", json!([main]));
    pod["spec"]["restartPolicy"] = json!("Always");
    pod
}

fn exec_pod(line: &str) -> Value {
    let probe = json!({"exec": {"command": ["cat", "/tmp/health"]}});
    let fields = json!({"initialDelaySeconds": 15, "timeoutSeconds": 5, "failureThreshold": 1});
    with(shell("main", BUSYBOX, line), "livenessProbe", probe, fields)
}

/// agnhost liveness: its /healthz fails after 10 seconds, its port stays open.
fn dying(probe: Value, delay: u32) -> Value {
    let fields = json!({"initialDelaySeconds": delay, "failureThreshold": 1});
    with(container("main", AGNHOST, &["liveness"]), "livenessProbe", probe, fields)
}

fn web() -> Value {
    let fields = json!({"initialDelaySeconds": 15, "timeoutSeconds": 5, "failureThreshold": 5});
    with(container("main", AGNHOST, &["test-webserver"]), "livenessProbe", http("/", 80), fields)
}

fn grpc(port: u16) -> Value {
    let fields = json!({"initialDelaySeconds": 15, "timeoutSeconds": 5, "failureThreshold": 1});
    let probe = json!({"grpc": {"port": port}});
    with(container("main", AGNHOST, &["grpc-health-checking"]), "livenessProbe", probe, fields)
}

/// Restarts grow one by one up to the wanted count; none are wanted: none happens while upstream looks on.
async fn liveness(c: Context, mut pod: Value, wanted: i64) -> Result<()> {
    let name = c.unique("liveness");
    pod["metadata"]["name"] = json!(name);
    c.pods().create(&pod).await?;
    let first = c
        .pods()
        .wait(&name, POD_START, "a started container", |p| {
            Ok(p.is_some_and(|p| {
                phase(p) == "Running" && container_status(p, "main")["state"]["running"].is_object()
            }))
        })
        .await?;
    let initial = restarts(&first);
    if wanted == 0 {
        let what = "the container was restarted";
        c.pods().never(&name, LOOK, what, |p| p.is_some_and(|p| restarts(p) != initial)).await?;
        let seen = c.pods().get(&name).await?;
        ensure_eq!(phase(&seen), "Running", "phase at the end");
        ensure_eq!(restarts(&seen), initial, "restarts at the end");
    } else {
        let limit = if wanted == 1 { LOOK } else { Duration::from_secs(120 + 240 + 480) };
        let mut last = initial;
        c.pods()
            .wait(&name, limit, &format!("{wanted} restarts"), |p| {
                let now = p.map_or(last, restarts);
                anyhow::ensure!(now >= last, "the restart count fell from {last} to {now}");
                last = now;
                Ok(now - initial >= wanted)
            })
            .await?;
    }
    c.pods().delete_now(&name).await.map(|_| ())
}

fn readiness(c: &Context, probe: Value, fields: Value) -> Value {
    let main = container("test-webserver", AGNHOST, &["test-webserver"]);
    let mut pod = with(main, "readinessProbe", probe, fields);
    pod["metadata"]["name"] = json!(c.unique("test-webserver"));
    pod
}

async fn initial_delay(c: Context) -> Result<()> {
    let pod = readiness(&c, http("/", 80), json!({"initialDelaySeconds": 15}));
    let seen = c.start(&pod).await?;
    let time = |text: &str| {
        text.parse::<k8s_openapi::jiff::Timestamp>().map_err(|e| anyhow::anyhow!("time {text:?}: {e}"))
    };
    let became = time(text(condition(&seen, "Ready"), "/lastTransitionTime"))?;
    let started = time(text(container_status(&seen, "test-webserver"), "/state/running/startedAt"))?;
    let delay = became.as_second() - started.as_second();
    anyhow::ensure!(
        delay >= 15,
        "the pod became ready {delay} s after its container had started, before the initial delay"
    );
    ensure_eq!(restarts(&seen), 0, "restarts");
    Ok(())
}

async fn never_ready(c: Context) -> Result<()> {
    let pod = readiness(&c, json!({"exec": {"command": ["/bin/false"]}}), json!({}));
    let name = text(&pod, "/metadata/name").to_string();
    c.pods().create(&pod).await?;
    let limit = Duration::from_secs(60);
    c.pods().never(&name, limit, "the pod became ready", |p| p.is_some_and(ready)).await?;
    let seen = c.pods().get(&name).await?;
    ensure_eq!(phase(&seen), "Running", "phase after a minute");
    anyhow::ensure!(!ready(&seen), "the pod is ready");
    ensure_eq!(restarts(&seen), 0, "restarts");
    Ok(())
}
