//! Upstream: `test/e2e/common/node/downwardapi.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::pods::{command, pod};
use crate::quantity::whole;

tests! {
    "[sig-node] Downward API should provide pod name, namespace and IP address as env vars" => names,
    "[sig-node] Downward API should provide host IP as an env var" => host_ip,
    "[sig-node] Downward API should provide hostIPs as an env var" => host_ips,
    "[sig-node] Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars" => resources,
    "[sig-node] Downward API should provide default limits.cpu/memory from node allocatable" => allocatable,
    "[sig-node] Downward API should provide pod UID as env vars" => uid,
}

const ADDRESS: &str = r"(\d+\.\d+\.\d+\.\d+|[0-9a-f:]+:[0-9a-f:]+)";

fn fields(c: &Context, fields: &[(&str, &str)]) -> Value {
    let env: Vec<Value> =
        fields.iter().map(|(n, f)| json!({"name": n, "valueFrom": {"fieldRef": {"fieldPath": f}}})).collect();
    with_env(c, json!(env))
}

fn with_env(c: &Context, env: Value) -> Value {
    let mut container = command("dapi-container", BUSYBOX, &["sh", "-c", "env"]);
    container["env"] = env;
    pod(&c.unique("downward-api"), json!([container]))
}

async fn names(c: Context) -> Result<()> {
    let wanted =
        [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_IP", "status.podIP")];
    let pod = fields(&c, &wanted);
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let lines = [
        format!("(?m)^POD_NAME={}$", regex::escape(name)),
        format!("(?m)^POD_NAMESPACE={}$", c.namespace()),
        format!("(?m)^POD_IP={ADDRESS}$"),
    ];
    c.output_matches(&pod, "dapi-container", &[&lines[0], &lines[1], &lines[2]]).await
}

async fn host_ip(c: Context) -> Result<()> {
    let pod = fields(&c, &[("HOST_IP", "status.hostIP")]);
    c.output_matches(&pod, "dapi-container", &[&format!("(?m)^HOST_IP={ADDRESS}$")]).await
}

async fn host_ips(c: Context) -> Result<()> {
    let pod = fields(&c, &[("HOST_IPS", "status.hostIPs")]);
    c.output_matches(&pod, "dapi-container", &[&format!("(?m)^HOST_IPS={ADDRESS}(,{ADDRESS})*$")]).await
}

fn resource_env() -> Value {
    let one =
        |name: &str, from: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": from}}});
    json!([
        one("CPU_LIMIT", "limits.cpu"),
        one("MEMORY_LIMIT", "limits.memory"),
        one("CPU_REQUEST", "requests.cpu"),
        one("MEMORY_REQUEST", "requests.memory"),
    ])
}

async fn resources(c: Context) -> Result<()> {
    let mut pod = with_env(&c, resource_env());
    pod["spec"]["containers"][0]["resources"] = json!({
        "requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"},
    });
    let lines = ["CPU_LIMIT=2\n", "MEMORY_LIMIT=67108864\n", "CPU_REQUEST=1\n", "MEMORY_REQUEST=33554432\n"];
    c.output_has(&pod, "dapi-container", &lines).await
}

async fn allocatable(c: Context) -> Result<()> {
    let node = c.node().await?;
    let amount = |name: &str| whole(node["status"]["allocatable"][name].as_str().unwrap_or(""));
    let (cpu, memory) = (amount("cpu")?, amount("memory")?);
    anyhow::ensure!(cpu > 0 && memory > 0, "the node's allocatable is {}", node["status"]["allocatable"]);
    let mut pod = with_env(&c, resource_env());
    pod["spec"]["nodeName"] = node["metadata"]["name"].clone();
    let lines = [format!("CPU_LIMIT={cpu}\n"), format!("MEMORY_LIMIT={memory}\n")];
    c.output_has(&pod, "dapi-container", &[&lines[0], &lines[1]]).await
}

async fn uid(c: Context) -> Result<()> {
    let pod = fields(&c, &[("POD_UID", "metadata.uid")]);
    let line = "(?m)^POD_UID=[a-z0-9]{8}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{4}-[a-z0-9]{12}$";
    c.output_matches(&pod, "dapi-container", &[line]).await
}
