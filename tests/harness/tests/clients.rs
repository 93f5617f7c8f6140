//! Client libraries against the server: `kube` in process and over TLS.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use knarr_harness::TestServer;
use knarr_pki::{Ca, Leaf};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"a": "b"}})).unwrap()
}

#[tokio::test]
async fn kube_verbs_and_informers() {
    let s = TestServer::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(s.admin_client());
    api.create(&PostParams::default(), &map("one")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = watcher(api.clone(), config).boxed();
        let mut seen = Vec::new();
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(5), events.try_next()).await.unwrap().unwrap().unwrap()
        };
        loop {
            match next().await {
                Event::InitApply(o) => seen.push(o.metadata.name.unwrap()),
                Event::InitDone => break,
                _ => {}
            }
        }
        assert_eq!(seen, ["one"]);
        api.create(&PostParams::default(), &map("two")).await.unwrap();
        assert!(matches!(next().await, Event::Apply(o) if o.metadata.name.as_deref() == Some("two")));
        let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "y"}});
        let applied = api.patch("two", &PatchParams::apply("test"), &Patch::Apply(&apply)).await.unwrap();
        assert_eq!(applied.data.unwrap().len(), 2);
        assert!(matches!(next().await, Event::Apply(_)));
        api.delete("two", &DeleteParams::default()).await.unwrap();
        assert!(matches!(next().await, Event::Delete(_)));
    }
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn server_side_apply() {
    let s = TestServer::start().await;
    let path = "/api/v1/namespaces/default/configmaps/a";
    let document = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
    let made = s.patch(&format!("{path}?fieldManager=one"), "apply", &document("1")).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let conflict = s.patch(&format!("{path}?fieldManager=two"), "apply", &document("2")).await;
    assert!(conflict.message(409).contains("conflict with \"one\""), "{}", conflict.text());
    let taken =
        s.patch(&format!("{path}?fieldManager=two&force=true"), "apply", &document("2")).await.expect(200);
    assert_eq!(taken["data"]["k"], "2");
    // The same again changes nothing.
    let same =
        s.patch(&format!("{path}?fieldManager=two&force=true"), "apply", &document("2")).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], taken["metadata"]["resourceVersion"]);
    assert_eq!(s.patch(path, "apply", &document("2")).await.status, 422);
}

/// A TLS server of the harness with the identity of whoever connects taken as administrator.
async fn tls(s: &TestServer) -> (kube::Client, CancellationToken) {
    let ca = Ca::create("test").unwrap();
    let leaf = ca.issue(&Leaf::server("x", vec!["localhost".into()], vec![[127, 0, 0, 1].into()])).unwrap();
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    s.api.set_authenticators(vec![Arc::new(knarr_harness::Everybody(TestServer::admin()))]);
    let (api, until) = (s.api.clone(), shutdown.clone());
    tokio::spawn(async move { api.serve_tls(listener, Arc::new(config), until).await });
    let mut config = kube::Config::new(format!("https://localhost:{port}").parse().unwrap());
    config.root_cert =
        Some(CertificateDer::pem_slice_iter(ca.cert_pem().as_bytes()).map(|c| c.unwrap().to_vec()).collect());
    (kube::Client::try_from(config).unwrap(), shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watches_over_tls() {
    const WATCHES: usize = 300;
    let s = TestServer::start().await;
    let (client, shutdown) = tls(&s).await;
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let mut tasks = Vec::new();
    let ready = Arc::new(tokio::sync::Barrier::new(WATCHES + 1));
    for _ in 0..WATCHES {
        let (api, ready) = (api.clone(), ready.clone());
        tasks.push(tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default().streaming_lists()).boxed();
            while !matches!(events.try_next().await.unwrap().unwrap(), Event::InitDone) {}
            ready.wait().await;
            matches!(events.try_next().await.unwrap().unwrap(), Event::Apply(_))
        }));
    }
    tokio::time::timeout(Duration::from_secs(20), ready.wait()).await.unwrap();
    api.create(&PostParams::default(), &map("m")).await.unwrap();
    for task in tasks {
        assert!(tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap());
    }
    shutdown.cancel();
}

/// Writers of one object at the same time: every patch lands, and every watcher sees every state in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_patches_are_not_lost() {
    const WRITERS: usize = 64;
    let s = Arc::new(TestServer::start().await);
    let path = "/api/v1/namespaces/default/configmaps/c";
    let made = s
        .post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "c"}}))
        .await
        .expect(201);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch =
        s.watch(&format!("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={version}")).await;
    let mut tasks = Vec::new();
    for i in 0..WRITERS {
        let s = s.clone();
        tasks.push(tokio::spawn(async move {
            s.patch(path, "merge", &json!({"data": {format!("k{i}"): "v"}})).await.expect(200);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(s.get(path).await.expect(200)["data"].as_object().unwrap().len(), WRITERS);
    let mut last = 0;
    for n in 1..=WRITERS {
        let frame = watch.next().await.unwrap();
        let revision: i64 = frame["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > last);
        last = revision;
        assert_eq!(frame["object"]["data"].as_object().unwrap().len(), n);
    }
}
