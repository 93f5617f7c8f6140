//! Upstream: `test/e2e/network/service.go`, the tests of session affinity.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::reach::{REACH, ask, client, has_endpoints, node_addresses, served_by, server};
use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::kinds::SERVICES;
use crate::watch::poll;

tests! {
    "[sig-network] Services should have session affinity work for service with type clusterIP [LinuxOnly]" => |c| affinity(c, "ClusterIP", false),
    "[sig-network] Services should be able to switch session affinity for service with type clusterIP [LinuxOnly]" => |c| affinity(c, "ClusterIP", true),
    "[sig-network] Services should have session affinity work for NodePort service [LinuxOnly]" => |c| affinity(c, "NodePort", false),
    "[sig-network] Services should be able to switch session affinity for NodePort service [LinuxOnly]" => |c| affinity(c, "NodePort", true),
}

/// Fifteen requests in a row must reach one server.
async fn sticks(c: &Context, from: &str, address: &str, port: i64) -> Result<()> {
    let what = format!("15 requests to {address}:{port} must reach one server");
    poll(REACH, Duration::from_secs(1), &what, || async {
        let mut seen = BTreeSet::new();
        for _ in 0..15 {
            seen.insert(ask(c, from, address, port).await?);
        }
        ensure_eq!(seen.len(), 1, "servers that answered: {seen:?}");
        Ok(Some(()))
    })
    .await
}

async fn affinity(c: Context, kind: &str, switch: bool) -> Result<()> {
    let name = format!("affinity-{}", kind.to_lowercase());
    let first = if switch { "None" } else { "ClientIP" };
    let service = json!({"metadata": {"name": name}, "spec": {
        "type": kind,
        "selector": {"testid": name},
        "sessionAffinity": first,
        "ports": [{"port": 80, "targetPort": 9376, "protocol": "TCP"}],
    }});
    let made = c.create(&SERVICES, &service).await?;
    ensure_eq!(text(&made, "/spec/sessionAffinity"), first, "affinity of the new service");
    if !switch {
        ensure_eq!(
            made["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
            json!(10800),
            "its time-out"
        );
    }
    let names: Vec<String> = (1..4).map(|n| format!("{name}-{n}")).collect();
    for pod in &names {
        c.start(&server(pod, 9376, json!({"testid": name}))).await?;
    }
    let wanted: Vec<(&str, i64)> = names.iter().map(|n| (n.as_str(), 9376)).collect();
    has_endpoints(&c, &name, &wanted).await?;
    let from = client(&c).await?;
    let target = if kind == "NodePort" {
        let address = node_addresses(&c).await?.into_iter().next().unwrap_or_default();
        (address, made["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or(0))
    } else {
        (text(&made, "/spec/clusterIP").to_string(), 80)
    };
    if switch {
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        served_by(&c, &from, &target.0, target.1, &all).await?;
        c.api(&SERVICES).modify(&name, |s| s["spec"]["sessionAffinity"] = json!("ClientIP")).await?;
    }
    sticks(&c, &from, &target.0, target.1).await?;
    if switch {
        c.api(&SERVICES)
            .modify(&name, |s| {
                s["spec"]["sessionAffinity"] = json!("None");
                s["spec"]["sessionAffinityConfig"] = json!(null);
            })
            .await?;
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        served_by(&c, &from, &target.0, target.1, &all).await?;
    }
    Ok(())
}
