//! Upstream: `test/e2e/network/endpointslice.go`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::reach::{REACH, client, has_endpoints, served_by, server};
use crate::Result;
use crate::api::{array, text};
use crate::battery::operations;
use crate::context::Context;
use crate::kinds::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};

tests! {
    "[sig-network] EndpointSlice should support creating EndpointSlice API operations" => api,
    "[sig-network] EndpointSlice should create and delete EndpointSlices for a Service with a selector that matches no pods" => no_match,
    "[sig-network] EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service" => matching,
    "[sig-network] EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices" => many_addresses,
    "[sig-network] EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices" => many_ports,
}

async fn api(c: Context) -> Result<()> {
    let body = json!({
        "metadata": {},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["1.2.3.4"]}, {"addresses": ["5.6.7.8"]}],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    });
    operations(&c, &ENDPOINT_SLICES, body, None).await
}

async fn no_match(c: Context) -> Result<()> {
    let name = "example-empty-selector";
    let service = json!({"metadata": {"name": name}, "spec": {"selector": {"does-not-match-anything": "true"}, "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    c.create(&SERVICES, &service).await?;
    let selector = format!("kubernetes.io/service-name={name}");
    let query = [("labelSelector", selector.as_str())];
    let slices = c.api(&ENDPOINT_SLICES);
    slices
        .wait_set(&query, REACH, "one slice without endpoints", |l| {
            let [slice] = l else { return Ok(None) };
            ensure_eq!(array(slice, "/endpoints").len(), 0, "endpoints of the slice");
            let manager = text(slice, "/metadata/labels/endpointslice.kubernetes.io~1managed-by");
            ensure_eq!(manager, "endpointslice-controller.k8s.io", "label managed-by");
            Ok(Some(()))
        })
        .await?;
    c.api(&ENDPOINTS).wait(name, REACH, "Endpoints", |e| Ok(e.is_some())).await?;
    c.api(&SERVICES).delete(name).await?;
    slices.wait_set(&query, REACH, "no slice left", |l| Ok(l.is_empty().then_some(()))).await?;
    c.api(&ENDPOINTS).wait_gone(name, REACH).await
}

async fn matching(c: Context) -> Result<()> {
    let labels = json!({"foo": "bar", "baz": "qux"});
    let pod1 = c.start(&server("pod1", 3000, labels)).await?;
    let pod2 = c.start(&server("pod2", 3001, json!({"foo": "bar"}))).await?;
    let service = |name: &str, selector: Value, target: Value| json!({"metadata": {"name": name}, "spec": {"selector": selector, "publishNotReadyAddresses": true, "ports": [{"name": "example", "port": 80, "targetPort": target, "protocol": "TCP"}]}});
    c.create(&SERVICES, &service("example-int-port", json!({"foo": "bar", "baz": "qux"}), json!(3000)))
        .await?;
    c.create(&SERVICES, &service("example-named-port", json!({"foo": "bar"}), json!("tcp"))).await?;
    c.create(&SERVICES, &service("example-no-match", json!({"foo": "no-match"}), json!(8080))).await?;
    has_endpoints(&c, "example-int-port", &[("pod1", 3000)]).await?;
    has_endpoints(&c, "example-named-port", &[("pod1", 3000), ("pod2", 3001)]).await?;
    has_endpoints(&c, "example-no-match", &[]).await?;
    for (name, pods) in [("example-int-port", vec![&pod1]), ("example-named-port", vec![&pod1, &pod2])] {
        let slices = c.api(&ENDPOINT_SLICES).labelled(&format!("kubernetes.io/service-name={name}")).await?;
        for pod in pods {
            let ip = text(pod, "/status/podIP");
            let endpoints = slices.iter().flat_map(|s| array(s, "/endpoints"));
            let mut of_pod = endpoints.filter(|e| text(e, "/addresses/0") == ip);
            let Some(endpoint) = of_pod.next() else {
                anyhow::bail!("no slice of {name} has {ip}: {slices:?}")
            };
            ensure_eq!(endpoint["targetRef"]["uid"], pod["metadata"]["uid"], "uid of the endpoint's pod");
            ensure_eq!(text(endpoint, "/targetRef/kind"), "Pod", "kind of the endpoint's target");
            ensure_eq!(endpoint["nodeName"], pod["spec"]["nodeName"], "node of the endpoint");
            ensure_eq!(endpoint["conditions"]["ready"], json!(true), "readiness of the endpoint");
        }
        let endpoints = c.api(&ENDPOINTS).get(name).await?;
        let addresses: BTreeSet<&str> = array(&endpoints, "/subsets")
            .iter()
            .flat_map(|s| array(s, "/addresses"))
            .map(|a| text(a, "/ip"))
            .collect();
        let wanted = if name == "example-int-port" { 1 } else { 2 };
        ensure_eq!(addresses.len(), wanted, "addresses of the Endpoints {name}");
    }
    Ok(())
}

fn slice(service: &str, suffix: &str, ip: &str, ports: Value) -> Value {
    json!({
        "metadata": {
            "name": format!("{service}-custom-{suffix}"),
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "e2e-test.example.com"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]}],
        "ports": ports,
    })
}

async fn many_addresses(c: Context) -> Result<()> {
    let name = "example-custom-endpoints";
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "port80", "port": 80, "protocol": "TCP"}]}});
    let made = c.create(&SERVICES, &service).await?;
    for pod in ["pod1", "pod2"] {
        let running = c.start(&server(pod, 8080, json!({}))).await?;
        let ports = json!([{"name": "port80", "port": 8080, "protocol": "TCP"}]);
        c.create(&ENDPOINT_SLICES, &slice(name, pod, text(&running, "/status/podIP"), ports)).await?;
    }
    let from = client(&c).await?;
    served_by(&c, &from, text(&made, "/spec/clusterIP"), 80, &["pod1", "pod2"]).await
}

async fn many_ports(c: Context) -> Result<()> {
    let name = "example-custom-endpoints";
    let ports = json!([
        {"name": "port80", "port": 80, "protocol": "TCP"},
        {"name": "port81", "port": 81, "protocol": "TCP"},
    ]);
    let made = c.create(&SERVICES, &json!({"metadata": {"name": name}, "spec": {"ports": ports}})).await?;
    for (pod, service_port, port) in [("pod1", "port80", 8090), ("pod2", "port81", 9090)] {
        let running = c.start(&server(pod, port, json!({}))).await?;
        let ports = json!([{"name": service_port, "port": port, "protocol": "TCP"}]);
        c.create(&ENDPOINT_SLICES, &slice(name, pod, text(&running, "/status/podIP"), ports)).await?;
    }
    let from = client(&c).await?;
    let ip = text(&made, "/spec/clusterIP");
    served_by(&c, &from, ip, 80, &["pod1"]).await?;
    served_by(&c, &from, ip, 81, &["pod2"]).await
}
