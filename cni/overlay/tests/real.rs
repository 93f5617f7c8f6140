//! Nodes that are network namespaces, joined by a bridge, with pods made by the CNI plugin, on the real kernel.
//! Needs root; without it the test says so and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_netlink::{
    AddressOptions, BridgeSpec, Kernel, Learning, Ledger, LinkChange, Netns, Offload, RealKernel, Route,
    RouteScope, VethSpec, VxlanSpec,
};
use knarr_netns::{inside, on_a_host_of_its_own};
use knarr_overlay::{Here, Node, Plan, backend, converge, plan, underlay};
use knarr_plugin::{Conflist, conflist};
use serde_json::{Value, json};

/// Bytes of the big answer: more than fits into any one packet or buffer.
const BIG: usize = 3_000_000;

/// As [`inside`], for a future.
fn run_inside<T: Send, F: Future<Output = T>>(ns: &Path, f: impl FnOnce() -> F + Send) -> T {
    inside(ns, || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f()))
}

/// Answers every connection with the address it came from; on port 8081 with many bytes.
fn serve(ns: &Path) {
    for port in [8080, 8081] {
        let listener = inside(ns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip().to_string().into_bytes();
                drop(stream.write_all(&if port == 8081 { vec![b'x'; BIG] } else { peer }));
            }
        });
    }
}

fn ask(ns: &Path, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    inside(ns, || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

struct Host {
    n: u8,
    ns: PathBuf,
    dir: PathBuf,
    cfg: Conflist,
}

impl Host {
    async fn new(dir: &Path, n: u8) -> Self {
        let k = RealKernel;
        let dir = dir.join(format!("n{n}"));
        std::fs::create_dir(&dir).unwrap();
        let ns = dir.join("netns");
        k.add_netns(&ns).await.unwrap();
        let side = Netns::Path(ns.clone());
        let veth = VethSpec {
            name: format!("v{n}"),
            peer_ns: side.clone(),
            peer_name: "eth0".into(),
            peer_mac: None,
            mtu: Some(1400),
        };
        k.add_veth(&Netns::Host, &veth).await.unwrap();
        k.change_link(&Netns::Host, &veth.name, &LinkChange::Master("br0".into())).await.unwrap();
        k.change_link(&Netns::Host, &veth.name, &LinkChange::Up).await.unwrap();
        let address = format!("10.99.0.{n}/24").parse().unwrap();
        k.add_address(&side, "eth0", address, AddressOptions::default()).await.unwrap();
        for link in ["lo", "eth0"] {
            k.change_link(&side, link, &LinkChange::Up).await.unwrap();
        }
        let cfg = Conflist {
            pod_cidr: format!("10.42.{n}.0/24").parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            bridge: "knarr0".into(),
            mtu: Some(1350),
            state_dir: dir.join("cni"),
            ledger: dir.join("ledger"),
        };
        run_inside(&ns, || async { knarr_plugin::node::ensure(&RealKernel, &cfg).await.unwrap() });
        Self { n, ns, dir, cfg }
    }

    fn node(&self, of: &str) -> Node {
        let pod_cidrs = vec![self.cfg.pod_cidr];
        Node {
            name: format!("n{}", self.n),
            backend: of.into(),
            address: [10, 99, 0, self.n].into(),
            vtep: backend(of).unwrap().vtep(&pod_cidrs),
            pod_cidrs,
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.cfg.ledger).unwrap()
    }

    /// One round of the overlay: how many steps it took.
    fn join(&self, of: &str, peers: &[&Host]) -> usize {
        self.try_join(of, peers).1
    }

    fn try_join(&self, of: &str, peers: &[&Host]) -> (Plan, usize) {
        let others: Vec<Node> = peers.iter().map(|p| p.node(of)).collect();
        run_inside(&self.ns, || async {
            let node = self.node(of);
            let here = Here { underlay: underlay(&RealKernel, node.address).await.unwrap(), node };
            let plan = plan(backend(of).unwrap(), &here, &others);
            let steps = converge(&RealKernel, &self.ledger(), &plan).await.unwrap();
            (plan, steps)
        })
    }

    /// A pod with two servers; its namespace and address.
    async fn pod(&self, name: &str) -> (PathBuf, String) {
        let ns = self.dir.join(name);
        RealKernel.add_netns(&ns).await.unwrap();
        let list: Value = serde_json::from_str(&conflist(&self.cfg)).unwrap();
        let mut conf = list["plugins"][0].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = list["name"].clone();
        let env: BTreeMap<String, String> = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", name),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", ns.to_str().unwrap()),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let input = conf.to_string().into_bytes();
        let got = run_inside(&self.ns, || async { knarr_plugin::run(&RealKernel, &env, &input).await });
        let got: Value = serde_json::from_str(&got.map_err(|e| e.message).unwrap()).unwrap();
        let address = got["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        serve(&ns);
        (ns, address)
    }

    fn kernel<T: Send, F: Future<Output = T>>(&self, f: impl FnOnce(RealKernel) -> F + Send) -> T {
        run_inside(&self.ns, || f(RealKernel))
    }
}

async fn bed() -> tempfile::TempDir {
    let k = RealKernel;
    let spec = BridgeSpec { name: "br0".into(), mac: [2, 0, 0, 0, 0, 9], mtu: Some(1400) };
    k.add_bridge(&Netns::Host, &spec).await.unwrap();
    k.change_link(&Netns::Host, "br0", &LinkChange::Up).await.unwrap();
    tempfile::tempdir().unwrap()
}

async fn take_apart(dir: &Path) {
    for host in std::fs::read_dir(dir).unwrap().flatten() {
        for entry in std::fs::read_dir(host.path()).unwrap().flatten() {
            if RealKernel.netns_exists(&entry.path()).await.unwrap() {
                RealKernel.delete_netns(&entry.path()).await.unwrap();
            }
        }
    }
}

/// Pods see each other's own addresses, in both directions, and much data gets through.
fn together(a: &(PathBuf, String), b: &(PathBuf, String)) {
    assert_eq!(ask(&a.0, &format!("{}:8080", b.1)).unwrap(), a.1);
    assert_eq!(ask(&b.0, &format!("{}:8080", a.1)).unwrap(), b.1);
    assert_eq!(ask(&a.0, &format!("{}:8081", b.1)).unwrap().len(), BIG);
}

#[test]
fn pods_of_different_nodes_through_a_tunnel() {
    on_a_host_of_its_own(|| async {
        let dir = bed().await;
        let (one, two) = (Host::new(dir.path(), 1).await, Host::new(dir.path(), 2).await);
        let (a, b) = (one.pod("a").await, two.pod("b").await);
        assert!(ask(&a.0, &format!("{}:8080", b.1)).is_err(), "nothing joins them yet");
        assert!(one.join("vxlan", &[&two]) > 0 && two.join("vxlan", &[&one]) > 0);
        together(&a, &b);
        assert_eq!(ask(&one.ns, &format!("{}:8080", b.1)).unwrap(), "10.42.1.0", "the node itself");
        assert_eq!(one.join("vxlan", &[&two]), 0, "nothing differs, nothing is done");

        // Drift of every kind, repaired without making the device anew.
        let index =
            one.kernel(|k| async move { k.link(&Netns::Host, "knarr.1").await.unwrap().unwrap().index });
        one.kernel(|k| async move {
            let host = &Netns::Host;
            k.change_link(host, "knarr.1", &LinkChange::Mac([2, 2, 2, 2, 2, 2])).await.unwrap();
            k.change_link(host, "knarr.1", &LinkChange::Mtu(900)).await.unwrap();
            k.change_link(host, "knarr.1", &LinkChange::TxChecksum(Offload::Off)).await.unwrap();
            k.delete_address(host, "knarr.1", "10.42.1.0/32".parse().unwrap()).await.unwrap();
            let strange = "10.42.77.0/32".parse().unwrap();
            k.add_address(host, "knarr.1", strange, AddressOptions::default()).await.unwrap();
            for e in k.forwarding(host, "knarr.1").await.unwrap() {
                assert!(k.delete_forwarding(host, &e).await.unwrap());
            }
            for n in k.neighbors(host, "knarr.1").await.unwrap() {
                assert!(k.delete_neighbor(host, &n).await.unwrap());
            }
            let foreign = Route {
                destination: "10.42.9.0/24".parse().unwrap(),
                gateway: Some([10, 42, 9, 0].into()),
                device: Some("knarr.1".into()),
                source: None,
                scope: RouteScope::OnLink,
            };
            k.replace_route(host, &foreign).await.unwrap();
            k.delete_route(host, &Route { destination: "10.42.2.0/24".parse().unwrap(), ..foreign })
                .await
                .unwrap();
            k.change_link(host, "knarr.1", &LinkChange::Down).await.unwrap();
        });
        assert!(ask(&a.0, &format!("{}:8080", b.1)).is_err());
        one.join("vxlan", &[&two]);
        together(&a, &b);
        one.kernel(|k| async move {
            let host = &Netns::Host;
            let link = k.link(host, "knarr.1").await.unwrap().unwrap();
            assert_eq!((link.index, link.mtu, link.mac), (index, 1350, [0x0a, 0x59, 10, 42, 1, 0]));
            assert_eq!(k.addresses(host, "knarr.1").await.unwrap().iter().filter(|a| a.is_ipv4()).count(), 1);
            assert_eq!(k.driver(host, "knarr.1").await.unwrap().tx_checksum, Offload::On);
            assert!(
                !k.routes(host)
                    .await
                    .unwrap()
                    .iter()
                    .any(|r| r.destination == "10.42.9.0/24".parse().unwrap())
            );
        });
        assert_eq!(one.join("vxlan", &[&two]), 0);

        // A peer is withdrawn with all that led to it.
        one.join("vxlan", &[]);
        assert!(ask(&a.0, &format!("{}:8080", b.1)).is_err());
        one.kernel(|k| async move {
            let host = &Netns::Host;
            assert!(k.forwarding(host, "knarr.1").await.unwrap().is_empty());
            assert!(k.neighbors(host, "knarr.1").await.unwrap().is_empty());
        });
        take_apart(dir.path()).await;
    });
}

#[test]
fn leftovers_are_replaced_and_backends_change() {
    on_a_host_of_its_own(|| async {
        let dir = bed().await;
        let (one, two) = (Host::new(dir.path(), 1).await, Host::new(dir.path(), 2).await);
        let (a, b) = (one.pod("a").await, two.pod("b").await);
        // A device of another identifier under our name, and one that the ledger knows under another name.
        let ledger = one.ledger();
        one.kernel(|k| async move {
            for (name, vni) in [("knarr.1", 9), ("knarr.8", 8)] {
                ledger.record(&knarr_netlink::Item::Link { name: name.into() }).unwrap();
                let spec = VxlanSpec {
                    name: name.into(),
                    vni,
                    port: 8472,
                    local: None,
                    underlay: None,
                    mac: [2; 6],
                    mtu: 1200,
                    learning: Learning::FromTraffic,
                };
                k.add_vxlan(&Netns::Host, &spec).await.unwrap();
                assert_eq!(k.vxlan(&Netns::Host, name).await.unwrap().unwrap(), spec);
            }
        });
        one.join("vxlan", &[&two]);
        two.join("vxlan", &[&one]);
        together(&a, &b);
        one.kernel(|k| async move {
            assert!(k.link(&Netns::Host, "knarr.8").await.unwrap().is_none());
            assert_eq!(k.vxlan(&Netns::Host, "knarr.1").await.unwrap().unwrap().vni, 1);
        });

        one.join("host-gw", &[&two]);
        two.join("host-gw", &[&one]);
        together(&a, &b);
        assert_eq!(ask(&one.ns, &format!("{}:8080", b.1)).unwrap(), "10.99.0.1");
        one.kernel(|k| async move { assert!(k.link(&Netns::Host, "knarr.1").await.unwrap().is_none()) });
        assert_eq!(one.join("host-gw", &[&two]), 0);
        let mut far = two.node("host-gw");
        far.address = [10, 98, 0, 2].into();
        let here = run_inside(&one.ns, || async {
            let node = one.node("host-gw");
            Here { underlay: underlay(&RealKernel, node.address).await.unwrap(), node }
        });
        let refused = plan(backend("host-gw").unwrap(), &here, &[far]);
        assert!(refused.problems[0].to_string().contains("not in 10.99.0.0/24 of node n1"), "{refused:?}");

        // Uninstall leaves nothing of it.
        let ledger = one.ledger();
        let report = one.kernel(|k| async move { ledger.undo_all(&k).await.unwrap() });
        assert!(report.errors.is_empty(), "{report:?}");
        one.kernel(|k| async move {
            let names: Vec<String> =
                k.links(&Netns::Host).await.unwrap().into_iter().map(|l| l.name).collect();
            assert!(!names.iter().any(|n| n.starts_with("knarr")), "{names:?}");
            let mut routes = k.routes(&Netns::Host).await.unwrap();
            routes.retain(|r| r.destination.is_ipv4());
            assert!(routes.iter().all(|r| r.destination == "10.99.0.0/24".parse().unwrap()), "{routes:?}");
        });
        take_apart(dir.path()).await;
    });
}

#[test]
fn a_link_of_another_kind_is_refused_and_changes_are_told() {
    on_a_host_of_its_own(|| async {
        let dir = bed().await;
        let one = Host::new(dir.path(), 1).await;
        one.kernel(|k| async move {
            let spec = BridgeSpec { name: "knarr.1".into(), mac: [2; 6], mtu: None };
            k.add_bridge(&Netns::Host, &spec).await.unwrap();
        });
        let error = run_inside(&one.ns, || async {
            let node = one.node("vxlan");
            let here = Here { underlay: underlay(&RealKernel, node.address).await.unwrap(), node };
            let plan = plan(backend("vxlan").unwrap(), &here, &[]);
            converge(&RealKernel, &one.ledger(), &plan).await.unwrap_err()
        });
        assert!(
            error.to_string().contains("knarr.1: there is a link of that name, but of kind \"bridge\""),
            "{error}"
        );

        let told = one.kernel(|k| async move {
            let interest = knarr_netlink::NetworkInterest {
                links: vec!["eth0".into()],
                destinations: vec!["10.42.0.0/16".parse().unwrap()],
            };
            let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
            let changed = move || send.send(()).unwrap();
            let watching = k.watch_network(&Netns::Host, &interest, &changed);
            let acting = async {
                told.recv().await.unwrap();
                let mut counts = Vec::new();
                let act = async |what: &str| match what {
                    "foreign link" => k.change_link(&Netns::Host, "knarr.1", &LinkChange::Up).await.unwrap(),
                    "link" => k.change_link(&Netns::Host, "eth0", &LinkChange::Mtu(1300)).await.unwrap(),
                    _ => {
                        let a = "10.99.0.44/24".parse().unwrap();
                        k.add_address(&Netns::Host, "eth0", a, AddressOptions::default()).await.unwrap();
                    }
                };
                for what in ["foreign link", "link", "address"] {
                    act(what).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let mut n = 0;
                    while told.try_recv().is_ok() {
                        n += 1;
                    }
                    counts.push(n > 0);
                }
                counts
            };
            tokio::select! {
                end = watching => panic!("{end:?}"),
                counts = acting => counts,
            }
        });
        assert_eq!(told, [false, true, true]);
        take_apart(dir.path()).await;
    });
}

#[test]
fn configuration_carries_the_mtu() {
    let cfg = Conflist {
        pod_cidr: "10.42.1.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: None,
        bridge: "knarr0".into(),
        mtu: Some(1350),
        state_dir: "/x".into(),
        ledger: "/y".into(),
    };
    let list: Value = serde_json::from_str(&conflist(&cfg)).unwrap();
    assert_eq!(list["plugins"][0]["mtu"], json!(1350));
}
