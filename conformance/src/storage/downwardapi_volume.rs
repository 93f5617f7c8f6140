//! Upstream: `test/e2e/common/storage/downwardapi_volume.go`; the projected twin shares its steps.

use serde_json::{Value, json};

use super::keyed::{PROPAGATION, mode_text, reader, watcher};
use crate::Result;
use crate::context::Context;
use crate::pods::pod;
use crate::quantity::whole;

tests! {
    "[sig-storage] Downward API volume should provide podname only" => |c| pod_name(c, false),
    "[sig-storage] Downward API volume should set DefaultMode on files [LinuxOnly]" => |c| mode(c, false, false),
    "[sig-storage] Downward API volume should set mode on item file [LinuxOnly]" => |c| mode(c, false, true),
    "[sig-storage] Downward API volume should update labels on modification" => |c| labels(c, false),
    "[sig-storage] Downward API volume should update annotations on modification" => |c| annotations(c, false),
    "[sig-storage] Downward API volume should provide container's cpu limit" => |c| resource(c, false, "limits.cpu", "2"),
    "[sig-storage] Downward API volume should provide container's memory limit" => |c| resource(c, false, "limits.memory", "67108864"),
    "[sig-storage] Downward API volume should provide container's cpu request" => |c| resource(c, false, "requests.cpu", "1"),
    "[sig-storage] Downward API volume should provide container's memory request" => |c| resource(c, false, "requests.memory", "33554432"),
    "[sig-storage] Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit is not set" => |c| allocatable(c, false, "cpu"),
    "[sig-storage] Downward API volume should provide node allocatable (memory) as default memory limit if the limit is not set" => |c| allocatable(c, false, "memory"),
}

fn volume(projected: bool, default_mode: Option<u32>, items: Value) -> Value {
    if projected {
        let sources = json!([{"downwardAPI": {"items": items}}]);
        json!([{"name": "podinfo", "projected": {"defaultMode": default_mode, "sources": sources}}])
    } else {
        json!([{"name": "podinfo", "downwardAPI": {"defaultMode": default_mode, "items": items}}])
    }
}

fn field(path: &str, from: &str) -> Value {
    json!({"path": path, "fieldRef": {"fieldPath": from}})
}

fn one(name: &str, volumes: Value, args: &[String]) -> Value {
    reader(name, volumes, json!([{"name": "podinfo", "mountPath": "/etc/podinfo"}]), args)
}

/// The pod's name in a file.
pub async fn pod_name(c: Context, projected: bool) -> Result<()> {
    let name = c.unique("downwardapi-volume");
    let volumes = volume(projected, None, json!([field("podname", "metadata.name")]));
    let pod = one(&name, volumes, &["--file_content=/etc/podinfo/podname".to_string()]);
    c.output_has(&pod, "agnhost-container", &[&format!("content of file \"/etc/podinfo/podname\": {name}\n")])
        .await
}

/// A mode for all files, or for one.
pub async fn mode(c: Context, projected: bool, item: bool) -> Result<()> {
    let mut name = field("podname", "metadata.name");
    if item {
        name["mode"] = json!(0o400);
    }
    let volumes = volume(projected, (!item).then_some(0o400), json!([name]));
    let pod =
        one(&c.unique("downwardapi-volume"), volumes, &["--file_mode=/etc/podinfo/podname".to_string()]);
    let wanted = format!("mode of file \"/etc/podinfo/podname\": {}", mode_text(0o400));
    c.output_has(&pod, "agnhost-container", &[&wanted]).await
}

async fn change(
    c: Context,
    projected: bool,
    field_name: &str,
    before: Value,
    after: Value,
    seen: [&str; 2],
) -> Result<()> {
    let name = c.unique(&format!("{field_name}update"));
    let mut pod = pod(&name, json!([watcher("client-container", "podinfo", "/etc/podinfo", field_name)]));
    pod["metadata"][field_name] = before;
    pod["spec"]["volumes"] =
        volume(projected, None, json!([field(field_name, &format!("metadata.{field_name}"))]));
    c.start(&pod).await?;
    c.logs_until(&name, "client-container", seen[0], PROPAGATION).await?;
    c.pods().modify(&name, |p| p["metadata"][field_name] = after.clone()).await?;
    c.logs_until(&name, "client-container", seen[1], PROPAGATION).await.map(|_| ())
}

/// A new label appears in the file.
pub async fn labels(c: Context, projected: bool) -> Result<()> {
    let before = json!({"key1": "value1", "key2": "value2"});
    let after = json!({"key1": "value1", "key2": "value2", "key3": "value3"});
    change(c, projected, "labels", before, after, ["key1=\"value1\"\n", "key3=\"value3\"\n"]).await
}

/// A changed annotation appears in the file.
pub async fn annotations(c: Context, projected: bool) -> Result<()> {
    let (before, after) = (json!({"builder": "bar"}), json!({"builder": "foo"}));
    change(c, projected, "annotations", before, after, ["builder=\"bar\"\n", "builder=\"foo\"\n"]).await
}

fn resource_volume(projected: bool, from: &str) -> Value {
    let item = json!({"path": "amount", "resourceFieldRef": {"containerName": "agnhost-container", "resource": from}});
    volume(projected, None, json!([item]))
}

/// A request or limit of the container in a file.
pub async fn resource(c: Context, projected: bool, from: &str, wanted: &str) -> Result<()> {
    let args = ["--file_content=/etc/podinfo/amount".to_string()];
    let mut pod = one(&c.unique("downwardapi-volume"), resource_volume(projected, from), &args);
    pod["spec"]["containers"][0]["resources"] = json!({
        "requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"},
    });
    let wanted = format!("content of file \"/etc/podinfo/amount\": {wanted}\n");
    c.output_has(&pod, "agnhost-container", &[&wanted]).await
}

/// Without a limit, what the node can give.
pub async fn allocatable(c: Context, projected: bool, resource: &str) -> Result<()> {
    let node = c.node().await?;
    let amount = whole(node["status"]["allocatable"][resource].as_str().unwrap_or(""))?;
    anyhow::ensure!(amount > 0, "the node's allocatable {resource} is {amount}");
    let args = ["--file_content=/etc/podinfo/amount".to_string()];
    let from = format!("limits.{resource}");
    let mut pod = one(&c.unique("downwardapi-volume"), resource_volume(projected, &from), &args);
    pod["spec"]["nodeName"] = node["metadata"]["name"].clone();
    let wanted = format!("content of file \"/etc/podinfo/amount\": {amount}\n");
    c.output_has(&pod, "agnhost-container", &[&wanted]).await
}
