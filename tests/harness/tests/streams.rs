//! Streams to a kubelet: the API server passes them on over TLS. The kubelet here is a socket that answers by rote.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use knarr_harness::TestServer;
use knarr_pki::{Ca, CertKey, Leaf};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

fn server_config(leaf: &CertKey) -> Arc<rustls::ServerConfig> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn client_config(ca: &Ca) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// Answers logs with the request line, and upgrades with an echo.
async fn kubelet(listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(acceptor.accept(stream).await.unwrap());
            let mut request = String::new();
            stream.read_line(&mut request).await.unwrap();
            let mut upgrade = false;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                upgrade |= line.to_lowercase().starts_with("upgrade:");
                if line.trim().is_empty() {
                    break;
                }
            }
            if upgrade {
                stream
                    .write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n",
                    )
                    .await
                    .unwrap();
                stream.flush().await.unwrap();
                let mut bytes = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                    stream.write_all(&bytes[..n]).await.unwrap();
                    stream.flush().await.unwrap();
                }
            } else if request.contains("/bad/") {
                stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 10\r\n\r\nnot ready\n")
                    .await
                    .unwrap();
            } else {
                let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len());
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            let _ = stream.shutdown().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_upgrades() {
    let ca = Ca::create("streams").unwrap();
    let leaf = ca.issue(&Leaf::server("x", vec!["localhost".into()], vec![[127, 0, 0, 1].into()])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kubelet_port = listener.local_addr().unwrap().port();
    let fake = tokio::spawn(kubelet(listener, server_config(&leaf)));
    let s = TestServer::start_with(|config| config.kubelet_tls = Some(Arc::new(client_config(&ca)))).await;

    let node = json!({"metadata": {"name": "n"}});
    let node = s.post("/api/v1/nodes", &node).await.expect(201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}}}});
    s.patch("/api/v1/nodes/n/status", "merge", &status).await.expect(200);
    assert_eq!(node["kind"], "Node");
    let pods = "/api/v1/namespaces/default/pods";
    for (name, containers) in [
        ("p", json!([{"name": "c", "image": "i"}])),
        ("two", json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}])),
        ("bad", json!([{"name": "c", "image": "i"}])),
    ] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n", "containers": containers}});
        s.post(pods, &pod).await.expect(201);
    }
    let log = s.get(&format!("{pods}/p/log?tailLines=5")).await;
    assert_eq!(log.text().trim(), "GET /containerLogs/default/p/c?tailLines=5 HTTP/1.1");
    let unclear = s.get(&format!("{pods}/two/log")).await;
    assert_eq!(unclear.message(400), "a container name must be specified for pod two, choose one of: [a b]");
    let refused = s.get(&format!("{pods}/two/log?container=x")).await;
    assert_eq!(refused.message(400), "container x is not valid for pod two");
    assert_eq!(s.get(&format!("{pods}/bad/log")).await.message(400), "not ready");
    let proxied = s.get("/api/v1/nodes/n/proxy/metrics?x=y").await;
    assert_eq!(proxied.text().trim(), "GET /metrics?x=y HTTP/1.1");
    assert_eq!(s.get("/api/v1/nodes/n/proxy").await.status, 301);

    // An upgrade goes through the TLS listener to the kubelet and back.
    s.api.set_authenticators(vec![Arc::new(knarr_harness::Everybody(TestServer::admin()))]);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = front.local_addr().unwrap().port();
    let (api, tls) = (s.api.clone(), server_config(&leaf));
    let until = tokio_util::sync::CancellationToken::new();
    let stop = until.clone();
    let served = tokio::spawn(async move { api.serve_tls(front, tls, stop).await });
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(&ca)));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let request = format!(
        "POST {pods}/p/exec?command=sh&stdin=true&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: test\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"hello");
    drop(stream);
    until.cancel();
    served.await.unwrap().unwrap();
    fake.abort();
}
