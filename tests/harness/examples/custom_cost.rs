//! What a custom resource costs beside a ConfigMap: create and get through the router, in this process.
//!
//! `cargo run -p knarr-harness --example custom_cost [ROUNDS]`; with `--release` for figures that mean something.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use knarr_harness::TestServer;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

fn crd() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "integer", "minimum": 0, "default": 1},
                    "data": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 2000}}}}}}}}]}})
}

/// The median time of `path` + a number, in microseconds.
async fn measure(
    server: &TestServer,
    rounds: usize,
    base: &str,
    make: impl Fn(usize) -> Value,
) -> (u128, u128) {
    let (mut creates, mut gets) = (Vec::new(), Vec::new());
    for i in 0..rounds {
        let body = make(i);
        let begun = Instant::now();
        server.post(base, &body).await.expect(201);
        creates.push(begun.elapsed());
        let path = format!("{base}/n{i}");
        let begun = Instant::now();
        server.get(&path).await.expect(200);
        gets.push(begun.elapsed());
    }
    let median = |mut all: Vec<Duration>| {
        all.sort();
        all[all.len() / 2].as_micros()
    };
    (median(creates), median(gets))
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(3000);
    let server = TestServer::start().await;
    server.post(CRDS, &crd()).await.expect(201);
    while server.get(FOOS).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let data: Value = (0..8)
        .map(|i| (format!("key-{i}"), Value::from("v".repeat(100))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let map = |i: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("n{i}"), "labels": {"a": "b"}}, "data": data});
    let custom = |i: usize| {
        json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": format!("n{i}"), "labels": {"a": "b"}},
            "spec": {"data": data}})
    };
    let maps = measure(&server, rounds, MAPS, map).await;
    let foos = measure(&server, rounds, FOOS, custom).await;
    let ratio = |a: u128, b: u128| a as f64 / b.max(1) as f64;
    println!("create: ConfigMap {} us, custom {} us: {:.2}", maps.0, foos.0, ratio(foos.0, maps.0));
    println!("get:    ConfigMap {} us, custom {} us: {:.2}", maps.1, foos.1, ratio(foos.1, maps.1));
}
