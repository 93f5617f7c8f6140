//! Upstream: `test/e2e/network/endpoints.go`, `endpointslicemirroring.go`, and the Endpoints tests of `service.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::reach::{REACH, server};
use crate::Result;
use crate::api::{Patch, array, text, version_of};
use crate::context::Context;
use crate::kinds::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use crate::rest::refused;

tests! {
    "[sig-network] Endpoints should test the lifecycle of an Endpoint" => lifecycle,
    "[sig-network] EndpointSliceMirroring should mirror a custom Endpoints resource through create update and delete" => mirroring,
    "[sig-network] EndpointsController should create Endpoints for Pods matching a Service" => matching,
    "[sig-network] EndpointsController should create and delete Endpoints for a Service with a selector that matches no pods" => no_match,
}

fn subsets(ip: &str, port: i64) -> Value {
    json!([{"addresses": [{"ip": ip}], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}])
}

async fn lifecycle(c: Context) -> Result<()> {
    let (api, name) = (c.api(&ENDPOINTS), "testservice");
    let query = [("labelSelector", "test-endpoint-static=true")];
    let list = api.list(&query).await?;
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    let limit = Duration::from_secs(30);
    api.create(&json!({"metadata": {"name": name, "labels": {"test-endpoint-static": "true"}}, "subsets": subsets("10.0.0.24", 80)})).await?;
    watch.until(limit, "the new Endpoints", |e| e.kind == "ADDED").await?;
    let all = c.api_all(&ENDPOINTS).items(&query).await?;
    let own =
        |e: &&Value| text(e, "/metadata/name") == name && text(e, "/metadata/namespace") == c.namespace();
    let found = all.iter().find(own);
    let Some(found) = found else { anyhow::bail!("not listed over all namespaces: {all:?}") };
    let mut changed = found.clone();
    changed["metadata"]["labels"]["test-service"] = json!("updated");
    api.update(&changed).await?;
    watch
        .until(limit, "the updated Endpoints", |e| {
            e.object["metadata"]["labels"]["test-service"] == "updated"
        })
        .await?;
    let patch =
        json!({"metadata": {"labels": {"test-service": "patched"}}, "subsets": subsets("10.0.0.25", 8080)});
    api.patch(name, Patch::Strategic(patch)).await?;
    watch
        .until(limit, "the patched Endpoints", |e| {
            e.object["metadata"]["labels"]["test-service"] == "patched"
        })
        .await?;
    let seen = api.get(name).await?;
    ensure_eq!(text(&seen, "/subsets/0/addresses/0/ip"), "10.0.0.25", "address after the patch");
    ensure_eq!(seen["subsets"][0]["ports"][0]["port"], json!(8080), "port after the patch");
    api.delete_collection(&query).await?;
    watch.until(limit, "the deleted Endpoints", |e| e.kind == "DELETED").await?;
    refused(api.get(name).await, 404, "reading the deleted Endpoints").map(|_| ())
}

async fn mirroring(c: Context) -> Result<()> {
    let (api, name) = (c.api(&ENDPOINTS), "example-custom-endpoints");
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    c.create(&SERVICES, &service).await?;
    let selector = format!("kubernetes.io/service-name={name}");
    let query = [("labelSelector", selector.as_str())];
    let mirrored = |ip: &'static str, port: i64| {
        let c = c.clone();
        let selector = selector.clone();
        async move {
            let what = format!("a mirrored slice of {ip}:{port}");
            c.api(&ENDPOINT_SLICES)
                .wait_set(&[("labelSelector", &selector)], REACH, &what, |slices| {
                    let [slice] = slices else { return Ok(None) };
                    let manager = text(slice, "/metadata/labels/endpointslice.kubernetes.io~1managed-by");
                    ensure_eq!(manager, "endpointslicemirroring-controller.k8s.io", "label managed-by");
                    let fits = text(slice, "/endpoints/0/addresses/0") == ip
                        && slice["ports"][0]["port"] == port
                        && array(slice, "/endpoints").len() == 1;
                    Ok(fits.then_some(()))
                })
                .await
        }
    };
    api.create(&json!({"metadata": {"name": name}, "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]})).await?;
    mirrored("10.1.2.3", 80).await?;
    api.modify(name, |e| {
        e["subsets"] = json!([{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"port": 9090}]}])
    })
    .await?;
    mirrored("10.2.3.4", 9090).await?;
    api.delete(name).await?;
    c.api(&ENDPOINT_SLICES)
        .wait_set(&query, REACH, "no mirrored slice left", |l| Ok(l.is_empty().then_some(())))
        .await
}

async fn matching(c: Context) -> Result<()> {
    let labels = json!({"foo": "bar"});
    for name in ["pod1", "pod2"] {
        c.start(&server(name, 8080, labels.clone())).await?;
    }
    let named = |name: &str, target: Value| json!({"metadata": {"name": name}, "spec": {"selector": {"foo": "bar"}, "ports": [{"name": "example", "port": 80, "targetPort": target, "protocol": "TCP"}]}});
    c.create(&SERVICES, &named("example-int-port", json!(8080))).await?;
    c.create(&SERVICES, &named("example-named-port", json!("tcp"))).await?;
    for service in ["example-int-port", "example-named-port"] {
        c.api(&ENDPOINTS)
            .wait(service, REACH, "Endpoints of both pods", |e| {
                let Some(e) = e else { return Ok(false) };
                let addresses = array(e, "/subsets/0/addresses");
                let mut names: Vec<&str> = addresses.iter().map(|a| text(a, "/targetRef/name")).collect();
                names.sort_unstable();
                let port = &e["subsets"][0]["ports"][0];
                Ok(names == ["pod1", "pod2"]
                    && port["port"] == 8080
                    && port["name"] == "example"
                    && addresses.iter().all(|a| a["targetRef"]["kind"] == "Pod" && a["nodeName"].is_string()))
            })
            .await?;
    }
    Ok(())
}

async fn no_match(c: Context) -> Result<()> {
    let name = "example-empty-selector";
    let service = json!({"metadata": {"name": name}, "spec": {"selector": {"does-not-match-anything": "endpoints-and-endpoint-slices-should-still-be-created"}, "ports": [{"name": "example", "port": 80, "protocol": "TCP"}]}});
    c.create(&SERVICES, &service).await?;
    let api = c.api(&ENDPOINTS);
    let made = api.wait(name, REACH, "Endpoints without addresses", |e| Ok(e.is_some())).await?;
    ensure_eq!(array(&made, "/subsets").len(), 0, "subsets");
    c.api(&SERVICES).delete(name).await?;
    api.wait_gone(name, REACH).await
}
