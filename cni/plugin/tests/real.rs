//! The plugin against the real kernel, in network namespaces of this test's own.
//! Needs root; without it the test says so and does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_netlink::nft::Family;
use knarr_netlink::{
    AddressOptions, Kernel, Ledger, LinkChange, Netns, RealKernel, Route, RouteScope, VethSpec,
};
use knarr_netns::{inside, on_a_host_of_its_own};
use knarr_plugin::{Conflist, conflist};
use serde_json::{Value, json};

/// Answers every connection with the address it came from.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            drop(stream.write_all(peer.as_bytes()));
        }
    });
}

fn ask(to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

struct Bench {
    dir: tempfile::TempDir,
    cfg: Conflist,
    kernel: RealKernel,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cfg = Conflist {
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: Some("10.43.0.0/16".parse().unwrap()),
            bridge: "knarr0".into(),
            mtu: None,
            state_dir: dir.path().join("cni"),
            ledger: dir.path().join("ledger"),
        };
        Self { dir, cfg, kernel: RealKernel }
    }

    async fn netns(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        self.kernel.add_netns(&path).await.unwrap();
        path
    }

    async fn call(
        &self,
        command: &str,
        container: &str,
        netns: Option<&Path>,
        extra: Value,
    ) -> Result<Value, String> {
        let list: Value = serde_json::from_str(&conflist(&self.cfg)).unwrap();
        let mut conf = list["plugins"][0].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = list["name"].clone();
        conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut env: BTreeMap<String, String> =
            [("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        if let Some(p) = netns {
            env.insert("CNI_NETNS".into(), p.display().to_string());
        }
        match knarr_plugin::run(&self.kernel, &env, conf.to_string().as_bytes()).await {
            Ok(text) if text.is_empty() => Ok(Value::Null),
            Ok(text) => Ok(serde_json::from_str(&text).unwrap()),
            Err(e) => Err(format!("{} {}", e.code, e.message)),
        }
    }
}

#[test]
fn pods_reach_each_other_the_host_and_the_world() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let k = &b.kernel;
        k.change_link(&Netns::Host, "lo", &LinkChange::Up).await.unwrap();
        let outside = b.netns("outside").await;
        let out = Netns::Path(outside.clone());
        let uplink = VethSpec {
            name: "up0".into(),
            peer_ns: out.clone(),
            peer_name: "up1".into(),
            peer_mac: None,
            mtu: None,
        };
        k.add_veth(&Netns::Host, &uplink).await.unwrap();
        for (ns, name, a) in [(&Netns::Host, "up0", "192.168.77.2/24"), (&out, "up1", "192.168.77.1/24")] {
            k.add_address(ns, name, a.parse().unwrap(), AddressOptions::WithSubnetRoute).await.unwrap();
            k.change_link(ns, name, &LinkChange::Up).await.unwrap();
        }
        let forwarding = k.sysctl(&Netns::Host, "net/ipv4/ip_forward").await.unwrap();

        let (a, c) = (b.netns("a").await, b.netns("c").await);
        let ports = json!({"runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.168.77.2"}]}});
        let got = b.call("ADD", "aaa", Some(&a), ports).await.unwrap();
        assert_eq!(got["ips"][0]["address"], "10.42.0.2/32");
        assert_eq!(got["interfaces"][2]["mac"], "0a:58:0a:2a:00:02");
        assert_eq!(got["interfaces"][2]["sandbox"], a.display().to_string());
        let got = b.call("ADD", "ccc", Some(&c), json!({"cniVersion": "0.3.1"})).await.unwrap();
        assert_eq!(
            (&got["ips"][0]["address"], &got["ips"][0]["version"]),
            (&json!("10.42.0.3/32"), &json!("4"))
        );
        serve(inside(&a, || TcpListener::bind("0.0.0.0:80").unwrap()));
        serve(inside(&outside, || TcpListener::bind("0.0.0.0:80").unwrap()));

        assert_eq!(inside(&c, || ask("10.42.0.2:80")).unwrap(), "10.42.0.3", "pod to pod");
        assert_eq!(ask("10.42.0.2:80").unwrap(), "10.42.0.1", "host to pod");
        assert_eq!(
            inside(&c, || ask("192.168.77.1:80")).unwrap(),
            "192.168.77.2",
            "pod to the world, masqueraded"
        );
        assert_eq!(
            inside(&outside, || ask("192.168.77.2:8080")).unwrap(),
            "192.168.77.1",
            "host port from the world"
        );
        assert_eq!(
            inside(&outside, || ask("192.168.77.2:8081")).unwrap(),
            "192.168.77.1",
            "host port of one address"
        );
        assert_eq!(ask("192.168.77.2:8080").unwrap(), "192.168.77.2", "host port from the host");
        assert_eq!(
            inside(&c, || ask("192.168.77.2:8080")).unwrap(),
            "10.42.0.3",
            "host port from another pod"
        );
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "10.42.0.1", "host port on loopback");
        // A pod that sends to loopback through the gateway gets nowhere.
        serve(TcpListener::bind("127.0.0.1:9090").unwrap());
        let pod = Netns::Path(c.clone());
        k.set_sysctl(&pod, "net/ipv4/conf/eth0/route_localnet", "1").await.unwrap();
        k.change_link(&pod, "lo", &LinkChange::Down).await.unwrap();
        let loopback = Route {
            destination: "127.0.0.1/32".parse().unwrap(),
            gateway: Some("10.42.0.1".parse().unwrap()),
            device: Some("eth0".into()),
            source: Some("10.42.0.3".parse().unwrap()),
            scope: RouteScope::Universe,
        };
        k.replace_route(&pod, &loopback).await.unwrap();
        assert!(inside(&c, || ask("127.0.0.1:9090")).is_err(), "loopback of the host is not for pods");
        k.delete_route(&pod, &loopback).await.unwrap();
        k.change_link(&pod, "lo", &LinkChange::Up).await.unwrap();
        assert_eq!(
            inside(&a, || ask("192.168.77.2:8080")).unwrap(),
            "10.42.0.1",
            "host port from the pod itself"
        );

        let flush = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(k.nft_delete_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap());
        };
        let noticed = k.nft_table_deleted(&Netns::Host, Family::Ip, "knarr-cni");
        let (noticed, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(5), noticed), flush);
        noticed.unwrap().unwrap();
        knarr_plugin::node::ensure(k, &b.cfg).await.unwrap();
        assert!(
            inside(&outside, || ask("192.168.77.2:8080")).is_ok(),
            "host ports survive a flush of all rules"
        );

        b.call("CHECK", "aaa", Some(&a), json!({})).await.unwrap();
        b.call("STATUS", "aaa", None, json!({"cniVersion": "1.1.0"})).await.unwrap();
        b.call("DEL", "aaa", Some(&a), json!({})).await.unwrap();
        b.call("DEL", "aaa", None, json!({})).await.unwrap();
        let e = b.call("CHECK", "aaa", Some(&a), json!({})).await.unwrap_err();
        assert!(e.contains("102 container aaa interface eth0 holds no address"), "{e}");
        assert!(inside(&outside, || ask("192.168.77.2:8080")).is_err(), "host port is gone");
        b.call("GC", "aaa", None, json!({"cni.dev/valid-attachments": []})).await.unwrap();
        assert!(
            k.links(&Netns::Host)
                .await
                .unwrap()
                .iter()
                .all(|l| !l.name.starts_with("kn") || l.name == "knarr0")
        );

        let ledger = Ledger::open(&b.cfg.ledger).unwrap();
        assert!(!ledger.verify(k).await.unwrap().is_empty());
        let report = ledger.undo_all(k).await.unwrap();
        assert!(report.errors.is_empty(), "{report:?}");
        assert!(k.link(&Netns::Host, "knarr0").await.unwrap().is_none());
        assert_eq!(k.sysctl(&Netns::Host, "net/ipv4/ip_forward").await.unwrap(), forwarding);
        assert!(k.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().is_none());
        for ns in [outside, a, c] {
            assert!(k.delete_netns(&ns).await.unwrap());
        }
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let missing = b.dir.path().join("nothing-here");
        let e = b.call("ADD", "aaa", Some(&missing), json!({})).await.unwrap_err();
        assert!(e.contains("nothing-here"), "{e}");
        assert!(b.kernel.links(&Netns::Host).await.unwrap().iter().all(|l| l.kind != "veth"));
        assert!(!b.cfg.state_dir.join("addresses/10.42.0.2").exists());
        let e = b.call("ADD", "aaa", Some(&missing), json!({"cniVersion": "9.9.9"})).await.unwrap_err();
        assert!(e.starts_with("1 cniVersion \"9.9.9\""), "{e}");
        let e = b.call("ADD", "aaa", Some(&missing), json!({"podCIDR": "nonsense"})).await.unwrap_err();
        assert!(e.starts_with("6 ") && e.contains("nonsense"), "{e}");
    });
}

#[test]
fn the_node_part_can_be_repeated() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        for _ in 0..2 {
            knarr_plugin::node::ensure(&b.kernel, &b.cfg).await.unwrap();
            let dns = "10.43.0.10".parse().unwrap();
            knarr_plugin::node::bind_cluster_dns(&b.kernel, &b.cfg, dns).await.unwrap();
        }
        let addresses = b.kernel.addresses(&Netns::Host, "knarr0").await.unwrap();
        assert!(addresses.contains(&"10.43.0.10/32".parse().unwrap()), "{addresses:?}");
        let socket = std::net::UdpSocket::bind("10.43.0.10:53").unwrap();
        drop(socket);
    });
}

#[test]
fn a_bridge_left_by_a_lost_installation_goes_with_this_one() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let k = &b.kernel;
        knarr_plugin::node::ensure(k, &b.cfg).await.unwrap();
        std::fs::remove_file(&b.cfg.ledger).unwrap();
        let before = k.link(&Netns::Host, "knarr0").await.unwrap().unwrap();
        knarr_plugin::node::ensure(k, &b.cfg).await.unwrap();
        let after = k.link(&Netns::Host, "knarr0").await.unwrap().unwrap();
        assert_eq!((before.index, before.mac), (after.index, after.mac), "used, not made anew");
        let ledger = Ledger::open(&b.cfg.ledger).unwrap();
        let report = ledger.undo_all(k).await.unwrap();
        assert!(report.errors.is_empty(), "{report:?}");
        assert!(k.link(&Netns::Host, "knarr0").await.unwrap().is_none());
        assert!(k.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().is_none());
    });
}

/// Upstream's cnitool drives the executable. `tests/clients/build.sh` builds it, `tests/run.sh` names it in CNITOOL
/// and runs this test; elsewhere it counts as ignored.
#[test]
#[ignore = "needs CNITOOL=FILE, see tests/clients/build.sh"]
fn cnitool_drives_the_executable() {
    let cnitool = std::env::var("CNITOOL").expect("CNITOOL names upstream's cnitool");
    on_a_host_of_its_own(move || async move {
        let b = Bench::new();
        let (bin, conf) = (b.dir.path().join("bin"), b.dir.path().join("net.d"));
        std::fs::create_dir(&bin).unwrap();
        std::fs::create_dir(&conf).unwrap();
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap().parent().unwrap().join("examples/knarr-cni");
        std::fs::copy(built, bin.join(knarr_plugin::EXECUTABLE)).unwrap();
        std::fs::write(conf.join("10-knarr.conflist"), conflist(&b.cfg)).unwrap();
        let netns = b.netns("pod").await;
        let tool = |command: &str| {
            std::process::Command::new(&cnitool)
                .args([command, "knarr", netns.to_str().unwrap()])
                .env("CNI_PATH", &bin)
                .env("NETCONFPATH", &conf)
                .env(
                    "CAP_ARGS",
                    r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
                )
                .output()
                .unwrap()
        };
        let got = tool("add");
        assert!(got.status.success(), "{got:?}");
        let result: Value = serde_json::from_slice(&got.stdout).unwrap();
        assert_eq!(
            (&result["cniVersion"], &result["ips"][0]["address"]),
            (&json!("1.0.0"), &json!("10.42.0.2/32"))
        );
        for command in ["check", "del", "del"] {
            let got = tool(command);
            assert!(got.status.success(), "{command}: {got:?}");
        }
        assert!(!tool("check").status.success());
        assert!(b.kernel.delete_netns(&netns).await.unwrap());
    });
}

#[test]
fn loopback_comes_up() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let netns = b.netns("pod").await;
        let env = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "a"),
            ("CNI_IFNAME", "lo"),
            ("CNI_NETNS", netns.to_str().unwrap()),
        ];
        let env = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let conf = br#"{"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"}"#;
        let result = knarr_plugin::loopback::run(&b.kernel, &env, conf).await.unwrap();
        let result: Value = serde_json::from_str(&result).unwrap();
        assert_eq!(
            (&result["interfaces"][0]["name"], &result["ips"][0]["address"]),
            (&json!("lo"), &json!("127.0.0.1/8"))
        );
        assert!(
            inside(&netns, || TcpListener::bind("127.0.0.1:0")
                .and_then(|l| TcpStream::connect(l.local_addr()?)))
            .is_ok()
        );
        assert!(b.kernel.delete_netns(&netns).await.unwrap());
    });
}

#[test]
fn a_flushed_table_is_put_back() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let k = &b.kernel;
        knarr_plugin::node::ensure(k, &b.cfg).await.unwrap();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let disturb = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(k.nft_delete_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap());
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if k.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().is_some() {
                    break;
                }
            }
            shutdown.cancel();
        };
        tokio::join!(knarr_plugin::node::keep(k, &b.cfg, shutdown.clone()), disturb);
        assert!(k.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().is_some());
    });
}

/// The whole executable for many pods at once: every one gets its own address, all go again.
#[test]
fn forty_pods_at_once() {
    on_a_host_of_its_own(|| async {
        let b = Bench::new();
        let mut pods = Vec::new();
        for n in 0..40 {
            pods.push((format!("pod{n}"), b.netns(&format!("ns{n}")).await));
        }
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap().parent().unwrap().join("examples/knarr-cni");
        let list: Value = serde_json::from_str(&conflist(&b.cfg)).unwrap();
        let call = |command: &str, mappings: bool| {
            let started = std::time::Instant::now();
            let children: Vec<_> = pods
                .iter()
                .enumerate()
                .map(|(n, (id, ns))| {
                    let mut conf = list["plugins"][0].clone();
                    conf["cniVersion"] = json!("1.0.0");
                    conf["name"] = json!("knarr");
                    if mappings {
                        let port = json!({"hostPort": 9000 + n, "containerPort": 80, "protocol": "tcp"});
                        conf["runtimeConfig"] = json!({"portMappings": [port]});
                    }
                    let mut child = std::process::Command::new(&built)
                        .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
                        .env("CNI_NETNS", ns)
                        .stdin(std::process::Stdio::piped())
                        .stdout(std::process::Stdio::piped())
                        .spawn()
                        .unwrap();
                    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
                    child
                })
                .collect();
            let mut addresses = std::collections::BTreeSet::new();
            for child in children {
                let out = child.wait_with_output().unwrap();
                assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stdout));
                if command == "ADD" {
                    let result: Value = serde_json::from_slice(&out.stdout).unwrap();
                    addresses.insert(result["ips"][0]["address"].as_str().unwrap().to_owned());
                }
            }
            println!("40 x {command}: {:?}", started.elapsed());
            addresses.len()
        };
        assert_eq!(call("ADD", true), 40);
        let table = b.kernel.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().unwrap();
        assert_eq!(table.sets["host-ports"].elements.len(), 40);
        call("DEL", false);
        let table = b.kernel.nft_table(&Netns::Host, Family::Ip, "knarr-cni").await.unwrap().unwrap();
        assert!(table.sets.values().all(|s| s.elements.is_empty()));
        assert!(b.kernel.links(&Netns::Host).await.unwrap().iter().all(|l| l.kind != "veth"));
        for (_, ns) in pods {
            b.kernel.delete_netns(&ns).await.unwrap();
        }
    });
}

#[test]
fn another_range_and_another_mtu_are_taken_up() {
    on_a_host_of_its_own(|| async {
        let mut b = Bench::new();
        knarr_plugin::node::bind_cluster_dns(&b.kernel, &b.cfg, [10, 43, 0, 10].into()).await.unwrap();
        b.cfg.pod_cidr = "10.42.5.0/24".parse().unwrap();
        b.cfg.mtu = Some(1350);
        knarr_plugin::node::ensure(&b.kernel, &b.cfg).await.unwrap();
        let mut addresses = b.kernel.addresses(&Netns::Host, "knarr0").await.unwrap();
        addresses.retain(|a| a.is_ipv4());
        let want: Vec<ipnetwork::IpNetwork> =
            ["10.43.0.10/32", "10.42.5.1/24"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(addresses, want, "what it had before is gone, the cluster DNS stays");
        assert_eq!(b.kernel.link(&Netns::Host, "knarr0").await.unwrap().unwrap().mtu, 1350);
    });
}
