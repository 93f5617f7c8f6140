//! Rough numbers of the request path without TLS: `bench [DATASTORE]`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Instant;

use knarr_datastore::Datastore;
use knarr_harness::TestServer;
use serde_json::json;

#[tokio::main]
async fn main() {
    let store = std::env::args().nth(1).unwrap_or_else(|| "memory://".into());
    let s = Arc::new(TestServer::start_on(Datastore::open(&store).await.unwrap()).await);
    let maps = "/api/v1/namespaces/default/configmaps";
    let value = "x".repeat(1024);
    let workers = 64;
    for (what, per) in [("create", 300), ("get", 300), ("update", 100), ("patch", 100)] {
        let begun = Instant::now();
        let cpu = cpu();
        let mut tasks = Vec::new();
        for w in 0..workers {
            let (s, value) = (s.clone(), value.clone());
            tasks.push(tokio::spawn(async move {
                for i in 0..per {
                    let path = format!("{maps}/c{w}-{i}");
                    let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("c{w}-{i}")}, "data": {"k": value, "w": what}});
                    let reply = match what {
                        "create" => s.post(maps, &object).await,
                        "get" => s.get(&path).await,
                        "update" => s.put(&path, &object).await,
                        _ => s.patch(&path, "merge", &json!({"data": {"p": "q"}})).await,
                    };
                    assert!(reply.status < 300, "{}", reply.text());
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        report(what, workers * per, begun, cpu);
    }
    let spec = json!({"containers": (0..2).map(|i| json!({"name": format!("c{i}"), "image": "registry.example.com/app:v1",
        "env": (0..8).map(|e| json!({"name": format!("E{e}"), "value": "some-value-or-other"})).collect::<Vec<_>>()})).collect::<Vec<_>>()});
    let begun = Instant::now();
    let before = cpu();
    for i in 0..10_000 {
        let pod = json!({"metadata": {"name": format!("p{i}"), "labels": {"app": "x"}, "annotations": {"a": "y".repeat(900)}}, "spec": spec});
        s.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    }
    report("pod create, one client", 10_000, begun, before);
    println!("resident {} MiB", resident());
    for (what, headers) in [
        ("list json", &[][..]),
        ("list protobuf", &["accept: application/vnd.kubernetes.protobuf"][..]),
        ("list gzip", &["accept-encoding: gzip"][..]),
    ] {
        let begun = Instant::now();
        let before = cpu();
        let mut size = 0;
        for _ in 0..5 {
            size = s.raw("GET", "/api/v1/pods", headers, "").await.body.len();
        }
        println!("{what}: {} KiB", size / 1024);
        report(what, 5, begun, before);
    }
    println!("resident {} MiB", resident());
}

fn report(what: &str, count: usize, begun: Instant, before: f64) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0}/s, {:.3} ms each by the clock, {:.3} ms CPU each",
        count as f64 / seconds,
        seconds * 1000.0 / count as f64,
        (cpu() - before) * 1000.0 / count as f64
    );
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096 / 1024 / 1024
}
