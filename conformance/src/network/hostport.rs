//! Upstream: `test/e2e/network/hostport.go`.

use std::time::Duration;

use serde_json::json;

use super::reach::{REACH, ask, ask_udp, host, node_addresses, server};
use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::pods::{container, pod};
use crate::watch::poll;

tests! {
    "[sig-network] HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol [LinuxOnly]" => no_conflict,
}

async fn no_conflict(c: Context) -> Result<()> {
    let node = c.node().await?;
    let address = node_addresses(&c).await?.into_iter().next().unwrap_or_default();
    let port = 54323;
    let cases =
        [("pod1", "127.0.0.1", "TCP"), ("pod2", address.as_str(), "TCP"), ("pod3", address.as_str(), "UDP")];
    for (name, ip, protocol) in cases {
        let mut pod = server(name, 8080, json!({"name": name}));
        pod["spec"]["containers"][0]["ports"] =
            json!([{"hostPort": port, "containerPort": 8080, "protocol": protocol, "hostIP": ip}]);
        pod["spec"]["nodeSelector"] =
            json!({"kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]});
        let running = c.start(&pod).await?;
        ensure_eq!(text(&running, "/spec/nodeName"), text(&node, "/metadata/name"), "node of {name}");
    }
    let from = "e2e-host-exec";
    let mut exec = pod(from, json!([container("agnhost", AGNHOST, &["pause"])]));
    exec["spec"]["hostNetwork"] = json!(true);
    exec["spec"]["nodeSelector"] =
        json!({"kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]});
    c.start(&exec).await?;
    for (name, ip, protocol) in cases {
        let what = format!("{protocol} {ip}:{port} must be served by {name}");
        poll(REACH, Duration::from_secs(1), &what, || async {
            let seen = match (protocol, ip) {
                ("TCP", "127.0.0.1") => {
                    let url = format!("http://{}:{port}/hostname", host(ip));
                    c.exec_ok(
                        from,
                        "",
                        &["curl", "-g", "-s", "--connect-timeout", "5", "--interface", &address, &url],
                    )
                    .await?
                }
                ("TCP", _) => ask(&c, from, ip, port).await?,
                _ => ask_udp(&c, from, ip, port).await?,
            };
            ensure_eq!(seen, name, "who answers");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}
