//! Upstream: `test/e2e/network/service.go`, the changes of type.

use std::time::Duration;

use serde_json::{Value, json};

use super::reach::{REACH, client, has_endpoints, node_addresses, served_by, server};
use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::kinds::SERVICES;
use crate::watch::poll;

tests! {
    "[sig-network] Services should be able to change the type from ExternalName to ClusterIP" => |c| from_external(c, "ClusterIP"),
    "[sig-network] Services should be able to change the type from ExternalName to NodePort" => |c| from_external(c, "NodePort"),
    "[sig-network] Services should be able to change the type from ClusterIP to ExternalName" => |c| to_external(c, "ClusterIP"),
    "[sig-network] Services should be able to change the type from NodePort to ExternalName" => |c| to_external(c, "NodePort"),
}

async fn servers(c: &Context, name: &str) -> Result<[String; 2]> {
    let names = [format!("{name}-1"), format!("{name}-2")];
    for pod in &names {
        c.start(&server(pod, 9376, json!({"testid": name}))).await?;
    }
    Ok(names)
}

async fn from_external(c: Context, kind: &str) -> Result<()> {
    let name = "externalname-service";
    let body = json!({"metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "foo.example.com"}});
    let made = c.create(&SERVICES, &body).await?;
    ensure_eq!(text(&made, "/spec/clusterIP"), "", "address of a service of type ExternalName");
    let changed = c
        .api(&SERVICES)
        .modify(name, |s| {
            s["spec"]["type"] = json!(kind);
            s["spec"]["externalName"] = json!("");
            s["spec"]["selector"] = json!({"testid": name});
            s["spec"]["ports"] = json!([{"port": 80, "name": "http", "protocol": "TCP", "targetPort": 9376}]);
        })
        .await?;
    let ip = text(&changed, "/spec/clusterIP").to_string();
    anyhow::ensure!(!ip.is_empty(), "no address after the change to {kind}: {}", changed["spec"]);
    let pods = servers(&c, name).await?;
    has_endpoints(&c, name, &[(&pods[0], 9376), (&pods[1], 9376)]).await?;
    let from = client(&c).await?;
    let both = [pods[0].as_str(), &pods[1]];
    served_by(&c, &from, name, 80, &both).await?;
    served_by(&c, &from, &ip, 80, &both).await?;
    if kind == "NodePort" {
        let port = changed["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or(0);
        anyhow::ensure!(port > 0, "no node port after the change: {}", changed["spec"]);
        for address in node_addresses(&c).await? {
            served_by(&c, &from, &address, port, &both).await?;
        }
    }
    Ok(())
}

async fn to_external(c: Context, kind: &str) -> Result<()> {
    let target = "externalsvc";
    let service = |name: &str, kind: &str| -> Value {
        json!({"metadata": {"name": name}, "spec": {
            "type": kind, "selector": {"testid": name},
            "ports": [{"port": 80, "name": "http", "protocol": "TCP", "targetPort": 9376}]}})
    };
    let name = if kind == "NodePort" { "nodeport-service" } else { "clusterip-service" };
    c.create(&SERVICES, &service(name, kind)).await?;
    c.create(&SERVICES, &service(target, "ClusterIP")).await?;
    let pods = servers(&c, target).await?;
    has_endpoints(&c, target, &[(&pods[0], 9376), (&pods[1], 9376)]).await?;
    let fqdn = format!("{target}.{}.svc.{}", c.namespace(), c.settings().dns_domain);
    let changed = c
        .api(&SERVICES)
        .modify(name, |s| {
            s["spec"]["type"] = json!("ExternalName");
            s["spec"]["externalName"] = json!(fqdn);
            // Upstream's jig empties what the other type had.
            s["spec"]["clusterIP"] = json!("");
            for p in s["spec"]["ports"].as_array_mut().into_iter().flatten() {
                p["nodePort"] = json!(0);
            }
        })
        .await?;
    ensure_eq!(text(&changed, "/spec/clusterIP"), "", "address after the change to ExternalName");
    ensure_eq!(
        changed["spec"]["ports"][0]["nodePort"].as_i64().unwrap_or(0),
        0,
        "node port after the change"
    );
    let from = client(&c).await?;
    poll(REACH, Duration::from_secs(1), "the name must be an alias of the other service", || async {
        let seen = c.exec_ok(&from, "", &["dig", "+search", "+noall", "+answer", name, "CNAME"]).await?;
        ensure_contains!(seen, fqdn, "the answer");
        Ok(Some(()))
    })
    .await?;
    served_by(&c, &from, name, 80, &[&pods[0], &pods[1]]).await
}
