//! Upstream: `test/e2e/storage/subpath.go`.

use serde_json::{Value, json};

use super::keyed::Flavour::{ConfigMap, Secret};
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{CONFIG_MAPS, SECRETS};
use crate::pods::{container, pod};

tests! {
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with secret pod" => secret,
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod" => |c| config_map(c, "/test-volume"),
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of existing file" => |c| config_map(c, "/etc/resolv.conf"),
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with downward pod" => downward,
    "[sig-storage] Subpath Atomic writer volumes should support subpaths with projected pod" => projected,
}

/// A pod whose init container and container read a file through a subPath; upstream loops for 20 s.
async fn reads(c: &Context, sub_path: &str, source: Value, mount: &str, content: Option<&str>) -> Result<()> {
    let name = c.unique("pod-subpath-test");
    let args = ["mounttest", &format!("--file_content_in_loop={mount}"), "--retry_time=20"];
    let mut reader = container("test-container-subpath", AGNHOST, &args);
    reader["volumeMounts"] = json!([{"name": "test-volume", "mountPath": mount, "subPath": sub_path}]);
    let mut whole = container("test-container-volume", AGNHOST, &["mounttest", "--file_mode=/probe-volume"]);
    whole["volumeMounts"] = json!([{"name": "test-volume", "mountPath": "/probe-volume"}]);
    let mut init =
        container("test-init-subpath", AGNHOST, &["mounttest", &format!("--file_content={mount}")]);
    init["volumeMounts"] = reader["volumeMounts"].clone();
    let mut pod = pod(&name, json!([reader, whole]));
    pod["spec"]["initContainers"] = json!([init]);
    let mut volume = source;
    volume["name"] = json!("test-volume");
    pod["spec"]["volumes"] = json!([volume]);
    let wanted = format!("content of file \"{mount}\": {}", content.unwrap_or(&name));
    c.pods().create(&pod).await?;
    c.pods().wait_success(&name).await?;
    for container in ["test-container-subpath", "test-init-subpath"] {
        let logs = c.pods().logs(&name, container).await?;
        ensure_contains!(logs, wanted, "logs of {container}");
    }
    c.remove_pod(&name).await
}

async fn secret(c: Context) -> Result<()> {
    c.create(&SECRETS, &Secret.object("my-secret", &[("secret-key", "secret-value")])).await?;
    let source = json!({"secret": {"secretName": "my-secret"}});
    reads(&c, "secret-key", source, "/test-volume", Some("secret-value")).await
}

async fn config_map(c: Context, mount: &str) -> Result<()> {
    c.create(&CONFIG_MAPS, &ConfigMap.object("my-configmap", &[("configmap-key", "configmap-value")]))
        .await?;
    let source = json!({"configMap": {"name": "my-configmap"}});
    reads(&c, "configmap-key", source, mount, Some("configmap-value")).await
}

async fn downward(c: Context) -> Result<()> {
    let items = json!([{"path": "downward/podname", "fieldRef": {"fieldPath": "metadata.name"}}]);
    reads(&c, "downward/podname", json!({"downwardAPI": {"items": items}}), "/test-volume", None).await
}

async fn projected(c: Context) -> Result<()> {
    c.create(&CONFIG_MAPS, &ConfigMap.object("my-configmap", &[("configmap-key", "configmap-value")]))
        .await?;
    let items = json!([{"key": "configmap-key", "path": "projected/configmap-key"}]);
    let sources = json!([{"configMap": {"name": "my-configmap", "items": items}}]);
    let source = json!({"projected": {"sources": sources}});
    reads(&c, "projected/configmap-key", source, "/test-volume", Some("configmap-value")).await
}
