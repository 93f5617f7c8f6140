//! A server for trying stock clients by hand: `serve DIR [PORT] [DATASTORE]` writes DIR/kubeconfig and runs until it
//! is killed. The one user is the administrator, by a token that the kubeconfig holds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use async_trait::async_trait;
use knarr_apiserver::{ApiServer, Config};
use knarr_auth::{AuthError, Authenticator};
use knarr_datastore::Datastore;
use knarr_machinery::UserInfo;
use knarr_pki::{Ca, Leaf};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

struct Token(String);

#[async_trait]
impl Authenticator for Token {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError> {
        let given = parts.headers.get("authorization").and_then(|v| v.to_str().ok());
        Ok((given == Some(&format!("Bearer {}", self.0)))
            .then(|| UserInfo::component("admin", &["system:masters"])))
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("serve DIR [PORT] [DATASTORE]");
    let port: u16 = args.next().map_or(16443, |p| p.parse().expect("a port"));
    let store = args.next().unwrap_or_else(|| "memory://".into());
    let ca = Ca::create("serve-ca").unwrap();
    let leaf =
        ca.issue(&Leaf::server("serve", vec!["localhost".into()], vec![[127, 0, 0, 1].into()])).unwrap();
    let chain =
        CertificateDer::pem_slice_iter(leaf.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let token = knarr_registry::registry::new_uid();
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"),
            "certificate-authority-data": data(ca.cert_pem())}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(format!("{dir}/kubeconfig"), kubeconfig.to_string()).unwrap();
    let shutdown = CancellationToken::new();
    let config = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
    let store = Datastore::open(&store).await.unwrap();
    let api = ApiServer::build(config, store, Vec::new(), shutdown.clone()).await.unwrap();
    let key = Ca::create("tokens").unwrap();
    let signer = knarr_auth::jwt::SigningKey::from_pem(key.key_pem()).unwrap();
    api.enable_auth(signer, Vec::new(), vec![Arc::new(Token(token))]).await.unwrap();
    api.enable_admission(&[]);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    println!("ready: export KUBECONFIG={dir}/kubeconfig");
    api.serve_tls(listener, Arc::new(tls), shutdown).await.unwrap();
}

fn data(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
