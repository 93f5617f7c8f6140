//! The proxy's rules against the real kernel, in network namespaces of this test's own.
//! Needs root; without it the test says so and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_netlink::nft::{Family, diff};
use knarr_netlink::{AddressOptions, Kernel, Ledger, Netns, RealKernel, Route, RouteScope};
use knarr_netns::{Host, ask, inside, on_a_host_of_its_own, serve};
use knarr_proxy::{ProxyConfig, ServicePort, Synchronizer, plan, services};
use serde_json::{Value, json};

fn who(to: &str, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| ask(to).unwrap().split(' ').next().unwrap().to_owned()).collect()
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn ports(objects: &[Value]) -> Vec<ServicePort> {
    let (mut s, mut e) = (Vec::new(), Vec::new());
    for o in objects {
        if o["kind"] == "Service" {
            s.push(Arc::new(serde_json::from_value::<Service>(o.clone()).unwrap()));
        } else {
            e.push(Arc::new(serde_json::from_value::<EndpointSlice>(o.clone()).unwrap()));
        }
    }
    services(&s, &e, "n1")
}

fn service(name: &str, ip: &str, extra: Value) -> Value {
    let mut spec = json!({"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
        "ports": [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d"}, "spec": spec})
}

fn slice(service: &str, endpoints: &[(&str, &str)]) -> Value {
    let list: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": node}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": "d", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": list})
}

struct Bench {
    host: Host,
    sync: Synchronizer,
}

impl Bench {
    /// A host with the pods 10.42.0.2 and .3, and a neighbour who sends to services by way of it.
    async fn new() -> Self {
        let mut host = Host::new(&["10.43.0.0/16"]).await;
        let cfg = config(host.dir());
        let ledger = Ledger::open(&cfg.ledger).unwrap();
        let sync = Synchronizer::new(cfg, Arc::new(RealKernel), ledger);
        for (pod, address) in [("p2", "10.42.0.2"), ("p3", "10.42.0.3")] {
            host.pod(pod, address).await;
        }
        let services = Route {
            destination: "10.43.0.0/16".parse().unwrap(),
            gateway: None,
            device: Some("br0".into()),
            source: None,
            scope: RouteScope::Link,
        };
        RealKernel.replace_route(&Netns::Host, &services).await.unwrap();
        Self { host, sync }
    }

    fn path(&self, ns: &str) -> PathBuf {
        self.host.path(ns)
    }

    fn from(&self, ns: &str, to: &str) -> Result<String, std::io::ErrorKind> {
        self.host.from(ns, to)
    }

    async fn apply(&mut self, objects: &[Value]) {
        self.sync.apply(ports(objects)).await.unwrap();
    }

    async fn end(self) {
        self.host.end().await;
    }
}

fn config(dir: &Path) -> ProxyConfig {
    ProxyConfig {
        node_name: "n1".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        node_port_addresses: Vec::new(),
        ledger: dir.join("ledger"),
    }
}

const BOTH: &[(&str, &str)] = &[("10.42.0.2", "n1"), ("10.42.0.3", "n1")];

#[test]
fn cluster_ip_node_port_and_removal() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let svc = service(
            "web",
            "10.43.0.7",
            json!({"type": "NodePort",
            "ports": [{"name": "web", "port": 80, "nodePort": 30080}], "externalIPs": ["192.168.88.8"]}),
        );
        b.apply(&[svc.clone(), slice("web", BOTH)]).await;
        assert_eq!(who("10.43.0.7:80", 20), names(&["p2", "p3"]), "from the host, spread over both");
        let mut seen = BTreeSet::new();
        for _ in 0..24 {
            seen.insert(b.from("p2", "10.43.0.7:80").unwrap());
        }
        // To the other pod as it is, to itself masqueraded.
        assert_eq!(seen, names(&["p2 10.42.0.1", "p3 10.42.0.2"]), "from a pod, with hairpin");
        assert!(
            b.from("outside", "10.43.0.7:80").unwrap().ends_with(" 10.42.0.1"),
            "from outside, masqueraded"
        );
        assert!(b.from("outside", "192.168.77.2:30080").unwrap().ends_with(" 10.42.0.1"), "node port");
        assert!(b.from("p2", "192.168.77.2:30080").is_ok(), "node port from a pod");
        assert!(ask("192.168.77.2:30080").is_ok(), "node port from the host");
        assert_eq!(ask("127.0.0.1:30080"), Err(std::io::ErrorKind::ConnectionRefused), "not on loopback");
        assert_eq!(ask("10.43.0.7:81"), Err(std::io::ErrorKind::ConnectionRefused), "a port no service has");
        assert_eq!(
            b.from("p2", "10.43.0.7:81"),
            Err(std::io::ErrorKind::ConnectionRefused),
            "same from a pod"
        );

        b.apply(&[svc.clone(), slice("web", &[("10.42.0.3", "n1")])]).await;
        assert_eq!(who("10.43.0.7:80", 10), names(&["p3"]), "an endpoint went");
        b.apply(&[svc.clone(), slice("web", &[])]).await;
        for to in ["10.43.0.7:80", "192.168.77.2:30080"] {
            assert_eq!(ask(to), Err(std::io::ErrorKind::ConnectionRefused), "no endpoints: {to}");
            assert_eq!(
                b.from("p2", to),
                Err(std::io::ErrorKind::ConnectionRefused),
                "no endpoints, from a pod: {to}"
            );
        }
        b.apply(&[]).await;
        let table = RealKernel.nft_table(&Netns::Host, Family::Ip, "knarr-proxy").await.unwrap().unwrap();
        assert!(table.sets.values().all(|s| s.elements.is_empty()), "{table:?}");
        assert_eq!(table.sets.len(), 7);
        b.end().await;
    });
}

#[test]
fn affinity_is_kept_and_let_go() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let svc = service(
            "web",
            "10.43.0.7",
            json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 30}}}),
        );
        b.apply(&[svc.clone(), slice("web", BOTH)]).await;
        let first = who("10.43.0.7:80", 12);
        assert_eq!(first.len(), 1, "always the same endpoint: {first:?}");
        let (gone, left) =
            if first.contains("p2") { ("10.42.0.2", "10.42.0.3") } else { ("10.42.0.3", "10.42.0.2") };
        b.apply(&[svc.clone(), slice("web", &[(left, "n1")])]).await;
        let second = who("10.43.0.7:80", 6);
        assert!(second.is_disjoint(&first), "left the endpoint {gone}: {second:?}");
        b.apply(&[svc, slice("web", BOTH)]).await;
        assert_eq!(who("10.43.0.7:80", 12), second, "and stays with the new one");
        b.end().await;
    });
}

#[test]
fn local_policies() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let ext = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{"name": "web", "port": 80, "nodePort": 30080}]});
        let svc = service("web", "10.43.0.7", ext);
        b.apply(&[svc.clone(), slice("web", &[("10.42.0.2", "n1"), ("10.42.0.3", "other")])]).await;
        for _ in 0..6 {
            assert_eq!(
                b.from("outside", "192.168.77.2:30080").unwrap(),
                "p2 192.168.77.1",
                "source address kept"
            );
        }
        b.apply(&[svc, slice("web", &[("10.42.0.3", "other")])]).await;
        assert_eq!(
            b.from("outside", "192.168.77.2:30080"),
            Err(std::io::ErrorKind::TimedOut),
            "dropped, not refused"
        );
        assert!(ask("192.168.77.2:30080").is_ok(), "the host itself may use all endpoints");
        let internal = service("web", "10.43.0.7", json!({"internalTrafficPolicy": "Local"}));
        b.apply(&[internal.clone(), slice("web", &[("10.42.0.2", "other"), ("10.42.0.3", "n1")])]).await;
        assert_eq!(who("10.43.0.7:80", 8), names(&["p3"]));
        b.apply(&[internal, slice("web", &[("10.42.0.2", "other")])]).await;
        assert_eq!(ask("10.43.0.7:80"), Err(std::io::ErrorKind::TimedOut));
        b.end().await;
    });
}

#[test]
fn udp_clients_leave_a_vanished_endpoint() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let svc =
            service("dns", "10.43.0.9", json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}));
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let ask = || {
            client.send_to(b"?", "10.43.0.9:53").unwrap();
            let mut buf = [0; 16];
            let n = client.recv(&mut buf).unwrap();
            String::from_utf8_lossy(&buf[..n]).into_owned()
        };
        b.apply(&[svc.clone(), slice("dns", &[("10.42.0.2", "n1")])]).await;
        assert_eq!(ask(), "p2");
        b.apply(&[svc, slice("dns", &[("10.42.0.3", "n1")])]).await;
        assert_eq!(ask(), "p3", "the same socket moves on");
        b.end().await;
    });
}

#[test]
fn a_table_found_at_start_is_adopted() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let svc = service(
            "web",
            "10.43.0.7",
            json!({"sessionAffinity": "ClientIP", "type": "LoadBalancer",
            "loadBalancerSourceRanges": ["192.168.77.0/24"], "ports": [{"name": "web", "port": 80, "nodePort": 30080}]}),
        );
        let mut svc2 = svc.clone();
        svc2["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.168.99.9"}]}});
        let objects = [svc2, slice("web", BOTH)];
        b.apply(&objects).await;
        assert_eq!(who("10.43.0.7:80", 3).len(), 1);
        let found = RealKernel.nft_table(&Netns::Host, Family::Ip, "knarr-proxy").await.unwrap().unwrap();
        let wanted = plan(&ports(&objects), &config(b.host.dir()));
        assert_eq!(
            diff(Some(&found), &wanted[&Family::Ip]),
            vec![],
            "what was read back equals what was planned"
        );
        // A new process: the same objects change nothing, others are reached by difference.
        let ledger = Ledger::open(b.path("ledger")).unwrap();
        let mut again = Synchronizer::new(config(b.host.dir()), Arc::new(RealKernel), ledger);
        again.apply(ports(&[service("other", "10.43.0.8", json!({})), slice("other", BOTH)])).await.unwrap();
        assert!(ask("10.43.0.7:80").is_err(), "gone");
        assert_eq!(who("10.43.0.8:80", 20), names(&["p2", "p3"]));
        b.end().await;
    });
}

/// Many services at once: one transaction is larger than a socket buffer by default. Then one change among them.
#[test]
fn two_thousand_services() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let many = |endpoints: &[(&str, &str)]| {
            let mut objects = Vec::new();
            for n in 0..2000 {
                let name = format!("web-{n}");
                let spec = json!({"type": "NodePort", "ports": [{"name": "web", "port": 80, "nodePort": 30000 + n}]});
                objects.push(service(&name, &format!("10.43.{}.{}", n / 250, n % 250 + 1), spec));
                objects.push(slice(&name, if n == 1234 { endpoints } else { BOTH }));
            }
            objects
        };
        let start = std::time::Instant::now();
        b.apply(&many(BOTH)).await;
        let first = start.elapsed();
        assert_eq!(who("10.43.4.235:80", 20), names(&["p2", "p3"]));
        let changed = ports(&many(&[("10.42.0.3", "n1")]));
        let start = std::time::Instant::now();
        b.sync.apply(changed).await.unwrap();
        println!("2000 services: first {first:?}, one endpoint less {:?}", start.elapsed());
        assert_eq!(who("10.43.4.235:80", 20), names(&["p3"]));
        let start = std::time::Instant::now();
        let ledger = Ledger::open(b.path("ledger")).unwrap();
        let mut again = Synchronizer::new(config(b.host.dir()), Arc::new(RealKernel), ledger);
        again.apply(ports(&many(BOTH))).await.unwrap();
        println!("adopting 2000 services: {:?}", start.elapsed());
        b.apply(&[]).await;
        b.end().await;
    });
}

/// The kernel accepts the IPv6 form of every rule.
#[test]
fn an_ipv6_service() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new().await;
        let k = RealKernel;
        let (p2, p3) = (Netns::Path(b.path("p2")), Netns::Path(b.path("p3")));
        k.set_sysctl(&Netns::Host, "net/ipv6/conf/all/forwarding", "1").await.unwrap();
        k.add_address(&Netns::Host, "br0", "fd42::1/64".parse().unwrap(), AddressOptions::default())
            .await
            .unwrap();
        for (ns, address) in [(&p2, "fd42::2/64"), (&p3, "fd42::3/64")] {
            k.add_address(ns, "eth0", address.parse().unwrap(), AddressOptions::default()).await.unwrap();
        }
        for pod in ["p2", "p3"] {
            serve(pod.to_owned(), inside(&b.path(pod), || TcpListener::bind("[::]:8081").unwrap()));
        }
        let route = Route {
            destination: "fd43::/64".parse().unwrap(),
            gateway: None,
            device: Some("br0".into()),
            source: None,
            scope: RouteScope::Universe,
        };
        k.replace_route(&Netns::Host, &route).await.unwrap();
        let mut svc = service(
            "web",
            "fd43::7",
            json!({"sessionAffinity": "ClientIP", "type": "NodePort",
            "ports": [{"name": "web", "port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"}),
        );
        let mut six = slice("web", &[("fd42::2", "n1"), ("fd42::3", "n1")]);
        six["addressType"] = json!("IPv6");
        six["ports"][0]["port"] = json!(8081);
        b.apply(&[svc.clone(), six.clone()]).await;
        assert_eq!(who("[fd43::7]:80", 8).len(), 1, "affinity");
        svc["spec"]["sessionAffinity"] = json!("None");
        b.apply(&[svc.clone(), six.clone()]).await;
        assert_eq!(who("[fd43::7]:80", 20), names(&["p2", "p3"]));
        assert_eq!(who("[fd42::1]:30080", 20), names(&["p2", "p3"]));
        six["endpoints"] = json!([]);
        b.apply(&[svc, six]).await;
        assert_eq!(ask("[fd43::7]:80"), Err(std::io::ErrorKind::ConnectionRefused));
        b.end().await;
    });
}
