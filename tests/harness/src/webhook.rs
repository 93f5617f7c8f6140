//! A webhook server on loopback, with a certificate of its own.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Answers a review at a path.
pub type Answer = dyn Fn(&str, &Value) -> Value + Send + Sync;

fn head(parts: &http::request::Parts) -> Value {
    let mut headers = serde_json::Map::new();
    for (name, value) in &parts.headers {
        let list = headers.entry(name.to_string()).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(value.to_str().unwrap().into());
    }
    json!({"method": parts.method.as_str(), "headers": headers})
}

/// A running webhook server.
pub struct WebhookServer {
    /// `https://localhost:port`.
    pub url: String,
    /// The certificate that vouches for it, PEM in base64.
    pub bundle: String,
    /// Its port.
    pub port: u16,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    task: tokio::task::JoinHandle<()>,
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            // Clients that do not trust the certificate go away again.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl WebhookServer {
    /// Starts one whose answers are what `answer` makes of a path and a review.
    pub async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        let ca = knarr_pki::Ca::create("webhooks").unwrap();
        let names = vec!["localhost".into(), "aggregated.default.svc".into()];
        let leaf = knarr_pki::Leaf::server("webhook", names, vec![[127, 0, 0, 1].into()]);
        let pair = ca.issue(&leaf).unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (answer, noted): (Arc<Answer>, _) = (Arc::new(answer), calls.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (answer, noted) = (answer.clone(), noted.clone());
            async move {
                let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                // What is no review is told by its head.
                let review: Value = serde_json::from_slice(&body).unwrap_or_else(|_| head(&parts));
                noted.lock().unwrap().push((path.clone(), review.clone()));
                if path.starts_with("/slow") {
                    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
                }
                let place = path.split('?').next().unwrap_or_default().to_string();
                axum::Json(answer(&place, &review)).into_response()
            }
        });
        let tls = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let task = tokio::spawn(async move { axum::serve(tls, router).await.unwrap() });
        Self {
            url: format!("https://localhost:{port}"),
            bundle: STANDARD.encode(ca.cert_pem()),
            port,
            calls,
            task,
        }
    }

    /// A clientConfig for a path.
    pub fn client(&self, path: &str) -> Value {
        json!({"url": format!("{}{path}", self.url), "caBundle": self.bundle})
    }

    /// What was asked so far, by path with query.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().unwrap().clone()
    }

    /// The answer that allows or refuses an admission review.
    pub fn verdict(review: &Value, allowed: bool, message: &str) -> Value {
        json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": {
            "uid": review["request"]["uid"], "allowed": allowed, "status": {"message": message}}})
    }

    /// The answer that changes the object of an admission review.
    pub fn change(review: &Value, patch: &Value) -> Value {
        let mut answer = Self::verdict(review, true, "");
        answer["response"]["patchType"] = "JSONPatch".into();
        answer["response"]["patch"] = STANDARD.encode(patch.to_string()).into();
        answer
    }
}

impl Drop for WebhookServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
