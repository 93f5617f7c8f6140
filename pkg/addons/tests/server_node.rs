//! The server's node gets its role, with RBAC in force.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use knarr_addons::{roles, server_node};
use knarr_harness::TestServer;
use knarr_machinery::UserInfo;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

async fn register(admin: &Client) {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "edge-1"}})).unwrap();
    Api::all(admin.clone()).create(&PostParams::default(), &node).await.unwrap();
}

async fn labelled(admin: &Client) -> bool {
    for _ in 0..400 {
        let node = Api::<Node>::all(admin.clone()).get("edge-1").await.unwrap();
        if node.labels().get(server_node::LABEL).is_some_and(|v| v == "true") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_of_a_server_is_labelled_whenever_it_registers() {
    let server = TestServer::start_with_auth().await;
    let admin = server.admin_client();
    roles::ensure(&admin).await.unwrap();
    let shutdown = CancellationToken::new();
    let client = server.client(UserInfo::component(roles::ADDONS_USER, &["system:authenticated"]));
    let task = tokio::spawn(server_node::run("edge-1".into(), client, shutdown.clone()));
    register(&admin).await;
    assert!(labelled(&admin).await, "the first registration");
    let nodes = Api::<Node>::all(admin.clone());
    nodes.delete("edge-1", &DeleteParams::default()).await.unwrap();
    register(&admin).await;
    assert!(labelled(&admin).await, "another registration");
    // An administrator has the last word.
    let away = json!({"metadata": {"labels": {server_node::LABEL: null}}});
    nodes.patch("edge-1", &PatchParams::default(), &Patch::Merge(away)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!nodes.get("edge-1").await.unwrap().labels().contains_key(server_node::LABEL));
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
