//! A server with everything that joining needs, on loopback with real TLS; controllers and RBAC are in force.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use knarr_agent::join::Joining;
use knarr_apiserver::supervisor::Supervisor;
use knarr_apiserver::tunnel::Tunnels;
use knarr_auth::join::Passwords;
use knarr_auth::{ClientLookup, JoinTokens, NodePasswords};
use knarr_client::ClusterConfig;
use knarr_controllers::csr_signing::Authorities;
use knarr_harness::TestServer;
use knarr_machinery::UserInfo;
use knarr_pki::{ClusterPki, Rotating, ServingNames, Token};
use kube::Client;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub const PASSWORD: &str = "correct-horse-battery";

pub struct Cluster {
    pub server: TestServer,
    pub admin: Client,
    pub pki: ClusterPki,
    pub dir: tempfile::TempDir,
    pub tunnels: Arc<Tunnels>,
    pub join: Arc<JoinTokens>,
    pub at: SocketAddr,
    pub stop: CancellationToken,
    router: axum::Router,
    tls: Arc<rustls::ServerConfig>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A listener that checks client certificates that are shown.
pub fn listener_tls(client_ca: &str, current: Arc<Rotating>) -> rustls::ServerConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(client_ca.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .unwrap();
    rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(current)
}

fn user(name: &str) -> UserInfo {
    let account: &[&str] = &["system:serviceaccounts", "system:serviceaccounts:kube-system"];
    UserInfo::component(name, if name.starts_with("system:serviceaccount:") { account } else { &[] })
}

impl Cluster {
    pub async fn start() -> Self {
        let _set = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "error".into()))
            .with_test_writer()
            .try_init();
        let dir = tempfile::tempdir().unwrap();
        let pki = ClusterPki::load_or_create(dir.path()).unwrap();
        let to_kubelets = pki.client("kube-apiserver", "system:apiserver", &["system:masters"]).unwrap();
        let to_kubelets =
            knarr_agent::remote::tls(pki.server_ca.cert_pem(), Some(Rotating::new(&to_kubelets).unwrap()))
                .unwrap();
        let server = TestServer::start_with(|config| config.kubelet_tls = Some(Arc::new(to_kubelets))).await;
        let admin = server.admin_client();
        let passwords = Passwords { server: PASSWORD.into(), agent: PASSWORD.into() };
        let lookup = Arc::new(ClientLookup::new(admin.clone()));
        let join = Arc::new(JoinTokens::new(passwords, lookup, NodePasswords::new(admin.clone())));
        let signer = knarr_auth::jwt::SigningKey::from_pem(&pki.service_account_key_pem).unwrap();
        server.api.enable_auth(signer, Vec::new(), vec![join.clone()]).await.unwrap();
        knarr_addons::join_roles::ensure(&admin).await.unwrap();
        server.api.enable_admission(&[]);
        let stop = CancellationToken::new();
        Self::controllers(&server, &pki, &stop);
        let tunnels = Tunnels::new(stop.clone());
        server.api.set_tunnels(tunnels.clone());
        let names = ServingNames { cluster_domain: "cluster.local".into(), ..ServingNames::default() };
        let mut tls =
            listener_tls(pki.client_ca.cert_pem(), Rotating::new(&pki.serving(&names).unwrap()).unwrap());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let router = Supervisor {
            api: server.api.clone(),
            ca_pem: pki.server_ca.cert_pem().to_string(),
            join: join.clone(),
            config: ClusterConfig {
                cluster_cidr: "10.42.0.0/16".into(),
                service_cidr: "10.43.0.0/16".into(),
                cluster_dns: "10.43.0.10".into(),
                cluster_domain: "cluster.local".into(),
                flannel_backend: "vxlan".into(),
                disable: Vec::new(),
                client_ca_pem: pki.client_ca.cert_pem().to_string(),
                version: "v0".into(),
            },
            tunnels: tunnels.clone(),
            store: Arc::new(|_| Ok(())),
        }
        .router();
        let (tls, at) = (Arc::new(tls), SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut cluster = Self { server, admin, pki, dir, tunnels, join, at, stop, router, tls };
        cluster.at = cluster.listen(cluster.stop.clone()).await;
        cluster
    }

    fn controllers(server: &TestServer, pki: &ClusterPki, stop: &CancellationToken) {
        let names = knarr_controllers::CONTROLLERS
            .iter()
            .map(|c| format!("system:serviceaccount:kube-system:{}", c.account))
            .chain(["system:kube-controller-manager".to_owned()]);
        let clients: std::collections::HashMap<String, Client> =
            names.map(|n| (n.clone(), server.client(user(&n)))).collect();
        let config = knarr_controllers::Config {
            authorities: Some(Arc::new(Authorities {
                client: pki.client_ca.clone(),
                server: pki.server_ca.clone(),
            })),
            ..knarr_controllers::Config::default()
        };
        let client_for: knarr_controllers::ClientFor = Arc::new(move |name| clients[name].clone());
        tokio::spawn(knarr_controllers::run(config, client_for, stop.clone()));
    }

    /// Another listener of the same server, until `stop`.
    pub async fn listen(&self, stop: CancellationToken) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (api, tls, router) = (self.server.api.clone(), self.tls.clone(), self.router.clone());
        tokio::spawn(async move { api.serve_router(listener, tls, router, stop).await });
        at
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.at)
    }

    pub fn token(&self) -> String {
        Token::secure(self.pki.server_ca.cert_pem(), "node", PASSWORD)
    }

    /// Somebody who joins as this node; the password file is the node's own.
    pub fn joining(&self, node: &str, token: &str) -> Joining {
        Joining {
            server: self.url(),
            token: Token::parse(token).unwrap(),
            node_name: node.to_string(),
            password_file: self.dir.path().join(format!("{node}/password")),
            machine_id: format!("machine-of-{node}"),
        }
    }

    /// Creates or replaces a bootstrap token.
    pub async fn bootstrap_token(&self, token: &str, expiration: &str, groups: &str) {
        let (id, secret) = token.split_once('.').unwrap();
        let object = serde_json::json!({
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}")},
            "stringData": {"token-id": id, "token-secret": secret, "expiration": expiration,
                "usage-bootstrap-authentication": "true", "auth-extra-groups": groups},
        });
        self.server.post("/api/v1/namespaces/kube-system/secrets", &object).await.expect(201);
    }

    /// Repeats until it is so; panics after ten seconds.
    pub async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
        for _ in 0..500 {
            if check().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within 10 s: {what}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
