//! The rules against the real kernel, in network namespaces of this test's own.
//! Needs root; without it the test says so and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use knarr_netlink::nft::Family;
use knarr_netlink::tables::Tables;
use knarr_netlink::{Kernel, Ledger, Neighbor, Netns, RealKernel, Route, RouteScope};
use knarr_netns::{Host, OUTSIDE, ask, inside, on_a_host_of_its_own};
use knarr_policy::model::{Cluster, addresses, pod, policy};
use knarr_policy::{PolicyConfig, TABLE, plan};
use serde_json::{Value, json};

struct Bench {
    host: Host,
    tables: Tables,
    cluster: Cluster,
    config: PolicyConfig,
}

impl Bench {
    /// A host with the pods 10.42.0.2 (p2), .3 (p3) and .4 (p4), which is in another namespace.
    async fn new() -> Self {
        let mut host = Host::new(&["10.42.0.0/16"]).await;
        let mut cluster = Cluster::default();
        for (namespace, name, address) in
            [("a", "p2", "10.42.0.2"), ("a", "p3", "10.42.0.3"), ("b", "p4", "10.42.0.4")]
        {
            host.pod(name, address).await;
            let object = serde_json::from_value(json!({"metadata": {"labels": {"app": name}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"podIP": address}}))
            .unwrap();
            cluster.pods.insert((namespace.into(), name.into()), pod(&object, addresses(&object)).unwrap());
            cluster.namespaces.insert(namespace.into(), [("team".to_owned(), namespace.to_owned())].into());
        }
        let config = PolicyConfig {
            node_name: "n1".into(),
            bridge: "br0".into(),
            ports: "v*".into(),
            ledger: host.dir().join("ledger"),
        };
        let ledger = Ledger::open(&config.ledger).unwrap();
        let tables = Tables::new(TABLE, Arc::new(RealKernel), ledger);
        Self { host, tables, cluster, config }
    }

    /// These policies of namespace a, instead of those that were.
    async fn apply(&mut self, specs: &[Value]) {
        self.cluster.policies.clear();
        for (i, spec) in specs.iter().enumerate() {
            let object = serde_json::from_value(json!({"spec": spec})).unwrap();
            self.cluster.policies.insert(("a".into(), format!("p{i}")), policy(&object));
        }
        let tables = plan(&self.cluster, &self.config);
        for family in [Family::Ip, Family::Bridge] {
            let table = tables.get(&family);
            self.tables.apply(family, table).await.unwrap();
            // What the kernel says it has is what is believed: nothing would be sent again.
            let read = RealKernel.nft_table(&Netns::Host, family, TABLE).await.unwrap();
            assert_eq!(read.as_ref(), table);
        }
    }

    fn reaches(&self, from: &str, to: &str) -> bool {
        match self.host.from(from, &format!("{to}:8080")) {
            Ok(_) => true,
            // Without an answer: neither refused nor unreachable.
            Err(ErrorKind::TimedOut | ErrorKind::WouldBlock) => false,
            Err(other) => panic!("{from} > {to}: {other}"),
        }
    }

    /// Whether a datagram from p3 to UDP 5353 of p2 is answered.
    fn answered(&self) -> bool {
        inside(&self.host.path("p3"), || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(b"?", "10.42.0.2:5353").unwrap();
            socket.recv_from(&mut [0; 16]).is_ok()
        })
    }
}

#[test]
fn pods_are_isolated_and_let_go() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        b.apply(&[]).await;
        assert!(b.reaches("outside", "10.42.0.2"));
        b.apply(&[json!({"podSelector": {"matchLabels": {"app": "p2"}}})]).await;
        assert!(!b.reaches("outside", "10.42.0.2"), "isolated from outside");
        assert!(!b.reaches("p3", "10.42.0.2"), "and from pods of the same node");
        assert!(!b.answered(), "whatever the protocol");
        assert!(ask("10.42.0.2:8080").is_ok(), "the node itself always reaches it");
        assert!(b.reaches("p2", "10.42.0.3"), "what it opens is answered");
        assert!(b.reaches("p2", "10.42.0.2"), "it reaches itself");
        assert!(b.reaches("outside", "10.42.0.3"), "others are as before");
        let same = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
        b.apply(std::slice::from_ref(&same)).await;
        assert!(b.reaches("p3", "10.42.0.2") && b.answered(), "of the same namespace");
        assert!(!b.reaches("p4", "10.42.0.2"), "of another");
        let team = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]});
        b.apply(&[same, team]).await;
        assert!(b.reaches("p3", "10.42.0.2") && b.reaches("p4", "10.42.0.2"), "policies add up");
        b.apply(&[]).await;
        assert!(b.reaches("outside", "10.42.0.2"), "without policies all is as it was");
        assert!(RealKernel.nft_table(&Netns::Host, Family::Ip, TABLE).await.unwrap().is_none());
        b.host.end().await;
    });
}

#[test]
fn ports_networks_and_what_is_sent() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let on = |ports: Value| json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        for (ports, tcp, udp) in [
            (json!([{"port": 8080}]), true, false),
            (json!([{"port": "web"}]), true, false),
            (json!([{"port": 8000, "endPort": 8080}]), true, false),
            (json!([{"port": 8000, "endPort": 8079}]), false, false),
            (json!([{"port": 8081, "endPort": 65535}]), false, false),
            (json!([{"protocol": "UDP", "port": 5353}]), false, true),
            (json!([{"protocol": "UDP"}, {"protocol": "TCP"}]), true, true),
        ] {
            b.apply(&[on(ports.clone())]).await;
            assert_eq!((b.reaches("p3", "10.42.0.2"), b.answered()), (tcp, udp), "{ports}");
        }
        let from = |block: Value| json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]});
        b.apply(&[from(json!({"cidr": "192.168.0.0/16"}))]).await;
        assert!(b.reaches("outside", "10.42.0.2") && !b.reaches("p3", "10.42.0.2"));
        b.apply(&[from(json!({"cidr": "0.0.0.0/0", "except": [format!("{OUTSIDE}/32")]}))]).await;
        assert!(!b.reaches("outside", "10.42.0.2") && b.reaches("p3", "10.42.0.2"));
        // More than the kernel takes in one rule.
        let many: Vec<String> =
            (0..200).map(|i| format!("172.16.{i}.0/24")).chain([format!("{OUTSIDE}/32")]).collect();
        b.apply(&[from(json!({"cidr": "0.0.0.0/0", "except": many}))]).await;
        assert!(!b.reaches("outside", "10.42.0.2") && b.reaches("p3", "10.42.0.2"));
        let to = json!({"podSelector": {"matchLabels": {"app": "p3"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "p2"}}}], "ports": [{"port": "web"}]}]});
        b.apply(&[to]).await;
        assert!(b.reaches("p3", "10.42.0.2") && !b.reaches("p3", "10.42.0.4") && !b.answered());
        assert!(b.reaches("p4", "10.42.0.3"), "its answers pass");
        b.host.end().await;
    });
}

/// Says a word on a connection that stays open, and whether it comes back within a second.
fn says(stream: &mut TcpStream) -> bool {
    stream.write_all(b"word").unwrap();
    stream.read_exact(&mut [0; 4]).is_ok()
}

#[test]
fn a_new_policy_ends_connections_that_it_does_not_allow() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let listener = inside(&b.host.path("p2"), || std::net::TcpListener::bind("0.0.0.0:9000").unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut word = [0; 4];
                    while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
                });
            }
        });
        let open = |from: &str| {
            inside(&b.host.path(from), || {
                let to: SocketAddr = "10.42.0.2:9000".parse().unwrap();
                let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                stream
            })
        };
        let (mut near, mut far) = (open("p3"), open("outside"));
        assert!(says(&mut near) && says(&mut far));
        let near_only = json!({"podSelector": {"matchLabels": {"app": "p2"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
        b.apply(&[near_only]).await;
        assert!(says(&mut near), "one that is allowed goes on");
        assert!(!says(&mut far), "the other does not");
        b.apply(&[]).await;
        assert!(says(&mut far) || far.read_exact(&mut [0; 4]).is_ok(), "until it is allowed again");
        b.host.end().await;
    });
}

/// Sends everything for p2 straight to p2's port, past the host.
async fn go_behind_the_hosts_back(b: &Bench) {
    let (k, p3) = (RealKernel, Netns::Path(b.host.path("p3")));
    let link = k.link(&Netns::Path(b.host.path("p2")), "eth0").await.unwrap().unwrap();
    let address = "10.42.0.2".parse().unwrap();
    let device = Some("eth0".to_owned());
    let destination = "10.42.0.2/32".parse().unwrap();
    let route = Route { destination, gateway: None, device, source: None, scope: RouteScope::Link };
    k.replace_route(&p3, &route).await.unwrap();
    k.replace_neighbor(&p3, &Neighbor { link: "eth0".into(), address, mac: link.mac }).await.unwrap();
}

#[test]
fn frames_of_a_pods_own_making_do_not_get_round_the_rules() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        go_behind_the_hosts_back(&b).await;
        let closed = json!({"podSelector": {"matchLabels": {"app": "p2"}}});
        let open = json!({"podSelector": {"matchLabels": {"app": "p2"}}, "ingress": [{}]});
        for bridged in ["0", "1"] {
            // Kernels without br_netfilter are as if it were off.
            let key = "net/bridge/bridge-nf-call-iptables";
            if RealKernel.sysctl(&Netns::Host, key).await.unwrap().is_some() {
                RealKernel.set_sysctl(&Netns::Host, key, bridged).await.unwrap();
            }
            b.apply(&[]).await;
            assert!(b.reaches("p3", "10.42.0.2"), "there is such a way");
            b.apply(std::slice::from_ref(&closed)).await;
            assert!(!b.reaches("p3", "10.42.0.2"), "bridged packets shown to the IP hooks: {bridged}");
            assert!(
                b.reaches("p2", "10.42.0.4") && b.reaches("p4", "10.42.0.3"),
                "others go by way of the host"
            );
        }
        if RealKernel.sysctl(&Netns::Host, "net/bridge/bridge-nf-call-iptables").await.unwrap().is_some() {
            b.apply(&[open]).await;
            assert!(b.reaches("p3", "10.42.0.2"), "what the IP hooks have seen is bridged");
        }
        b.host.end().await;
    });
}
