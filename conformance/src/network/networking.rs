//! Upstream: `test/e2e/common/network/networking.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::reach::{REACH, ask, ask_udp, host, server};
use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::pods::{container, pod};
use crate::watch::poll;

tests! {
    "[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http" => |c| intra(c, "http"),
    "[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: udp" => |c| intra(c, "udp"),
    "[sig-network] Networking Granular Checks: Pods should function for node-pod communication: http [LinuxOnly]" => |c| from_node(c, false),
    "[sig-network] Networking Granular Checks: Pods should function for node-pod communication: udp [LinuxOnly]" => |c| from_node(c, true),
}

/// A server on each node: its name and address.
async fn servers(c: &Context) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (n, node) in c.nodes().await?.iter().enumerate() {
        let name = format!("netserver-{n}");
        let mut pod = server(&name, 8083, json!({"name": name}));
        pod["spec"]["nodeSelector"] =
            json!({"kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]});
        let running = c.start(&pod).await?;
        out.push((name, text(&running, "/status/podIP").to_string()));
    }
    anyhow::ensure!(!out.is_empty(), "no usable node");
    Ok(out)
}

/// A pod asks a second pod to ask the server, as upstream does.
async fn intra(c: Context, protocol: &str) -> Result<()> {
    let servers = servers(&c).await?;
    let running = c.start(&server("test-container-pod", 9080, json!({}))).await?;
    let own = host(text(&running, "/status/podIP"));
    for (name, ip) in &servers {
        let query = format!("request=hostname&protocol={protocol}&host={ip}&port=8083&tries=1");
        let url = format!("http://{own}:9080/dial?{query}");
        poll(REACH, Duration::from_secs(1), &format!("{name} over {protocol}"), || async {
            let seen = c.exec_ok("test-container-pod", "", &["curl", "-g", "-q", "-s", &url]).await?;
            let seen: Value = serde_json::from_str(&seen).map_err(|e| anyhow::anyhow!("{seen:?}: {e}"))?;
            ensure_eq!(seen["responses"], json!([name]), "answer of dial");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

async fn from_node(c: Context, udp: bool) -> Result<()> {
    let servers = servers(&c).await?;
    let from = "host-test-container-pod";
    let mut exec = pod(from, json!([container("agnhost-container", AGNHOST, &["pause"])]));
    exec["spec"]["hostNetwork"] = json!(true);
    c.start(&exec).await?;
    for (name, ip) in &servers {
        poll(REACH, Duration::from_secs(1), &format!("{name} from the node"), || async {
            let seen = if udp { ask_udp(&c, from, ip, 8083).await? } else { ask(&c, from, ip, 8083).await? };
            ensure_eq!(seen, *name, "who answers");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}
