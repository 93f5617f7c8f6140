//! Running kubectl, and the manifests that several tests use.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::pods::phase;

/// Upstream's limit for a command.
const LIMIT: Duration = Duration::from_secs(330);

/// What a command wrote and how it ended.
pub(crate) struct Ran {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit code.
    pub code: i32,
}

/// The program with the cluster and the test's namespace.
pub(crate) fn command(cx: &Context, args: &[&str]) -> Command {
    let settings = cx.settings();
    let mut command = Command::new(&settings.kubectl);
    if !settings.kubeconfig.is_empty() {
        command.arg("--kubeconfig").arg(&settings.kubeconfig);
    }
    command.arg("--namespace").arg(cx.namespace()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs kubectl with an input to its end.
pub(crate) async fn run_with(cx: &Context, args: &[&str], input: &str) -> Result<Ran> {
    let what = format!("kubectl {}", args.join(" "));
    let mut child =
        command(cx, args).spawn().with_context(|| format!("{what}: {}", cx.settings().kubectl))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.with_context(|| what.clone())?;
    }
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let ended =
        ended.with_context(|| format!("{what}: not done within {LIMIT:?}"))?.with_context(|| what.clone())?;
    Ok(Ran {
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
        code: ended.status.code().unwrap_or(-1),
    })
}

/// Runs kubectl, which must succeed: its standard output.
pub(crate) async fn kubectl(cx: &Context, args: &[&str]) -> Result<String> {
    kubectl_with(cx, args, "").await
}

/// Runs kubectl with an input, which must succeed: its standard output.
pub(crate) async fn kubectl_with(cx: &Context, args: &[&str], input: &str) -> Result<String> {
    let ran = run_with(cx, args, input).await?;
    anyhow::ensure!(
        ran.code == 0,
        "kubectl {}: exit code {}: {}{}",
        args.join(" "),
        ran.code,
        ran.out,
        ran.err
    );
    Ok(ran.out)
}

/// A pod that sleeps, with a label `name`.
pub(crate) fn pause_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"terminationGracePeriodSeconds": 0,
                 "containers": [{"name": name, "image": crate::images::PAUSE, "ports": [{"containerPort": 80}]}]},
    })
}

/// Upstream's agnhost-primary controller.
pub(crate) fn primary_controller() -> Value {
    let labels = json!({"app": "agnhost", "role": "primary"});
    json!({
        "apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "agnhost-primary", "labels": labels},
        "spec": {"replicas": 1, "selector": labels, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{
                "name": "agnhost-primary", "image": AGNHOST,
                "ports": [{"name": "agnhost-server", "containerPort": 6379}],
            }]},
        }},
    })
}

/// Upstream's agnhost-primary Service.
pub(crate) fn primary_service() -> Value {
    let labels = json!({"app": "agnhost", "role": "primary"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "agnhost-primary", "labels": labels},
        "spec": {"ports": [{"port": 6379, "targetPort": "agnhost-server"}], "selector": labels},
    })
}

/// Waits until so many pods with a label run: their names.
pub(crate) async fn running(cx: &Context, selector: &str, count: usize) -> Result<Vec<String>> {
    let what = format!("{count} running pods with {selector}");
    cx.pods()
        .wait_set(&[("labelSelector", selector)], crate::context::POD_START, &what, |pods| {
            let up =
                pods.iter().filter(|p| phase(p) == "Running" && p["metadata"]["deletionTimestamp"].is_null());
            let names: Vec<String> = up.map(|p| crate::api::text(p, "/metadata/name").to_string()).collect();
            Ok((names.len() == count).then_some(names))
        })
        .await
}
