//! Ranges of pod addresses against the real API server in this process, with RBAC in force.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node};
use knarr_controllers::{ClientFor, Config};
use knarr_harness::TestServer;
use knarr_machinery::UserInfo;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Starts the controllers; they end with the token.
fn controllers(server: &TestServer) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let names = knarr_controllers::CONTROLLERS
        .iter()
        .map(|c| format!("system:serviceaccount:kube-system:{}", c.account))
        .chain(["system:kube-controller-manager".to_owned()]);
    let groups =
        ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"].as_slice();
    let clients: std::collections::HashMap<String, Client> =
        names.map(|n| (n.clone(), server.client(UserInfo::component(&n, groups)))).collect();
    let client_for: ClientFor = Arc::new(move |name| clients[name].clone());
    let config = Config { cluster_cidrs: vec!["10.42.0.0/23".into()], ..Config::default() };
    tokio::spawn(knarr_controllers::run(config, client_for, shutdown.clone()));
    shutdown
}

async fn add(nodes: &Api<Node>, name: &str) {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
}

/// All nodes that have a range, with it.
async fn ranges(nodes: &Api<Node>) -> Vec<(String, String)> {
    let list = nodes.list(&ListParams::default()).await.unwrap().items;
    let of = |n: Node| {
        let spec = n.spec.clone()?;
        assert_eq!(spec.pod_cidrs.as_deref(), spec.pod_cidr.as_ref().map(std::slice::from_ref));
        Some((n.name_any(), spec.pod_cidr?))
    };
    list.into_iter().filter_map(of).collect()
}

async fn until(what: &str, mut f: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if f().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_gets_a_range_of_its_own_until_there_is_none() {
    let server = TestServer::start_with_auth().await;
    let shutdown = controllers(&server);
    let nodes = Api::<Node>::all(server.admin_client());
    add(&nodes, "a").await;
    until("a range for a", async || ranges(&nodes).await == pairs(&[("a", "10.42.0.0/24")])).await;
    add(&nodes, "b").await;
    let two = pairs(&[("a", "10.42.0.0/24"), ("b", "10.42.1.0/24")]);
    until("a range for b", async || ranges(&nodes).await == two).await;

    add(&nodes, "c").await;
    let events = Api::<Event>::namespaced(server.admin_client(), "default");
    until("the event that there is none for c", async || {
        let list = events.list(&ListParams::default()).await.unwrap().items;
        list.iter().any(|e| {
            e.reason.as_deref() == Some("CIDRNotAvailable") && e.involved_object.name.as_deref() == Some("c")
        })
    })
    .await;
    assert_eq!(ranges(&nodes).await, two);

    // Another process finds what was given and gives nothing twice.
    shutdown.cancel();
    let shutdown = controllers(&server);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ranges(&nodes).await, two);

    nodes.delete("b", &DeleteParams::default()).await.unwrap();
    let moved = pairs(&[("a", "10.42.0.0/24"), ("c", "10.42.1.0/24")]);
    until("what b had for c, at once", async || ranges(&nodes).await == moved).await;

    // A node that comes again gets what it had, though another range is next.
    nodes.delete("a", &DeleteParams::default()).await.unwrap();
    nodes.delete("c", &DeleteParams::default()).await.unwrap();
    until("none", async || ranges(&nodes).await.is_empty()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    add(&nodes, "c").await;
    until("the same for c", async || ranges(&nodes).await == moved[1..]).await;
    add(&nodes, "a").await;
    until("the same for a", async || ranges(&nodes).await == moved).await;
    shutdown.cancel();
}
