//! The proxy as a whole: a little API server in, the kernel in memory out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use knarr_client::Informers;
use knarr_netlink::nft::{Data, Family};
use knarr_netlink::{FakeKernel, Kernel, Netns};
use knarr_proxy::{ProxyConfig, TABLE, run_with};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

type Lines = tokio::sync::broadcast::Sender<(&'static str, Value)>;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn body(chunks: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::new(http_body_util::StreamBody::new(chunks.map(|b| Ok(http_body::Frame::data(b)))))
}

/// Answers lists with what is given and keeps watches open, to be fed from `feed`.
fn api(services: Value, slices: Value, feed: Lines) -> kube::Client {
    let lists = Arc::new(Mutex::new(json!({"services": services, "endpointslices": slices})));
    let handler = tower::service_fn(move |req: http::Request<kube::client::Body>| {
        let resource =
            if req.uri().path().contains("endpointslices") { "endpointslices" } else { "services" };
        let items = lists.lock()[resource].clone();
        let query = req.uri().query().unwrap_or_default().to_owned();
        let feed = feed.subscribe();
        async move {
            let line = |event: &str, object: Value| {
                Bytes::from(json!({"type": event, "object": object}).to_string() + "\n")
            };
            let (version, kind) = match resource {
                "services" => ("v1", "Service"),
                _ => ("discovery.k8s.io/v1", "EndpointSlice"),
            };
            if !query.contains("watch=true") {
                let list = json!({"apiVersion": version, "kind": format!("{kind}List"), "metadata": {"resourceVersion": "5"}, "items": items});
                return Ok::<_, std::convert::Infallible>(http::Response::new(body(futures::stream::iter(
                    [Bytes::from(list.to_string())],
                ))));
            }
            let mut first = Vec::new();
            if query.contains("sendInitialEvents=true") {
                first.extend(items.as_array().unwrap().iter().map(|o| line("ADDED", o.clone())));
                first.push(line(
                    "BOOKMARK",
                    json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "5",
                    "annotations": {"k8s.io/initial-events-end": "true"}}}),
                ));
            }
            let later = futures::stream::unfold(feed, move |mut feed| async move {
                loop {
                    let (of, object) = feed.recv().await.ok()?;
                    if of == resource {
                        let text =
                            Bytes::from(json!({"type": "MODIFIED", "object": object}).to_string() + "\n");
                        return Some((text, feed));
                    }
                }
            });
            Ok(http::Response::new(body(futures::stream::iter(first).chain(later))))
        }
    });
    kube::Client::new(handler, "default")
}

fn slice(version: &str, endpoints: &[&str]) -> Value {
    let list: Vec<Value> = endpoints.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "d", "resourceVersion": version,
            "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": list})
}

/// Waits until the table has so many endpoints for the service; `None`: until it is refused.
async fn until(kernel: &FakeKernel, endpoints: Option<usize>) {
    for _ in 0..500 {
        if let Some(t) = kernel.nft_table(&Netns::Host, Family::Ip, TABLE).await.unwrap() {
            let found = t
                .sets
                .iter()
                .find(|(n, _)| n.starts_with("cluster-") && *n != "cluster-ips")
                .map(|(_, s)| s.elements.len());
            let refused = t.sets["no-endpoint-ips"].elements.values().all(|d| matches!(d, Data::Verdict(_)));
            if found == endpoints && (endpoints.is_some() || refused) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {endpoints:?}: {:?}", kernel.nft_table(&Netns::Host, Family::Ip, TABLE).await);
}

#[tokio::test]
async fn follows_the_api_and_puts_back_a_flushed_table() {
    let dir = tempfile::tempdir().unwrap();
    let feed = tokio::sync::broadcast::channel(16).0;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "d", "resourceVersion": "1"},
        "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80, "protocol": "TCP"}]}});
    let client = api(json!([service]), json!([slice("2", &["10.42.0.2", "10.42.0.3"])]), feed.clone());
    let (kernel, shutdown) = (Arc::new(FakeKernel::new(&[])), CancellationToken::new());
    let cfg = ProxyConfig {
        node_name: "n1".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        node_port_addresses: Vec::new(),
        ledger: dir.path().join("ledger"),
    };
    let informers = Informers::new(client, shutdown.clone());
    let (k, stop) = (kernel.clone(), shutdown.clone());
    let running = tokio::spawn(async move { run_with(cfg, &informers, k, stop).await });
    until(&kernel, Some(2)).await;
    feed.send(("endpointslices", slice("6", &["10.42.0.3"]))).unwrap();
    until(&kernel, Some(1)).await;
    feed.send(("endpointslices", slice("7", &[]))).unwrap();
    until(&kernel, None).await;
    feed.send(("endpointslices", slice("8", &["10.42.0.4"]))).unwrap();
    until(&kernel, Some(1)).await;
    assert!(kernel.nft_delete_table(&Netns::Host, Family::Ip, TABLE).await.unwrap());
    until(&kernel, Some(1)).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
