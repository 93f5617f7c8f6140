//! An API server in the test's own process: memory datastore, all kinds, any identity.
//!
//! Entry point: [`TestServer::start`]. [`TestServer::raw`] speaks HTTP without a client library in between;
//! [`TestServer::client`] gives a `kube::Client` for an identity.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod webhook;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Request};
use knarr_apiserver::{ApiServer, Config};
use knarr_datastore::Datastore;
use knarr_machinery::UserInfo;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A running server.
pub struct TestServer {
    /// The server.
    pub api: ApiServer,
    router: Router,
    shutdown: CancellationToken,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {}", String::from_utf8_lossy(&self.body)))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON body, after a check of the status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// `Status.message` after a check of the status.
    #[track_caller]
    pub fn message(&self, status: u16) -> String {
        self.expect(status)["message"].as_str().unwrap_or("").to_string()
    }
}

/// The frames of a watch.
pub struct Frames {
    body: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Frames {
    /// The next frame; panics after five silent seconds, None at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(std::time::Duration::from_secs(5), self.body.next())
                .await
                .expect("no watch frame within 5 s")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    /// `TYPE name` of the next frame.
    pub async fn next_name(&mut self) -> String {
        let frame = self.next().await.expect("the watch ended");
        let name = frame["object"]["metadata"]["name"].as_str().unwrap_or("");
        format!("{} {name}", frame["type"].as_str().unwrap_or(""))
    }
}

impl TestServer {
    /// Starts a server over an empty memory datastore.
    pub async fn start() -> Self {
        Self::start_on(Datastore::open("memory://").await.unwrap()).await
    }

    /// Starts a server over a datastore.
    pub async fn start_on(store: Datastore) -> Self {
        Self::start_as(store, |_| {}).await
    }

    /// Starts a server over an empty memory datastore with a changed configuration.
    pub async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        Self::start_as(Datastore::open("memory://").await.unwrap(), configure).await
    }

    async fn start_as(store: Datastore, configure: impl FnOnce(&mut Config)) -> Self {
        let shutdown = CancellationToken::new();
        let mut config = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
        configure(&mut config);
        let api = ApiServer::build(config, store, Vec::new(), shutdown.clone()).await.unwrap();
        let router = api.router();
        Self { api, router, shutdown }
    }

    /// Starts a server with RBAC, node authorization, service-account tokens and admission in force.
    pub async fn start_with_auth() -> Self {
        let server = Self::start().await;
        // The key of any authority will do for a test.
        let key = knarr_pki::Ca::create("tokens").unwrap();
        let signer = knarr_auth::jwt::SigningKey::from_pem(key.key_pem()).unwrap();
        server.api.enable_auth(signer, Vec::new(), Vec::new()).await.unwrap();
        server.api.enable_admission(&[]);
        server
    }

    /// The identity that may do everything.
    pub fn admin() -> UserInfo {
        UserInfo::component("admin", &["system:masters"])
    }

    /// A client with an identity.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        let service = self.router.clone().map_request(move |mut request: Request<kube::client::Body>| {
            request.extensions_mut().insert(user.clone());
            request
        });
        kube::Client::new(service, "default")
    }

    /// A client of the administrator.
    pub fn admin_client(&self) -> kube::Client {
        self.client(Self::admin())
    }

    /// A request with full control, as the administrator. `headers` as `Name: value`.
    pub async fn raw(&self, method: &str, path: &str, headers: &[&str], body: impl Into<Body>) -> Reply {
        self.raw_as(Some(Self::admin()), method, path, headers, body).await
    }

    /// A request as any identity, or none.
    pub async fn raw_as(
        &self,
        user: Option<UserInfo>,
        method: &str,
        path: &str,
        headers: &[&str],
        body: impl Into<Body>,
    ) -> Reply {
        let response = self.send(user, method, path, headers, body.into()).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The answer to a request before its body is read, as any identity, or none.
    pub async fn send(
        &self,
        user: Option<UserInfo>,
        method: &str,
        path: &str,
        headers: &[&str],
        body: Body,
    ) -> axum::response::Response {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        for header in headers {
            let (name, value) = header.split_once(':').expect("Name: value");
            request = request.header(name.trim(), value.trim());
        }
        let mut request = request.body(body).unwrap();
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, &[], Body::empty()).await
    }

    /// POST of a JSON document.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw("POST", path, &["content-type: application/json"], body.to_string()).await
    }

    /// PUT of a JSON document.
    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.raw("PUT", path, &["content-type: application/json"], body.to_string()).await
    }

    /// PATCH; `form` is `merge`, `json`, `strategic` or `apply`.
    pub async fn patch(&self, path: &str, form: &str, body: &Value) -> Reply {
        let media = match form {
            "merge" => "merge-patch+json",
            "json" => "json-patch+json",
            "strategic" => "strategic-merge-patch+json",
            "apply" => "apply-patch+yaml",
            other => panic!("no patch form {other}"),
        };
        self.raw("PATCH", path, &[&format!("content-type: application/{media}")], body.to_string()).await
    }

    /// DELETE without options.
    pub async fn delete(&self, path: &str) -> Reply {
        self.raw("DELETE", path, &[], Body::empty()).await
    }

    /// A watch that must start.
    pub async fn watch(&self, path: &str) -> Frames {
        let response = self.send(Some(Self::admin()), "GET", path, &[], Body::empty()).await;
        assert_eq!(response.status(), 200, "{path}");
        Frames { body: response.into_body().into_data_stream(), buffer: Vec::new() }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An authenticator that takes everybody for one user.
pub struct Everybody(pub UserInfo);

#[async_trait::async_trait]
impl knarr_auth::Authenticator for Everybody {
    async fn authenticate(
        &self,
        _: &http::request::Parts,
        _: &[rustls::pki_types::CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, knarr_auth::AuthError> {
        Ok(Some(self.0.clone()))
    }
}
