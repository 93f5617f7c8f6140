//! What the tests of services have in common: servers, a pod to ask from, and requests that must reach.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{array, text};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::ENDPOINT_SLICES;
use crate::pods::{container, pod};
use crate::watch::poll;

/// How long a changed service may take to be reachable.
pub const REACH: Duration = Duration::from_secs(120);

/// A pod that answers with its name on a port, TCP and UDP.
pub fn server(name: &str, port: u16, labels: Value) -> Value {
    let (http, udp) = (format!("--http-port={port}"), format!("--udp-port={port}"));
    let mut main = container("agnhost-container", AGNHOST, &["netexec", &http, &udp]);
    main["readinessProbe"] = json!({"httpGet": {"path": "/hostName", "port": port}, "periodSeconds": 1});
    main["ports"] = json!([
        {"name": "tcp", "containerPort": port, "protocol": "TCP"},
        {"name": "udp", "containerPort": port, "protocol": "UDP"},
    ]);
    let mut pod = pod(name, json!([main]));
    pod["metadata"]["labels"] = labels;
    pod
}

/// A pod to run commands in.
pub async fn client(c: &Context) -> Result<String> {
    let name = c.unique("execpod");
    c.start(&pod(&name, json!([container("agnhost-container", AGNHOST, &["pause"])]))).await?;
    Ok(name)
}

/// An address as it stands in a URL.
pub fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_string() }
}

/// The host name that answers over HTTP, asked from a pod.
pub async fn ask(c: &Context, from: &str, address: &str, port: i64) -> Result<String> {
    let url = format!("http://{}:{port}/hostname", host(address));
    c.exec_ok(from, "", &["curl", "-q", "-s", "--connect-timeout", "2", "-m", "5", &url]).await
}

/// The host name that answers over UDP, asked from a pod.
pub async fn ask_udp(c: &Context, from: &str, address: &str, port: i64) -> Result<String> {
    c.shell(from, "", &format!("echo hostname | nc -u -w 2 {address} {port}")).await
}

/// Asks until these servers have answered and none but them.
pub async fn served_by(c: &Context, from: &str, address: &str, port: i64, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_string()).collect();
    let what = format!("{address}:{port} must be served by {wanted:?}");
    poll(REACH, Duration::from_millis(500), &what, || async {
        let mut seen = BTreeSet::new();
        for _ in 0..(wanted.len() * 12) {
            let answer = ask(c, from, address, port).await?;
            anyhow::ensure!(wanted.contains(&answer), "{answer:?} answered");
            seen.insert(answer);
            if seen == wanted {
                return Ok(Some(()));
            }
        }
        anyhow::bail!("only {seen:?} answered")
    })
    .await
}

/// Nobody answers any more.
pub async fn unreachable(c: &Context, from: &str, address: &str, port: i64) -> Result<()> {
    let what = format!("{address}:{port} must not answer");
    poll(REACH, Duration::from_secs(1), &what, || async {
        let url = format!("http://{}:{port}/hostname", host(address));
        let out = c.exec(from, "", &["curl", "-q", "-s", "--connect-timeout", "2", "-m", "5", &url]).await?;
        anyhow::ensure!(out.code != 0, "{:?} answered", out.stdout);
        Ok(Some(()))
    })
    .await
}

/// Waits until the slices of a service list these pods with this port, and nothing else.
pub async fn has_endpoints(c: &Context, service: &str, wanted: &[(&str, i64)]) -> Result<()> {
    let selector = format!("kubernetes.io/service-name={service}");
    let wanted: BTreeSet<(String, i64)> = wanted.iter().map(|(n, p)| ((*n).to_string(), *p)).collect();
    let what = format!("endpoints {wanted:?} of service {service}");
    c.api(&ENDPOINT_SLICES)
        .wait_set(&[("labelSelector", &selector)], REACH, &what, |slices| {
            let mut seen = BTreeSet::new();
            for slice in slices {
                for e in array(slice, "/endpoints").iter().filter(|e| e["conditions"]["ready"] != false) {
                    for p in array(slice, "/ports") {
                        seen.insert((
                            text(e, "/targetRef/name").to_string(),
                            p["port"].as_i64().unwrap_or(0),
                        ));
                    }
                }
            }
            Ok((seen == wanted).then_some(()))
        })
        .await
}

/// Internal addresses of the usable nodes.
pub async fn node_addresses(c: &Context) -> Result<Vec<String>> {
    let nodes = c.nodes().await?;
    let internal = |n: &Value| {
        array(n, "/status/addresses")
            .iter()
            .find(|a| a["type"] == "InternalIP")
            .map(|a| text(a, "/address").to_string())
    };
    Ok(nodes.iter().filter_map(internal).collect())
}
