//! Upstream: `test/e2e/common/node/lifecycle_hook.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::images::{AGNHOST, PAUSE};
use crate::pods::{container, pod};

tests! {
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly" => |c| hook(c, "postStart", "poststart", true),
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly" => |c| hook(c, "preStop", "prestop", true),
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly" => |c| hook(c, "postStart", "poststart", false),
    "[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly" => |c| hook(c, "preStop", "prestop", false),
}

/// A pod that is told of the hooks, and its address.
async fn listener(c: &Context) -> Result<String> {
    let mut server = container("container-handle-http-request", AGNHOST, &["netexec"]);
    server["ports"] = json!([{"containerPort": 8080, "protocol": "TCP"}]);
    let made = c.start(&pod("pod-handle-http-request", json!([server]))).await?;
    Ok(text(&made, "/status/podIP").to_string())
}

async fn hook(c: Context, when: &str, message: &str, exec: bool) -> Result<()> {
    let ip = listener(&c).await?;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let action: Value = if exec {
        json!({"exec": {"command": ["sh", "-c", format!("curl http://{host}:8080/echo?msg={message}")]}})
    } else {
        json!({"httpGet": {"path": format!("/echo?msg={message}"), "host": ip, "port": 8080}})
    };
    let name = format!("pod-with-{message}-hook");
    let mut main = if exec { container(&name, AGNHOST, &["pause"]) } else { container(&name, PAUSE, &[]) };
    main["lifecycle"] = json!({when: action});
    let mut pod = pod(&name, json!([main]));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(15);
    c.start(&pod).await?;
    let wanted = format!("GET /echo?msg={message}");
    let limit = Duration::from_secs(30);
    let (server, inside) = ("pod-handle-http-request", "container-handle-http-request");
    if when == "postStart" {
        c.logs_until(server, inside, &wanted, limit).await?;
        return c.remove_pod(&name).await;
    }
    let before = c.pods().logs(server, inside).await?;
    anyhow::ensure!(!before.contains(&wanted), "the preStop hook ran before the pod was deleted");
    c.remove_pod(&name).await?;
    c.logs_until(server, inside, &wanted, limit).await.map(|_| ())
}
