//! Upstream: `test/e2e/network/service.go`, the tests of traffic.

use serde_json::{Value, json};

use super::reach::{ask_udp, client, has_endpoints, node_addresses, served_by, server};
use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::kinds::SERVICES;
use crate::watch::poll;

tests! {
    "[sig-network] Services should serve a basic endpoint from pods" => basic,
    "[sig-network] Services should serve multiport endpoints from pods" => multiport,
    "[sig-network] Services should serve endpoints on same port and different protocols" => protocols,
    "[sig-network] Services should be able to create a functioning NodePort service" => node_port,
}

fn service(name: &str, selector: Value, ports: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": selector, "ports": ports}})
}

async fn basic(c: Context) -> Result<()> {
    let name = "endpoint-test2";
    let ports = json!([{"port": 80, "targetPort": 80, "protocol": "TCP"}]);
    let made = c.create(&SERVICES, &service(name, json!({"testid": name}), ports)).await?;
    let ip = text(&made, "/spec/clusterIP").to_string();
    has_endpoints(&c, name, &[]).await?;
    let from = client(&c).await?;
    let labels = json!({"testid": name});
    c.start(&server("pod1", 80, labels.clone())).await?;
    has_endpoints(&c, name, &[("pod1", 80)]).await?;
    served_by(&c, &from, name, 80, &["pod1"]).await?;
    served_by(&c, &from, &ip, 80, &["pod1"]).await?;
    c.start(&server("pod2", 80, labels)).await?;
    has_endpoints(&c, name, &[("pod1", 80), ("pod2", 80)]).await?;
    served_by(&c, &from, &ip, 80, &["pod1", "pod2"]).await?;
    c.remove_pod("pod1").await?;
    has_endpoints(&c, name, &[("pod2", 80)]).await?;
    served_by(&c, &from, &ip, 80, &["pod2"]).await?;
    c.remove_pod("pod2").await?;
    has_endpoints(&c, name, &[]).await
}

async fn multiport(c: Context) -> Result<()> {
    let name = "multi-endpoint-test";
    let ports = json!([
        {"name": "portname1", "port": 80, "targetPort": "svc1"},
        {"name": "portname2", "port": 81, "targetPort": "svc2"},
    ]);
    let made = c.create(&SERVICES, &service(name, json!({"testid": name}), ports)).await?;
    let ip = text(&made, "/spec/clusterIP").to_string();
    has_endpoints(&c, name, &[]).await?;
    let from = client(&c).await?;
    for (pod, port, port_name) in [("pod1", 100, "svc1"), ("pod2", 101, "svc2")] {
        let mut server = server(pod, port, json!({"testid": name}));
        server["spec"]["containers"][0]["ports"] = json!([{"name": port_name, "containerPort": port}]);
        c.start(&server).await?;
        let wanted: &[(&str, i64)] =
            if pod == "pod1" { &[("pod1", 100)] } else { &[("pod1", 100), ("pod2", 101)] };
        has_endpoints(&c, name, wanted).await?;
    }
    served_by(&c, &from, &ip, 80, &["pod1"]).await?;
    served_by(&c, &from, &ip, 81, &["pod2"]).await?;
    c.remove_pod("pod1").await?;
    has_endpoints(&c, name, &[("pod2", 101)]).await?;
    c.remove_pod("pod2").await?;
    has_endpoints(&c, name, &[]).await
}

async fn protocols(c: Context) -> Result<()> {
    let name = "multiprotocol-test";
    let tcp = json!({"name": "tcp-port", "port": 80, "targetPort": 8080, "protocol": "TCP"});
    let udp = json!({"name": "udp-port", "port": 80, "targetPort": 8080, "protocol": "UDP"});
    let selector = json!({"testid": name});
    let made = c.create(&SERVICES, &service(name, selector.clone(), json!([tcp, udp]))).await?;
    let ip = text(&made, "/spec/clusterIP").to_string();
    let from = client(&c).await?;
    let mut both = server("pod1", 8080, selector);
    both["spec"]["containers"][0]["args"] = json!(["netexec", "--http-port=8080", "--udp-port=8080"]);
    c.start(&both).await?;
    has_endpoints(&c, name, &[("pod1", 8080)]).await?;
    let over_udp = || async {
        poll(super::reach::REACH, std::time::Duration::from_secs(1), "the service over UDP", || async {
            ensure_eq!(ask_udp(&c, &from, &ip, 80).await?, "pod1", "who answers over UDP");
            Ok(Some(()))
        })
        .await
    };
    served_by(&c, &from, &ip, 80, &["pod1"]).await?;
    over_udp().await?;
    let api = c.api(&SERVICES);
    api.modify(name, |s| s["spec"]["ports"] = json!([udp])).await?;
    over_udp().await?;
    super::reach::unreachable(&c, &from, &ip, 80).await?;
    api.modify(name, |s| s["spec"]["ports"] = json!([tcp])).await?;
    served_by(&c, &from, &ip, 80, &["pod1"]).await?;
    let what = "UDP must not be served any more";
    poll(super::reach::REACH, std::time::Duration::from_secs(1), what, || async {
        let line = format!("echo hostname | nc -u -w 2 {ip} 80");
        let out = c.exec(&from, "", &["/bin/sh", "-c", &line]).await?;
        anyhow::ensure!(out.stdout.trim().is_empty(), "{:?} answered", out.stdout);
        Ok(Some(()))
    })
    .await
}

async fn node_port(c: Context) -> Result<()> {
    let name = "nodeport-test";
    let mut service =
        service(name, json!({"testid": name}), json!([{"port": 80, "targetPort": 9376, "protocol": "TCP"}]));
    service["spec"]["type"] = json!("NodePort");
    let made = c.create(&SERVICES, &service).await?;
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or(0);
    anyhow::ensure!(port > 0, "the service has no node port: {}", made["spec"]);
    for pod in ["nodeport-test-1", "nodeport-test-2"] {
        c.start(&server(pod, 9376, json!({"testid": name}))).await?;
    }
    let both = ["nodeport-test-1", "nodeport-test-2"];
    has_endpoints(&c, name, &[(both[0], 9376), (both[1], 9376)]).await?;
    let from = client(&c).await?;
    served_by(&c, &from, name, 80, &both).await?;
    served_by(&c, &from, text(&made, "/spec/clusterIP"), 80, &both).await?;
    for address in node_addresses(&c).await? {
        served_by(&c, &from, &address, port, &both).await?;
    }
    Ok(())
}
