//! The tunnel on loopback: logs and proxies go through it, it is dialed again, and what is down is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Cluster;
use knarr_agent::certificates::{Kept, Wanted};
use knarr_agent::join::{headers, join};
use knarr_agent::remote::{self, Remote};
use knarr_agent::tunnel::{self, Tunnel};
use knarr_pki::{Leaf, Rotating};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Answers every request with its first line, over TLS.
async fn kubelet(cluster: &Cluster) -> u16 {
    let leaf = Leaf::server("system:node:n", vec![], vec![[127, 0, 0, 1].into()]);
    let current = Rotating::new(&cluster.pki.server_ca.issue(&leaf).unwrap()).unwrap();
    let mut tls = common::listener_tls(cluster.pki.client_ca.cert_pem(), current);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
                let mut request = String::new();
                stream.read_line(&mut request).await.unwrap();
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
                stream.write_all(reply.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}

struct Agent {
    asked: Arc<AtomicUsize>,
    servers: watch::Sender<Vec<String>>,
    stop: CancellationToken,
}

/// Joins as node `n` and keeps its tunnel.
async fn agent(cluster: &Cluster, servers: Vec<String>) -> Agent {
    let joining = cluster.joining("n", &cluster.token());
    join(&joining).await.unwrap();
    let ca = cluster.pki.server_ca.cert_pem();
    let token = remote::tls(ca, None).unwrap();
    let first = Remote::new(&cluster.at.to_string(), token, headers(&joining).unwrap()).unwrap();
    let kept = Kept::new(&cluster.dir.path().join("n/tls"), Wanted::kubelet_client("n"));
    kept.load_or_obtain(&first.client()).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let allow: tunnel::Allow = Arc::new(move |ip: IpAddr| {
        count.fetch_add(1, Ordering::Relaxed);
        ip.is_loopback()
    });
    let tls = remote::tls(ca, Some(kept.current)).unwrap();
    let (sender, receiver) = watch::channel(servers);
    let stop = CancellationToken::new();
    tokio::spawn(tunnel::keep(Tunnel { tls, allow }, receiver, stop.clone()));
    Agent { asked, servers: sender, stop }
}

async fn objects(cluster: &Cluster, port: u16) {
    let s = &cluster.server;
    s.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    s.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_through_the_tunnel_and_name_the_node_when_it_is_down() {
    let cluster = Cluster::start().await;
    let port = kubelet(&cluster).await;
    objects(&cluster, port).await;
    let path = "/api/v1/nodes/n/proxy/stats/summary";
    // A node without a node password is no agent's: it is dialed straight.
    assert_eq!(cluster.server.get(path).await.text().trim(), "GET /stats/summary HTTP/1.1");

    let agent = agent(&cluster, vec![cluster.at.to_string()]).await;
    let tunnels = cluster.tunnels.clone();
    Cluster::until("the tunnel is up", || async { tunnels.is_up("n") }).await;
    assert_eq!(agent.asked.load(Ordering::Relaxed), 0);
    assert_eq!(cluster.server.get(path).await.text().trim(), "GET /stats/summary HTTP/1.1");
    assert_eq!(agent.asked.load(Ordering::Relaxed), 1);
    // Many streams share the connection.
    let all = futures::future::join_all((0..50).map(|_| cluster.server.get(path))).await;
    assert!(all.iter().all(|r| r.status == 200));
    assert_eq!(agent.asked.load(Ordering::Relaxed), 51);

    // What the node may not be used for, and what is not there.
    let far = cluster.tunnels.dial("n", "192.0.2.7", 80).await.err().unwrap().to_string();
    assert!(far.contains("node n cannot reach 192.0.2.7:80") && far.contains("neither this node's"), "{far}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let none = cluster.tunnels.dial("n", "127.0.0.1", closed).await.err().unwrap().to_string();
    assert!(none.contains("refused"), "{none}");

    agent.stop.cancel();
    Cluster::until("the tunnel is down", || async { !tunnels.is_up("n") }).await;
    let down = cluster.server.get(path).await.message(503);
    assert!(down.contains("the tunnel to node n is down"), "{down}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_tunnel_is_dialed_again_and_requests_wait_for_it() {
    let cluster = Cluster::start().await;
    let port = kubelet(&cluster).await;
    objects(&cluster, port).await;
    // Between agent and server sits a relay that can be cut.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = relay.local_addr().unwrap();
    let (cut, server) = (watch::Sender::new(0u32), cluster.at);
    let cuts = cut.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = relay.accept().await {
            let mut cuts = cuts.subscribe();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    let agent = agent(&cluster, vec![through.to_string()]).await;
    let tunnels = cluster.tunnels.clone();
    Cluster::until("the tunnel is up", || async { tunnels.is_up("n") }).await;
    let path = "/api/v1/nodes/n/proxy/stats/summary";
    for round in 0..3 {
        cut.send_modify(|n| *n += 1);
        // At once: the request finds no tunnel, or a dying one, and waits for the next.
        let mut answer = cluster.server.get(path).await;
        if answer.status != 200 {
            answer = cluster.server.get(path).await;
        }
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
    }
    // A stream that is open when the tunnel breaks ends with it.
    let quiet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = tunnels.dial("n", "127.0.0.1", quiet.local_addr().unwrap().port()).await.unwrap();
    cut.send_modify(|n| *n += 1);
    let ended =
        tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(ended, Ok(1..)));
    // Servers that leave the list lose their tunnel.
    Cluster::until("the tunnel is up again", || async { tunnels.is_up("n") }).await;
    agent.servers.send_replace(Vec::new());
    Cluster::until("the tunnel is gone", || async { !tunnels.is_up("n") }).await;
    agent.stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_open_tunnels() {
    let cluster = Cluster::start().await;
    let answer = |identity: Option<Arc<Rotating>>, headers: http::HeaderMap| {
        let client = remote::SupervisorClient::new(
            &cluster.url(),
            cluster.pki.server_ca.cert_pem(),
            identity,
            headers,
        );
        async move {
            let answer =
                client.unwrap().send(http::Method::GET, "/v1-knarr/connect", Default::default()).await;
            answer.unwrap().status
        }
    };
    let joining = cluster.joining("n", &cluster.token());
    assert_eq!(answer(None, http::HeaderMap::new()).await, 401);
    // A join token is not enough, nor is another certificate.
    assert!([401, 403].contains(&answer(None, headers(&joining).unwrap()).await));
    let someone = cluster.pki.client_ca.issue(&Leaf::client("jane", &[])).unwrap();
    assert_eq!(answer(Some(Rotating::new(&someone).unwrap()), http::HeaderMap::new()).await, 403);
    let node = cluster.pki.client_ca.issue(&Leaf::client("system:node:n", &["system:nodes"])).unwrap();
    assert_eq!(answer(Some(Rotating::new(&node).unwrap()), http::HeaderMap::new()).await, 426);
}
