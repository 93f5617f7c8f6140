//! The overlay as a whole: a little API server in, the kernel in memory out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use knarr_client::Informers;
use knarr_netlink::{AddressOptions, FakeKernel, Kernel, Ledger, LinkChange, Netns, Offload};
use knarr_overlay::{OverlayConfig, annotations, backend, mtu, run_with};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn body(chunks: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::new(http_body_util::StreamBody::new(chunks.map(|b| Ok(http_body::Frame::data(b)))))
}

/// Nodes, and those who watch them.
#[derive(Clone)]
struct Api {
    nodes: Arc<Mutex<BTreeMap<String, Value>>>,
    events: Arc<Mutex<Vec<String>>>,
    feed: tokio::sync::broadcast::Sender<(String, Value)>,
}

impl Api {
    fn new() -> Self {
        let feed = tokio::sync::broadcast::channel(64).0;
        Self { nodes: Arc::default(), events: Arc::default(), feed }
    }

    fn put(&self, mut node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        let mut nodes = self.nodes.lock();
        let version = 10
            + nodes.values().map(|n| n["metadata"]["resourceVersion"].as_str().unwrap().len()).sum::<usize>();
        node["metadata"]["resourceVersion"] = json!("1".repeat(version % 30 + 1));
        nodes.insert(name, node.clone());
        drop(self.feed.send(("MODIFIED".into(), node)));
    }

    fn delete(&self, name: &str) {
        let node = self.nodes.lock().remove(name).unwrap();
        self.feed.send(("DELETED".into(), node)).unwrap();
    }

    fn annotation(&self, node: &str, name: &str) -> Option<String> {
        Some(self.nodes.lock().get(node)?["metadata"]["annotations"][name].as_str()?.to_owned())
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        kube::Client::new(
            tower::service_fn(move |req| {
                let api = api.clone();
                async move { Ok::<_, std::convert::Infallible>(api.answer(req).await) }
            }),
            "default",
        )
    }

    async fn answer(&self, req: http::Request<kube::client::Body>) -> http::Response<Body> {
        let whole =
            |v: &Value| http::Response::new(body(futures::stream::iter([Bytes::from(v.to_string())])));
        let path = req.uri().path().to_owned();
        let query = req.uri().query().unwrap_or_default().to_owned();
        let method = req.method().clone();
        let sent = req.into_body().collect().await.unwrap().to_bytes();
        if path.ends_with("/events") {
            let event: Value = serde_json::from_slice(&sent).unwrap();
            self.events.lock().push(event["message"].as_str().unwrap().to_owned());
            return whole(&event);
        }
        if method == http::Method::PATCH {
            let name = path.rsplit('/').next().unwrap();
            let patch: Value = serde_json::from_slice(&sent).unwrap();
            let mut node = self.nodes.lock()[name].clone();
            for (k, v) in patch["metadata"]["annotations"].as_object().unwrap() {
                let annotations = node["metadata"]["annotations"].as_object_mut().unwrap();
                match v {
                    Value::Null => drop(annotations.remove(k)),
                    v => drop(annotations.insert(k.clone(), v.clone())),
                }
            }
            self.put(node.clone());
            return whole(&node);
        }
        let line = |event: &str, object: &Value| {
            Bytes::from(json!({"type": event, "object": object}).to_string() + "\n")
        };
        let items: Vec<Value> = self.nodes.lock().values().cloned().collect();
        if !query.contains("watch=true") {
            return whole(
                &json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "5"}, "items": items}),
            );
        }
        let mut first = Vec::new();
        if query.contains("sendInitialEvents=true") {
            first.extend(items.iter().map(|o| line("ADDED", o)));
            first.push(line(
                "BOOKMARK",
                &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"resourceVersion": "5",
                "annotations": {"k8s.io/initial-events-end": "true"}}}),
            ));
        }
        let later = futures::stream::unfold(self.feed.subscribe(), move |mut feed| async move {
            let (kind, object) = feed.recv().await.ok()?;
            Some((Bytes::from(json!({"type": kind, "object": object}).to_string() + "\n"), feed))
        });
        http::Response::new(body(futures::stream::iter(first).chain(later)))
    }
}

fn plain(n: u8) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}"), "uid": "u", "annotations": {}},
        "spec": {"podCIDR": format!("10.42.{n}.0/24"), "podCIDRs": [format!("10.42.{n}.0/24")]}})
}

/// A node that has come up.
fn joined(of: &str, n: u8, ready: &str) -> Value {
    let pod_cidrs = vec![format!("10.42.{n}.0/24").parse().unwrap()];
    let node = knarr_overlay::Node {
        name: format!("n{n}"),
        backend: of.into(),
        address: [10, 99, 0, n].into(),
        vtep: backend(of).unwrap().vtep(&pod_cidrs),
        pod_cidrs,
    };
    let mut v = plain(n);
    v["metadata"]["annotations"] = json!({});
    for (k, value) in annotations::of(&node).into_iter().filter_map(|(k, v)| Some((k, v?))) {
        v["metadata"]["annotations"][k] = json!(value);
    }
    v["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
    v
}

fn config(dir: &std::path::Path, backend: &str) -> OverlayConfig {
    OverlayConfig {
        backend: backend.into(),
        node_name: "n1".into(),
        node_ip: [10, 99, 0, 1].into(),
        pod_cidrs: vec!["10.42.1.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        ledger: dir.join("ledger"),
    }
}

async fn host(driver: &str) -> Arc<FakeKernel> {
    let kernel = Arc::new(FakeKernel::new(&[("net/ipv4/conf/knarr.1/rp_filter", "1")]));
    kernel.set_release("6.18.0");
    kernel.plug("eth0", driver, [2; 6], 1500).unwrap();
    let address = "10.99.0.1/24".parse().unwrap();
    kernel.add_address(&Netns::Host, "eth0", address, AddressOptions::default()).await.unwrap();
    kernel
}

async fn until(what: &str, mut f: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if f().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn gateways(kernel: &FakeKernel) -> Vec<String> {
    let routes = kernel.routes(&Netns::Host).await.unwrap();
    let mut out: Vec<String> = routes.iter().filter_map(|r| Some(r.gateway?.to_string())).collect();
    out.sort();
    out
}

#[tokio::test]
async fn follows_nodes_and_repairs_what_others_break() {
    let (dir, api, kernel) = (tempfile::tempdir().unwrap(), Api::new(), host("vmxnet3").await);
    api.put(plain(1));
    api.put(joined("vxlan", 2, "True"));
    let cfg = config(dir.path(), "vxlan");
    assert_eq!(mtu(&cfg, &*kernel).await.unwrap(), 1450);
    let shutdown = CancellationToken::new();
    let informers = Informers::new(api.client(), shutdown.clone());
    let (k, stop, node) = (kernel.clone(), shutdown.clone(), api.client());
    let running = tokio::spawn(async move { run_with(cfg, node, &informers, k, stop).await });
    let k = &kernel;
    until("route to n2", async || gateways(k).await == ["10.42.2.0"]).await;
    until("own annotations", async || api.annotation("n1", annotations::VTEP).is_some()).await;
    assert_eq!(api.annotation("n1", annotations::ADDRESS).unwrap(), "10.99.0.1");
    assert_eq!(
        api.annotation("n1", annotations::VTEP).unwrap(),
        r#"{"mac":"0a:59:0a:2a:01:00","port":8472,"vni":1}"#
    );
    let driver = kernel.driver(&Netns::Host, "knarr.1").await.unwrap();
    assert_eq!(driver.tx_checksum, Offload::Off, "vmxnet3 cannot do it");
    assert_eq!(kernel.sysctl(&Netns::Host, "net/ipv4/conf/knarr.1/rp_filter").await.unwrap().unwrap(), "2");

    api.put(joined("vxlan", 3, "True"));
    until("route to n3", async || gateways(k).await == ["10.42.2.0", "10.42.3.0"]).await;
    api.put(joined("vxlan", 3, "Unknown"));
    api.put(joined("vxlan", 4, "True"));
    until("route to n4", async || gateways(k).await.len() == 3).await;
    api.delete("n2");
    until("n2 withdrawn, n3 kept", async || gateways(k).await == ["10.42.3.0", "10.42.4.0"]).await;
    until("n2 forgotten", async || k.forwarding(&Netns::Host, "knarr.1").await.unwrap().len() == 2).await;

    kernel.change_link(&Netns::Host, "knarr.1", &LinkChange::Mac([9; 6])).await.unwrap();
    until("hardware address", async || {
        k.link(&Netns::Host, "knarr.1").await.unwrap().unwrap().mac[0] == 0x0a
    })
    .await;
    kernel.delete_link(&Netns::Host, "knarr.1").await.unwrap();
    until("device again", async || gateways(k).await.len() == 2).await;

    let mut bare = plain(1);
    bare["metadata"]["annotations"] = json!({});
    api.put(bare);
    until("annotations again", async || api.annotation("n1", annotations::VTEP).is_some()).await;

    api.put(joined("host-gw", 5, "True"));
    until("the odd one is told", async || {
        api.events.lock().iter().any(|m| m.contains("node n5 runs host-gw"))
    })
    .await;
    assert_eq!(gateways(k).await.len(), 2);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let ledger = Ledger::open(dir.path().join("ledger")).unwrap();
    assert!(ledger.undo_all(&*kernel).await.unwrap().errors.is_empty());
    assert!(kernel.link(&Netns::Host, "knarr.1").await.unwrap().is_none());
}

#[tokio::test]
async fn host_gw_routes_are_on_record_while_they_are_there() {
    let (dir, api, kernel) = (tempfile::tempdir().unwrap(), Api::new(), host("veth").await);
    api.put(plain(1));
    api.put(joined("host-gw", 2, "True"));
    let cfg = config(dir.path(), "host-gw");
    let shutdown = CancellationToken::new();
    let informers = Informers::new(api.client(), shutdown.clone());
    let (k, stop, node) = (kernel.clone(), shutdown.clone(), api.client());
    let running = tokio::spawn(async move { run_with(cfg, node, &informers, k, stop).await });
    let k = &kernel;
    let ledger = Ledger::open(dir.path().join("ledger")).unwrap();
    until("route to n2", async || gateways(k).await == ["10.99.0.2"]).await;
    assert_eq!(ledger.entries().unwrap().len(), 1);
    api.delete("n2");
    until("n2 withdrawn", async || gateways(k).await.is_empty()).await;
    until("nothing on record", async || ledger.entries().unwrap().is_empty()).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
