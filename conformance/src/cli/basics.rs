//! Upstream's kubectl.go: api-versions, cluster-info, version.

use super::kubectl::kubectl;
use crate::Result;
use crate::context::Context;

tests! {
    "[sig-cli] Kubectl client Kubectl api-versions should check if v1 is in available api versions" => api_versions,
    "[sig-cli] Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is included in cluster-info" => cluster_info,
    "[sig-cli] Kubectl client Kubectl version should check is all data is printed" => version,
}

async fn api_versions(cx: Context) -> Result<()> {
    let out = kubectl(&cx, &["api-versions"]).await?;
    anyhow::ensure!(out.lines().any(|l| l.trim() == "v1"), "v1 is not among the versions: {out}");
    Ok(())
}

async fn cluster_info(cx: Context) -> Result<()> {
    let out = kubectl(&cx, &["cluster-info"]).await?;
    let plain = regex::Regex::new("\x1b\\[[0-9;]*m")?.replace_all(&out, "").into_owned();
    ensure_contains!(plain, "Kubernetes control plane", "cluster-info");
    ensure_contains!(plain, "is running at", "cluster-info");
    Ok(())
}

async fn version(cx: Context) -> Result<()> {
    let out = kubectl(&cx, &["version"]).await?;
    for wanted in ["Client Version: ", "Server Version: "] {
        ensure_contains!(out, wanted, "version");
    }
    Ok(())
}
