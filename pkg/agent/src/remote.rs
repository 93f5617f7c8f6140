//! Clients of servers over TLS: [`Remote`] is the transport of `kube::Client`s whose certificate is exchanged while they run.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use knarr_pki::Rotating;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

/// A silent connection is asked whether it lives this often, and given up after [`ANSWER`].
const HEARTBEAT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(10);
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Answers of the supervisor are small.
const MAX_ANSWER: usize = 1 << 20;

type Http<B> = Client<hyper_rustls::HttpsConnector<HttpConnector>, B>;
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// TLS that trusts these authorities and shows the rotating certificate, if any.
///
/// # Errors
/// PEM without a usable certificate.
pub fn tls(ca_pem: &str, identity: Option<Arc<Rotating>>) -> Result<ClientConfig, Error> {
    let bad = |detail: String| Error::Trust(detail);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| bad(e.to_string()))?;
        roots.add(certificate).map_err(|e| bad(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate in PEM".to_string()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?
        .with_root_certificates(roots);
    Ok(match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    })
}

/// TLS that trusts anybody: only for reading the CA, whose hash the token holds, before any secret is sent.
fn blind() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anybody(provider.clone()));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Trust(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn http<B>(tls: ClientConfig) -> Http<B>
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Fault>,
{
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(HEARTBEAT)
        .http2_keep_alive_timeout(ANSWER)
        .http2_keep_alive_while_idle(true)
        .build(connector)
}

/// Transport to one address with fixed headers.
#[derive(Clone)]
pub struct Remote {
    http: Arc<ArcSwap<Http<kube::client::Body>>>,
    tls: ClientConfig,
    authority: Authority,
    headers: HeaderMap,
}

impl Remote {
    /// A transport to `host:port`.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(authority: &str, tls: ClientConfig, headers: HeaderMap) -> Result<Self, Error> {
        let authority = authority.parse().map_err(|e| Error::Server {
            server: authority.to_string(),
            detail: format!("bad address: {e}"),
        })?;
        Ok(Self { http: Arc::new(ArcSwap::from_pointee(http(tls.clone()))), tls, authority, headers })
    }

    /// Opens new connections from now on; open requests go on on the old ones. Needed when the certificate changed.
    pub fn reconnect(&self) {
        self.http.store(Arc::new(http(self.tls.clone())));
    }

    /// A client on this transport.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }
}

impl tower::Service<Request<kube::client::Body>> for Remote {
    type Response = Response<Incoming>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        let uri = Uri::from_parts(parts);
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let http = self.http.load_full();
        Box::pin(async move {
            *request.uri_mut() = uri?;
            Ok(http.request(request).await?)
        })
    }
}

/// The supervisor's endpoints of one server.
pub struct SupervisorClient {
    http: Http<Full<Bytes>>,
    server: String,
    headers: HeaderMap,
}

/// An answer of the supervisor.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as one line of text.
    pub fn line(&self) -> String {
        String::from_utf8_lossy(&self.body).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl SupervisorClient {
    /// Reads without trust: no secret may be sent with it.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn untrusting(server: &str) -> Result<Self, Error> {
        Ok(Self { http: http(blind()?), server: server.to_string(), headers: HeaderMap::new() })
    }

    /// Trusts the CA, shows the certificate, and sends the headers with every request.
    ///
    /// # Errors
    /// A CA that is none.
    pub fn new(
        server: &str,
        ca_pem: &str,
        identity: Option<Arc<Rotating>>,
        headers: HeaderMap,
    ) -> Result<Self, Error> {
        Ok(Self { http: http(tls(ca_pem, identity)?), server: server.to_string(), headers })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The server cannot be reached or trusted.
    pub async fn send(&self, method: http::Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let fail = |detail: String| Error::Server { server: self.server.clone(), detail };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .body(Full::new(body))
            .map_err(|e| fail(e.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        let exchange = async {
            let response = self.http.request(request).await.map_err(|e| fail(causes(&e)))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok(Answer { status, body: body.map_err(|e| fail(e.to_string()))?.to_bytes() })
        };
        match tokio::time::timeout(CONNECT * 2, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(fail("no answer in time".to_string())),
        }
    }
}

/// An error with all its causes, each told once.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// `Authorization: Basic`.
pub(crate) fn basic(user: &str, password: &str) -> Option<(http::HeaderName, HeaderValue)> {
    use base64::Engine as _;
    let coded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(format!("Basic {coded}"))
}

/// `Authorization: Bearer`.
pub(crate) fn bearer(token: &str) -> Option<(http::HeaderName, HeaderValue)> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Option<(http::HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some((AUTHORIZATION, value))
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
