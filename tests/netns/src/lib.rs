//! Hosts and pods of a test's own: network namespaces, and a bridge as on a node. Needs root.
//!
//! Entry points: [`on_a_host_of_its_own`] and [`inside`]; [`Host`] is a host with pods and a neighbour.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_netlink::{
    AddressOptions, BridgeSpec, Kernel, LinkChange, Netns, RealKernel, Route, RouteScope, VethSpec,
};

/// How long a question waits for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The host's address on the pods' bridge.
pub const GATEWAY: &str = "10.42.0.1";
/// The neighbour beyond the host, and the host's address towards it.
pub const OUTSIDE: &str = "192.168.77.1";
/// See [`OUTSIDE`].
pub const HOST: &str = "192.168.77.2";

/// Runs the test on a thread of its own in a fresh network namespace that plays the host. Without root the test
/// says so and does nothing.
///
/// # Panics
/// If the test does.
pub fn on_a_host_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT RUN: needs root");
        return;
    }
    let worker = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    worker.join().unwrap();
}

/// Runs `f` in the network namespace bound to the path.
///
/// # Panics
/// If there is none, or `f` does.
pub fn inside<T: Send>(ns: &Path, f: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(ns).unwrap();
    std::thread::scope(|s| {
        s.spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
        .join()
        .unwrap()
    })
}

/// Answers every connection with its own name and the address the client came from.
///
/// # Panics
/// In its own thread, if the listener fails.
pub fn serve(name: String, listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            drop(stream.write_all(format!("{name} {peer}").as_bytes()));
        }
    });
}

/// Answers every datagram with its own name.
///
/// # Panics
/// In its own thread, if nothing can be sent.
pub fn serve_udp(name: String, socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut buf = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buf) {
            socket.send_to(name.as_bytes(), peer).unwrap();
        }
    });
}

/// What [`serve`] at this address says.
///
/// # Errors
/// What became of the connection.
///
/// # Panics
/// If `to` is not an address with a port.
pub fn ask(to: &str) -> Result<String, std::io::ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    Ok(text)
}

/// A host with a bridge, pods on it, and a neighbour outside.
pub struct Host {
    dir: tempfile::TempDir,
    names: Vec<String>,
}

impl Host {
    /// The bridge br0 with [`GATEWAY`], and the neighbour "outside", which sends to `routes` by way of the host.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub async fn new(routes: &[&str]) -> Self {
        let mut out = Self { dir: tempfile::tempdir().unwrap(), names: Vec::new() };
        let (k, host) = (RealKernel, &Netns::Host);
        k.change_link(host, "lo", &LinkChange::Up).await.unwrap();
        k.set_sysctl(host, "net/ipv4/ip_forward", "1").await.unwrap();
        k.add_bridge(host, &BridgeSpec { name: "br0".into(), mac: [2, 0, 0, 0, 0, 9], mtu: None })
            .await
            .unwrap();
        let gateway = format!("{GATEWAY}/24").parse().unwrap();
        k.add_address(host, "br0", gateway, AddressOptions::default()).await.unwrap();
        k.change_link(host, "br0", &LinkChange::Up).await.unwrap();
        let ns = out.attach("outside", &format!("{OUTSIDE}/24")).await;
        let here = format!("{HOST}/24").parse().unwrap();
        k.add_address(host, "voutside", here, AddressOptions::default()).await.unwrap();
        for to in routes {
            route(&ns, to, Some(HOST)).await;
        }
        out
    }

    /// A namespace with this address on eth0, whose other end is the host's v{name}.
    async fn attach(&mut self, name: &str, address: &str) -> Netns {
        let (k, path) = (RealKernel, self.path(name));
        let ns = Netns::Path(path.clone());
        k.add_netns(&path).await.unwrap();
        self.names.push(name.to_owned());
        let veth = VethSpec {
            name: format!("v{name}"),
            peer_ns: ns.clone(),
            peer_name: "eth0".into(),
            peer_mac: None,
            mtu: None,
        };
        k.add_veth(&Netns::Host, &veth).await.unwrap();
        k.change_link(&Netns::Host, &veth.name, &LinkChange::Up).await.unwrap();
        k.change_link(&ns, "lo", &LinkChange::Up).await.unwrap();
        k.add_address(&ns, "eth0", address.parse().unwrap(), AddressOptions::default()).await.unwrap();
        k.change_link(&ns, "eth0", &LinkChange::Up).await.unwrap();
        ns
    }

    /// A pod with this address, as the CNI plugin makes them. It answers on TCP 8080 ([`serve`]) and UDP 5353
    /// ([`serve_udp`]).
    ///
    /// # Panics
    /// If the kernel refuses.
    pub async fn pod(&mut self, name: &str, address: &str) {
        let ns = self.attach(name, &format!("{address}/32")).await;
        let link = format!("v{name}");
        for change in [LinkChange::Master("br0".into()), LinkChange::Hairpin] {
            RealKernel.change_link(&Netns::Host, &link, &change).await.unwrap();
        }
        route(&ns, &format!("{GATEWAY}/32"), None).await;
        route(&ns, "0.0.0.0/0", Some(GATEWAY)).await;
        let path = self.path(name);
        serve(name.to_owned(), inside(&path, || TcpListener::bind("0.0.0.0:8080").unwrap()));
        serve_udp(name.to_owned(), inside(&path, || UdpSocket::bind("0.0.0.0:5353").unwrap()));
    }

    /// Where the namespace of a pod (or "outside") is bound.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory of this host's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// [`ask`], from a pod or "outside".
    ///
    /// # Errors
    /// What became of the connection.
    pub fn from(&self, name: &str, to: &str) -> Result<String, std::io::ErrorKind> {
        inside(&self.path(name), || ask(to))
    }

    /// Takes it all apart.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub async fn end(self) {
        for name in &self.names {
            RealKernel.delete_netns(&self.path(name)).await.unwrap();
        }
    }
}

/// A route through eth0.
async fn route(ns: &Netns, destination: &str, gateway: Option<&str>) {
    let gateway: Option<IpAddr> = gateway.map(|g| g.parse().unwrap());
    let scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let (destination, device) = (destination.parse().unwrap(), Some("eth0".to_owned()));
    let route = Route { destination, gateway, device, source: None, scope };
    RealKernel.replace_route(ns, &route).await.unwrap();
}
