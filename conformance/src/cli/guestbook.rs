//! Upstream's kubectl.go: the guestbook.

use std::time::Duration;

use serde_json::{Value, json};

use super::kubectl::{kubectl_with, running};
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::SERVICES;
use crate::rest::Rest;

tests! {
    "[sig-cli] Kubectl client Guestbook application should create and stop a working application" => guestbook,
}

fn deployment(name: &str, replicas: i64, labels: &Value, args: &[&str], port: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{
                "name": labels["tier"], "image": AGNHOST, "args": args,
                "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
                "ports": [{"containerPort": port}],
            }]},
        }},
    })
}

fn service(name: &str, labels: &Value, port: i64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
        "spec": {"ports": [{"port": port}], "selector": labels},
    })
}

fn manifests() -> Vec<String> {
    let frontend = json!({"app": "guestbook", "tier": "frontend"});
    let primary = json!({"app": "agnhost", "role": "primary", "tier": "backend"});
    let replica = json!({"app": "agnhost", "role": "replica", "tier": "backend"});
    let documents = [
        service("agnhost-replica", &replica, 6379),
        service("agnhost-primary", &primary, 6379),
        service("frontend", &frontend, 80),
        deployment("frontend", 3, &frontend, &["guestbook", "--backend-port", "6379"], 80),
        deployment("agnhost-primary", 1, &primary, &["guestbook", "--http-port", "6379"], 6379),
        deployment(
            "agnhost-replica",
            2,
            &replica,
            &["guestbook", "--replicaof", "agnhost-primary", "--http-port", "6379"],
            6379,
        ),
    ];
    documents.iter().map(Value::to_string).collect()
}

/// Asks the front end through the API server until it answers that.
async fn answers(cx: &Context, command: &str, value: &str, wanted: &Value, limit: u64) -> Result<()> {
    let base = cx.api(&SERVICES).path_of("frontend/proxy/guestbook");
    let uri = Rest::uri(&base, &[("cmd", command), ("key", "messages"), ("value", value)]);
    let what = format!("guestbook {command} answers {wanted}");
    crate::watch::poll(Duration::from_secs(limit), Duration::from_secs(2), &what, || async {
        let answer = cx.rest().text(&uri).await?;
        let parsed: Value = serde_json::from_str(&answer).map_err(|e| anyhow::anyhow!("{e}: {answer}"))?;
        anyhow::ensure!(parsed == *wanted, "the answer is {answer}");
        Ok(Some(()))
    })
    .await
}

async fn guestbook(cx: Context) -> Result<()> {
    for manifest in manifests() {
        kubectl_with(&cx, &["create", "-f", "-"], &manifest).await?;
    }
    running(&cx, "app=guestbook,tier=frontend", 3).await?;
    running(&cx, "app=agnhost", 3).await?;
    answers(&cx, "get", "", &json!({"data": ""}), 600).await?;
    answers(&cx, "set", "TestEntry", &json!({"message": "Updated"}), 60).await?;
    answers(&cx, "get", "", &json!({"data": "TestEntry"}), 60).await?;
    for manifest in manifests() {
        kubectl_with(&cx, &["delete", "--grace-period=0", "--force", "-f", "-"], &manifest).await?;
    }
    Ok(())
}
