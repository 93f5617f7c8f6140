//! Upstream: `test/e2e/network/service.go` and `test/e2e/network/endpointslice.go`, the tests of the API server's own service.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Result;
use crate::api::{array, text};
use crate::context::Context;
use crate::kinds::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};

tests! {
    "[sig-network] API Server should provide secure master service" => secure,
    "[sig-network] API Server should have Endpoints and EndpointSlices pointing to API Server" => points,
}

async fn secure(c: Context) -> Result<()> {
    let service = c.api_in(&SERVICES, "default").get("kubernetes").await?;
    let https = array(&service, "/spec/ports").iter().any(|p| p["name"] == "https" && p["port"] == 443);
    anyhow::ensure!(https, "the service kubernetes has no port https 443: {}", service["spec"]);
    Ok(())
}

async fn points(c: Context) -> Result<()> {
    let endpoints = c.api_in(&ENDPOINTS, "default").get("kubernetes").await?;
    let subsets = array(&endpoints, "/subsets");
    ensure_eq!(subsets.len(), 1, "subsets of the endpoints kubernetes");
    let slices =
        c.api_in(&ENDPOINT_SLICES, "default").labelled("kubernetes.io/service-name=kubernetes").await?;
    anyhow::ensure!(!slices.is_empty(), "no slice of the service kubernetes");
    let ports = |list: &[Value]| -> BTreeSet<String> {
        list.iter().map(|p| format!("{}/{}", p["name"], p["port"])).collect()
    };
    let wanted = ports(array(&subsets[0], "/ports"));
    anyhow::ensure!(!wanted.is_empty(), "endpoints without ports");
    let of_endpoints: BTreeSet<&str> =
        array(&subsets[0], "/addresses").iter().map(|a| text(a, "/ip")).collect();
    let mut of_slices = BTreeSet::new();
    for slice in &slices {
        ensure_eq!(ports(array(slice, "/ports")), wanted, "ports of the slice");
        let addresses = array(slice, "/endpoints").iter().flat_map(|e| array(e, "/addresses"));
        of_slices.extend(addresses.filter_map(Value::as_str));
    }
    anyhow::ensure!(!of_endpoints.is_empty(), "endpoints without addresses");
    ensure_eq!(of_slices, of_endpoints, "addresses of the slices");
    Ok(())
}
