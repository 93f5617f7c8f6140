//! Joining over real TLS: tokens, node passwords, certificates by request, and their renewal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Cluster;
use knarr_agent::Error;
use knarr_agent::certificates::{self, Kept, Wanted};
use knarr_agent::join::{self, headers, join};
use knarr_agent::remote::{self, Remote};
use knarr_pki::{Ca, Leaf, Rotating, Token};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BOOTSTRAP: &str = "abcdef.0123456789abcdef";
const GROUP: &str = "system:bootstrappers:knarr:default-node-token";

async fn refusal(cluster: &Cluster, node: &str, token: &str) -> String {
    let error = join(&cluster.joining(node, token)).await.unwrap_err().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

/// A client that joins: token and claim with every request.
fn bootstrapping(cluster: &Cluster, node: &str, token: &str) -> Client {
    let headers = headers(&cluster.joining(node, token)).unwrap();
    let tls = remote::tls(cluster.pki.server_ca.cert_pem(), None).unwrap();
    Remote::new(&cluster.at.to_string(), tls, headers).unwrap().client()
}

fn with_certificate(cluster: &Cluster, current: Arc<Rotating>) -> Client {
    let tls = remote::tls(cluster.pki.server_ca.cert_pem(), Some(current)).unwrap();
    Remote::new(&cluster.at.to_string(), tls, Default::default()).unwrap().client()
}

async fn whoami(client: &Client) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .body(request.to_string().into_bytes())
        .unwrap();
    let answer: serde_json::Value = client.request(request).await.unwrap();
    answer["status"]["userInfo"]["username"].as_str().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_token_joins_and_every_wrong_one_is_told_in_a_line() {
    let cluster = Cluster::start().await;
    let hash = knarr_pki::token::ca_hash(cluster.pki.server_ca.cert_pem());
    cluster.bootstrap_token(BOOTSTRAP, "", GROUP).await;
    cluster.bootstrap_token("expire.0123456789abcdef", "2020-01-01T00:00:00Z", GROUP).await;
    for token in [
        cluster.token(),
        format!("K10{hash}::server:{}", common::PASSWORD),
        format!("K10{hash}::{BOOTSTRAP}"),
        BOOTSTRAP.to_string(),
        common::PASSWORD.to_string(),
    ] {
        let member = join(&cluster.joining("n", &token)).await.unwrap();
        assert_eq!(member.ca_pem, cluster.pki.server_ca.cert_pem());
        assert_eq!(member.config.cluster_cidr, "10.42.0.0/16");
        assert_eq!(member.servers, ["192.0.2.1:6443"]);
    }
    for (token, want) in [
        (format!("K10{hash}::node:wrong-password"), "the token is not valid for this cluster"),
        (format!("K10{hash}::root:{}", common::PASSWORD), "the token is not valid for this cluster"),
        (format!("K10{hash}::zzzzzz.0123456789abcdef"), "the token is not valid for this cluster"),
        (format!("K10{hash}::abcdef.0123456789abcdee"), "the token is not valid for this cluster"),
        (format!("K10{hash}::expire.0123456789abcdef"), "the bootstrap token expire has expired"),
        (format!("K10{}::node:{}", "0".repeat(64), common::PASSWORD), "is not the one of the token"),
    ] {
        let error = refusal(&cluster, "n", &token).await;
        assert!(error.contains(want), "{error}");
    }
}

/// A server with another CA writes down what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_sent_to_a_server_with_another_ca() {
    let ca = Ca::create("mallory").unwrap();
    let leaf = ca.issue(&Leaf::server("x", vec![], vec![[127, 0, 0, 1].into()])).unwrap();
    let tls = common::listener_tls(ca.cert_pem(), Rotating::new(&leaf).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let heard: Arc<Mutex<String>> = Arc::default();
    let (ear, pem) = (heard.clone(), ca.cert_pem().to_string());
    let task = tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                ear.lock().push_str(&String::from_utf8_lossy(&bytes[..n]));
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{pem}", pem.len());
                stream.write_all(reply.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let honest = Ca::create("honest").unwrap();
    let joining = join::Joining {
        server: format!("https://{at}"),
        token: Token::parse(&Token::secure(honest.cert_pem(), "node", "the-secret-password")).unwrap(),
        node_name: "n".into(),
        password_file: dir.path().join("password"),
        machine_id: "m".into(),
    };
    let error = join(&joining).await.unwrap_err();
    assert!(matches!(error, Error::WrongCa { .. }), "{error}");
    let heard = heard.lock().to_lowercase();
    assert!(heard.starts_with("get /cacerts"), "{heard}");
    assert_eq!(heard.matches("http/1.1").count(), 1, "{heard}");
    assert!(!heard.contains("authorization") && !heard.contains("knarr-node"), "{heard}");
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_name_belongs_to_one_machine_until_the_node_is_deleted() {
    let cluster = Cluster::start().await;
    let token = cluster.token();
    join(&cluster.joining("n", &token)).await.unwrap();
    let secret = cluster.server.get("/api/v1/namespaces/kube-system/secrets/n.node-password.knarr").await;
    let text = secret.expect(200).to_string();
    let password = std::fs::read_to_string(cluster.dir.path().join("n/password")).unwrap();
    use base64::Engine as _;
    let coded = base64::engine::general_purpose::STANDARD.encode(password.trim());
    assert!(!text.contains(password.trim()) && !text.contains(&coded), "the password itself is not kept");

    let mut other = cluster.joining("n", &token);
    other.password_file = cluster.dir.path().join("other/password");
    let error = join(&other).await.unwrap_err().to_string();
    assert!(
        error.contains("password of node \"n\" is wrong") && error.contains("kubectl delete node n"),
        "{error}"
    );
    other.machine_id = "another".into();
    let error = join(&other).await.unwrap_err().to_string();
    assert!(error.contains("\"n\" belongs to another machine"), "{error}");

    cluster.server.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    cluster.server.delete("/api/v1/nodes/n").await.expect(200);
    Cluster::until("the name is free", || async { join(&other).await.is_ok() }).await;
    assert!(refusal(&cluster, "n", &token).await.contains("belongs to another machine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_come_by_request_and_only_for_the_node_that_was_claimed() {
    let cluster = Cluster::start().await;
    let token = cluster.token();
    join(&cluster.joining("n", &token)).await.unwrap();
    let joining = bootstrapping(&cluster, "n", &token);
    // The token alone reads nothing.
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(joining.clone());
    assert!(matches!(nodes.list(&Default::default()).await, Err(kube::Error::Api(s)) if s.code == 403));

    let tls = cluster.dir.path().join("n/tls");
    let kept = Kept::new(&tls, Wanted::kubelet_client("n"));
    kept.load_or_obtain(&joining).await.unwrap();
    let node = with_certificate(&cluster, kept.current.clone());
    assert_eq!(whoami(&node).await, "system:node:n");
    // What is on disk is used again, and only for the same name.
    assert!(Kept::new(&tls, Wanted::kubelet_client("n")).load().unwrap().is_some());
    assert!(Kept::new(&tls, Wanted::kubelet_client("m")).load().unwrap().is_none());

    let proxy = Kept::new(&tls, Wanted::component("kube-proxy", "system:kube-proxy"));
    proxy.load_or_obtain(&node).await.unwrap();
    assert_eq!(whoami(&with_certificate(&cluster, proxy.current)).await, "system:kube-proxy");

    // Neither another node's certificate with this node's password, nor one for addresses that are not its own.
    for (client, wanted) in [
        (&joining, Wanted::kubelet_client("m")),
        (&node, Wanted::component("admin", "system:admin")),
        (&node, Wanted::kubelet_serving("n", vec!["n".into()], vec![])),
    ] {
        let asked = certificates::obtain(client, &wanted);
        let outcome = tokio::time::timeout(Duration::from_millis(500), asked).await;
        assert!(!matches!(outcome, Ok(Ok(_))), "{wanted:?} was issued");
    }
    cluster.server.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {"addresses": [
        {"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": "n"}]}});
    cluster.server.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
    let own = Wanted::kubelet_serving("n", vec!["n".into()], vec![[127, 0, 0, 1].into()]);
    certificates::obtain(&node, &own).await.unwrap();
    let foreign = Wanted::kubelet_serving("n", vec!["kubernetes".into()], vec![[127, 0, 0, 1].into()]);
    let asked = certificates::obtain(&node, &foreign);
    assert!(tokio::time::timeout(Duration::from_millis(500), asked).await.is_err());
}

/// Shows which certificate a listener presents.
async fn presented(at: std::net::SocketAddr, ca: &Ca) -> Vec<u8> {
    let tls = remote::tls(ca.cert_pem(), None).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_they_are_in_use() {
    let cluster = Cluster::start().await;
    join(&cluster.joining("n", &cluster.token())).await.unwrap();
    cluster.server.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    cluster.server.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
    let tls = cluster.dir.path().join("n/tls");
    // Nearly over: signed for ten minutes five minutes ago is beyond two thirds soon, so sign for the shortest time.
    let old = |ca: &Ca, wanted: &Wanted, usage: &str| {
        let (pem, key_pem) = knarr_pki::request::make(&wanted.leaf).unwrap();
        let request = knarr_pki::Request::parse(&pem).unwrap();
        let usages = ["digital signature".to_string(), usage.to_string()];
        let cert_pem = ca.sign_request(&request, &usages, 400).unwrap();
        assert!(
            knarr_pki::rotating::renewal_in(&cert_pem).is_zero() && knarr_pki::rotating::is_alive(&cert_pem)
        );
        knarr_pki::CertKey { cert_pem, key_pem }
    };
    let client = Kept::new(&tls, Wanted::kubelet_client("n"));
    let pair = old(&cluster.pki.client_ca, &client.wanted, "client auth");
    client.store(&pair).unwrap();
    let remote = Remote::new(
        &cluster.at.to_string(),
        remote::tls(cluster.pki.server_ca.cert_pem(), Some(client.current.clone())).unwrap(),
        Default::default(),
    )
    .unwrap();
    let node = remote.client();
    assert_eq!(whoami(&node).await, "system:node:n");
    let serving = Kept::new(&tls, Wanted::kubelet_serving("n", vec![], vec![[127, 0, 0, 1].into()]));
    let served = old(&cluster.pki.server_ca, &serving.wanted, "server auth");
    serving.store(&served).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let config = common::listener_tls(cluster.pki.client_ca.cert_pem(), serving.current.clone());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let _ = stream.read(&mut [0; 1]).await;
            });
        }
    });
    let before = presented(at, &cluster.pki.server_ca).await;

    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let stop = cluster.stop.clone();
    let told_client = sender.clone();
    tokio::spawn(certificates::keep(
        client.clone(),
        pair.clone(),
        node.clone(),
        move || {
            remote.reconnect();
            told_client.send("client").unwrap();
        },
        stop.clone(),
    ));
    let tell = move || sender.send("serving").unwrap();
    tokio::spawn(certificates::keep(serving.clone(), served, node.clone(), tell, stop));
    let mut renewed = Vec::new();
    for _ in 0..2 {
        renewed.push(tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap());
    }
    renewed.sort_unstable();
    assert_eq!(renewed, ["client", "serving"]);
    assert_ne!(presented(at, &cluster.pki.server_ca).await, before);
    assert_ne!(client.load().unwrap().unwrap().cert_pem, pair.cert_pem);
    assert_eq!(whoami(&node).await, "system:node:n");
    accepting.abort();
}
