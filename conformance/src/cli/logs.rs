//! Upstream's kubectl/logs.go.

use std::time::Duration;

use super::kubectl::kubectl;
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;

tests! {
    "[sig-cli] Kubectl logs logs should be able to retrieve and filter logs" => logs,
}

const POD: &str = "logs-generator";

async fn log(cx: &Context, options: &[&str]) -> Result<String> {
    let mut args = vec!["logs", POD, POD];
    args.extend(options);
    kubectl(cx, &args).await
}

async fn logs(cx: Context) -> Result<()> {
    let image = format!("--image={AGNHOST}");
    let args = [
        "run",
        POD,
        &image,
        "--restart=Never",
        "--pod-running-timeout=2m0s",
        "--",
        "logs-generator",
        "--log-lines-total",
        "100",
        "--run-duration",
        "20s",
    ];
    kubectl(&cx, &args).await?;
    cx.pods().wait_ready(POD).await?;
    cx.logs_until(POD, POD, "/api/v1/namespaces", Duration::from_secs(60)).await?;
    let tail = log(&cx, &["--tail=1"]).await?;
    anyhow::ensure!(!tail.is_empty(), "--tail=1 shows nothing");
    ensure_eq!(tail.lines().count(), 1, "lines of --tail=1: {tail:?}");
    let limited = log(&cx, &["--limit-bytes=1"]).await?;
    ensure_eq!(limited.len(), 1, "bytes of --limit-bytes=1: {limited:?}");
    let stamped = log(&cx, &["--tail=1", "--timestamps"]).await?;
    ensure_eq!(stamped.lines().count(), 1, "lines of --tail=1 --timestamps: {stamped:?}");
    let stamp = stamped.split_whitespace().next().unwrap_or("");
    let form = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")?;
    anyhow::ensure!(form.is_match(stamp), "{stamp:?} is no RFC 3339 time");
    // Lines come about each 200 ms: after some seconds the last one is not all of them.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let recent = log(&cx, &["--since=1s"]).await?.lines().count();
    let all = log(&cx, &["--since=24h"]).await?.lines().count();
    anyhow::ensure!(recent < all, "--since=1s shows {recent} lines, --since=24h {all}");
    kubectl(&cx, &["delete", "pod", POD]).await.map(|_| ())
}
