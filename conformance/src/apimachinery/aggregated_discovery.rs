//! Upstream's aggregated_discovery.go.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::crd::{self, anything, version};
use crate::Result;
use crate::api::{array, text};
use crate::context::Context;

tests! {
    "[sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers" => raw,
    "[sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery request for CRDs" => raw_custom,
    "[sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface" => interface,
    "[sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface for CRDs" => interface_custom,
}

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// What client-go asks with: the aggregated form if there is one, else the plain one.
const CLIENT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

const LEGACY: &[(&str, &str, &str)] = &[("", "v1", "namespaces")];
const WANTED: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
];

async fn document(cx: &Context, path: &str, accept: &str) -> Result<Value> {
    let reply = cx.rest().raw(Method::GET, path, &[("accept", accept)], Vec::new()).await?;
    let media = reply.header("content-type").to_string();
    let list = reply.success(&format!("GET {path}"))?;
    ensure_eq!(text(&list, "/kind"), "APIGroupDiscoveryList", "kind of {path}");
    ensure_eq!(text(&list, "/apiVersion"), "apidiscovery.k8s.io/v2", "apiVersion of {path}");
    ensure_contains!(media, "g=apidiscovery.k8s.io", "content type of {path}");
    Ok(list)
}

fn has(list: &Value, (group, version, resource): (&str, &str, &str)) -> bool {
    array(list, "/items")
        .iter()
        .filter(|g| text(g, "/metadata/name") == group)
        .flat_map(|g| array(g, "/versions"))
        .filter(|v| v["version"] == version)
        .flat_map(|v| array(v, "/resources"))
        .any(|r| r["resource"] == resource)
}

async fn everything(cx: &Context, accept: &str) -> Result<()> {
    for (path, wanted) in [("/apis", WANTED), ("/api", LEGACY)] {
        let list = document(cx, path, accept).await?;
        for one in wanted {
            anyhow::ensure!(has(&list, *one), "{path} does not have {one:?}");
        }
    }
    Ok(())
}

async fn raw(cx: Context) -> Result<()> {
    everything(&cx, ACCEPT).await
}

async fn interface(cx: Context) -> Result<()> {
    everything(&cx, CLIENT).await
}

async fn custom(cx: &Context, accept: &str) -> Result<()> {
    let custom = crd::defined(cx, &crd::group(cx), true, json!([version("v1", true, anything())])).await?;
    let limit = Duration::from_secs(30);
    crate::watch::poll(limit, Duration::from_secs(1), "the custom resource is discovered", || async {
        let list = document(cx, "/apis", accept).await?;
        Ok(has(&list, (&custom.group, "v1", &custom.plural)).then_some(()))
    })
    .await
}

async fn raw_custom(cx: Context) -> Result<()> {
    custom(&cx, ACCEPT).await
}

async fn interface_custom(cx: Context) -> Result<()> {
    custom(&cx, CLIENT).await
}
