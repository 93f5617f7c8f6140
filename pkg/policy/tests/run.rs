//! The keeper and the gate on a real API server and a kernel in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use knarr_client::Informers;
use knarr_harness::TestServer;
use knarr_netlink::nft::{Family, Key, Table};
use knarr_netlink::{FakeKernel, Kernel, Ledger, Netns};
use knarr_policy::{Gate, NetworkPolicies, PolicyConfig, TABLE};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Settings of node n1 with a ledger here.
fn config(dir: &tempfile::TempDir) -> PolicyConfig {
    PolicyConfig {
        node_name: "n1".into(),
        bridge: "knarr0".into(),
        ports: "kn*".into(),
        ledger: dir.path().join("ledger"),
    }
}

struct Bench {
    server: TestServer,
    kernel: Arc<FakeKernel>,
    gate: Gate,
    config: PolicyConfig,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let (dir, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new(&[])));
        let config = config(&dir);
        let policies = NetworkPolicies::new(config.clone());
        let (gate, shutdown) = (policies.gate(), CancellationToken::new());
        let informers = Informers::new(server.admin_client(), shutdown.clone());
        let (k, stop) = (kernel.clone(), shutdown.clone());
        tokio::spawn(async move { policies.run_with(&informers, k, stop).await.unwrap() });
        Self { server, kernel, gate, config, shutdown, _dir: dir }
    }

    async fn table(&self) -> Option<Table> {
        self.kernel.nft_table(&Netns::Host, Family::Ip, TABLE).await.unwrap()
    }

    /// Waits until the table is so.
    async fn until(&self, what: &str, so: impl Fn(Option<&Table>) -> bool) {
        for _ in 0..500 {
            if so(self.table().await.as_ref()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:?}", self.table().await);
    }

    async fn policy(&self, name: &str, spec: Value) {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name}, "spec": spec});
        self.server
            .post("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", &object)
            .await
            .expect(201);
    }

    /// A pod of a node, with an address if the kubelet has told one.
    async fn pod(&self, name: &str, node: &str, address: Option<&str>) -> Pod {
        let pods = "/api/v1/namespaces/default/pods";
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        let created = self.server.post(pods, &object).await.expect(201);
        if let Some(address) = address {
            self.tell(name, address).await;
        }
        serde_json::from_value(created).unwrap()
    }

    async fn tell(&self, name: &str, address: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.server.patch(&path, "merge", &status).await.expect(200);
    }
}

fn isolates(table: Option<&Table>, address: &str) -> bool {
    let key = Key::new().address(address.parse().unwrap()).bytes();
    table.is_some_and(|t| t.sets["ingress-pods"].elements.contains_key(&key))
}

fn set(address: &str) -> BTreeSet<IpAddr> {
    [address.parse().unwrap()].into()
}

/// How many addresses the sets of selected pods have.
fn selected(table: Option<&Table>) -> Option<usize> {
    let sets = &table?.sets;
    Some(sets.iter().filter(|(name, _)| name.starts_with("pods-")).map(|(_, s)| s.elements.len()).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follows_the_api_and_leaves_nothing() {
    let b = Bench::new().await;
    b.pod("web", "n1", Some("10.42.0.2")).await;
    b.pod("far", "n2", Some("10.42.1.2")).await;
    b.gate.pass(&b.pod("early", "n1", None).await, &set("10.42.0.3")).await.unwrap();
    assert_eq!(b.table().await, None, "no table without a policy");
    let own =
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
    b.policy("own", own).await;
    b.until("web isolated, two allowed", |t| isolates(t, "10.42.0.2") && selected(t) == Some(2)).await;
    assert!(!isolates(b.table().await.as_ref(), "10.42.1.2"), "others' pods are isolated where they run");
    b.tell("early", "10.42.0.3").await;
    b.until("three allowed", |t| selected(t) == Some(3)).await;
    b.server.delete("/api/v1/namespaces/default/pods/far?gracePeriodSeconds=0").await.expect(200);
    b.until("two allowed", |t| selected(t) == Some(2)).await;
    assert!(b.kernel.nft_delete_table(&Netns::Host, Family::Ip, TABLE).await.unwrap());
    b.until("put back", |t| isolates(t, "10.42.0.2")).await;
    b.server.delete("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/own").await.expect(200);
    b.until("gone with the last policy", |t| t.is_none()).await;
    assert!(Ledger::open(&b.config.ledger).unwrap().entries().unwrap().is_empty(), "off the record too");
    b.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_isolated_before_the_api_knows_its_address() {
    let b = Bench::new().await;
    b.policy("closed", json!({"podSelector": {"matchLabels": {"app": "new"}}})).await;
    // The list of policies may be older than the policy: from then on it is known.
    b.pod("seen", "n1", Some("10.42.0.9")).await;
    let new = b.pod("new", "n1", None).await;
    b.policy("seen", json!({"podSelector": {"matchLabels": {"app": "seen"}}})).await;
    b.until("the policies are known", |t| isolates(t, "10.42.0.9")).await;
    b.gate.pass(&new, &set("10.42.0.3")).await.unwrap();
    assert!(isolates(b.table().await.as_ref(), "10.42.0.3"), "when the gate opens the rules are in force");
    b.tell("new", "10.42.0.3").await;
    b.gate.pass(&new, &set("10.42.0.3")).await.unwrap();
    // A sandbox made anew has another address, while the API still tells the old one.
    b.gate.pass(&new, &set("10.42.0.4")).await.unwrap();
    let now = b.table().await;
    assert!(isolates(now.as_ref(), "10.42.0.4") && !isolates(now.as_ref(), "10.42.0.3"));
    let labels = json!({"metadata": {"labels": {"more": "x"}}});
    b.server.patch("/api/v1/namespaces/default/pods/new", "merge", &labels).await.expect(200);
    b.policy("more", json!({"podSelector": {"matchLabels": {"more": "x"}}, "ingress": [{}]})).await;
    b.until("labels count at once", |t| {
        t.is_some_and(|t| t.chains.keys().any(|c| c.contains("default/more")))
    })
    .await;
    assert!(isolates(b.table().await.as_ref(), "10.42.0.4"), "and the kubelet's address still holds");
    // Until the kubelet says that nothing is left, the rules stay, whatever the API says.
    let over = json!({"status": {"phase": "Failed"}});
    b.server.patch("/api/v1/namespaces/default/pods/new/status", "merge", &over).await.expect(200);
    b.server.delete("/api/v1/namespaces/default/pods/new?gracePeriodSeconds=0").await.expect(200);
    b.pod("last", "n1", Some("10.42.0.8")).await;
    b.policy("last", json!({"podSelector": {"matchLabels": {"app": "last"}}})).await;
    b.until("what came later is known", |t| isolates(t, "10.42.0.8")).await;
    assert!(isolates(b.table().await.as_ref(), "10.42.0.4"));
    b.gate.release(new.metadata.uid.as_deref().unwrap());
    b.until("gone", |t| !isolates(t, "10.42.0.4")).await;
    b.shutdown.cancel();
}

#[tokio::test]
async fn without_policies_what_was_left_is_removed() {
    let (dir, kernel) = (tempfile::tempdir().unwrap(), FakeKernel::new(&[]));
    let config = config(&dir);
    let ledger = Ledger::open(&config.ledger).unwrap();
    ledger.record(&knarr_netlink::Item::nft_table(Family::Ip, TABLE)).unwrap();
    let ops = [knarr_netlink::nft::Op::AddTable];
    kernel.nft_commit(&Netns::Host, Family::Ip, TABLE, &ops).await.unwrap();
    // Of somebody else.
    kernel.nft_commit(&Netns::Host, Family::Ip6, TABLE, &ops).await.unwrap();
    knarr_policy::remove(&config, &kernel).await.unwrap();
    assert!(kernel.nft_table(&Netns::Host, Family::Ip, TABLE).await.unwrap().is_none());
    assert!(kernel.nft_table(&Netns::Host, Family::Ip6, TABLE).await.unwrap().is_some());
}
