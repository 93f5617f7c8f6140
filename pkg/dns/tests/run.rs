//! The DNS server as a whole: a little API server in, answers over UDP out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use knarr_client::Informers;
use knarr_dns::{DnsConfig, run_with};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

type Feed = tokio::sync::broadcast::Sender<(&'static str, &'static str, Value)>;
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn body(chunks: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::new(http_body_util::StreamBody::new(chunks.map(|b| Ok(http_body::Frame::data(b)))))
}

fn line(event: &str, object: &Value) -> Bytes {
    Bytes::from(json!({"type": event, "object": object}).to_string() + "\n")
}

/// Empty lists, and watches that are fed from `feed` (resource, event type, object).
fn api(feed: Feed) -> kube::Client {
    let handler = tower::service_fn(move |req: http::Request<kube::client::Body>| {
        let resources = [
            ("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
            ("namespaces", "v1", "Namespace"),
            ("services", "v1", "Service"),
        ];
        let (resource, version, kind) = *resources.iter().find(|r| req.uri().path().ends_with(r.0)).unwrap();
        let query = req.uri().query().unwrap_or_default().to_owned();
        let feed = feed.subscribe();
        async move {
            if !query.contains("watch=true") {
                let list = json!({"apiVersion": version, "kind": format!("{kind}List"), "metadata": {"resourceVersion": "5"}, "items": []});
                return Ok::<_, std::convert::Infallible>(http::Response::new(body(futures::stream::iter(
                    [Bytes::from(list.to_string())],
                ))));
            }
            let mut first = Vec::new();
            if query.contains("sendInitialEvents=true") {
                let end = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": "5",
                    "annotations": {"k8s.io/initial-events-end": "true"}}});
                first.push(line("BOOKMARK", &end));
            }
            let later = futures::stream::unfold(feed, move |mut feed| async move {
                loop {
                    let (of, event, object) = feed.recv().await.ok()?;
                    if of == resource {
                        return Some((line(event, &object), feed));
                    }
                }
            });
            Ok(http::Response::new(body(futures::stream::iter(first).chain(later))))
        }
    });
    kube::Client::new(handler, "default")
}

async fn ask(to: SocketAddr, name: &str) -> (ResponseCode, Vec<String>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut q = Message::query();
    q.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send_to(&q.to_vec().unwrap(), to).await.unwrap();
    let mut buf = [0; 1500];
    let n = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buf)).await.unwrap().unwrap();
    let m = Message::from_vec(&buf[..n]).unwrap();
    (m.metadata.response_code, m.answers.iter().map(|r| r.data.to_string()).collect())
}

async fn until(to: SocketAddr, name: &str, want: (ResponseCode, &[&str])) {
    let want = (want.0, want.1.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    for _ in 0..500 {
        if ask(to, name).await == want {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} never {want:?}: {:?}", ask(to, name).await);
}

#[tokio::test]
async fn follows_the_api() {
    // A port of which both transports are free.
    let at = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let feed = tokio::sync::broadcast::channel(16).0;
    let shutdown = CancellationToken::new();
    let informers = Informers::new(api(feed.clone()), shutdown.clone());
    let cfg = DnsConfig {
        listen: vec![at],
        cluster_domain: "cluster.local".into(),
        resolv_conf: dir.path().join("none"),
    };
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { run_with(cfg, &informers, stop).await });
    while tokio::net::TcpStream::connect(at).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let name = "web.d.svc.cluster.local.";
    until(at, name, (ResponseCode::NXDomain, &[])).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "d", "resourceVersion": "6"},
        "spec": {"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80}]}});
    feed.send(("services", "ADDED", service.clone())).unwrap();
    until(at, name, (ResponseCode::NoError, &["10.43.0.7"])).await;
    let mut headless = service.clone();
    headless["spec"] = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]});
    feed.send(("services", "MODIFIED", headless.clone())).unwrap();
    until(at, name, (ResponseCode::NoError, &[])).await;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "d", "resourceVersion": "7", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.42.0.5"]}], "ports": [{"port": 8080}]});
    feed.send(("endpointslices", "ADDED", slice)).unwrap();
    until(at, name, (ResponseCode::NoError, &["10.42.0.5"])).await;
    feed.send(("services", "DELETED", headless)).unwrap();
    until(at, name, (ResponseCode::NXDomain, &[])).await;
    assert_eq!(ask(at, "example.com.").await.0, ResponseCode::ServFail);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert!(std::net::TcpListener::bind(at).is_ok(), "the address is free again");
}
