//! The load generator's client: raw HTTP/2 over TLS, no client library in between, so that both sides are measured
//! and not we.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// How many streams share a connection.
const STREAMS: usize = 32;

/// Accepts any server certificate: both sides are processes that we started on loopback.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Trusting {
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
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Where a side listens and who we are there.
#[derive(Clone)]
pub struct Target {
    /// Port on 127.0.0.1.
    pub port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// `identity` is a client certificate chain with its key; none goes without.
    ///
    /// # Errors
    /// The key does not fit.
    pub fn new(
        port: u16,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
        let mut tls = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { port, tls: Arc::new(tls) })
    }

    /// One connection.
    ///
    /// # Errors
    /// Nobody listens, or the handshake fails.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            // Ends with an error when the server goes away first; requests then say so.
            let _ended = connection.await;
        });
        Ok(Connection { sender, port: self.port })
    }

    /// Connections for so many parallel clients.
    ///
    /// # Errors
    /// As [`Target::connect`].
    pub async fn connections(&self, clients: usize) -> anyhow::Result<Vec<Connection>> {
        let mut all = Vec::new();
        for _ in 0..clients.div_ceil(STREAMS) {
            all.push(self.connect().await?);
        }
        Ok((0..clients).map(|i| all[i % all.len()].clone()).collect())
    }

    /// Waits until `path` answers 200.
    ///
    /// # Errors
    /// It does not within 60 s.
    pub async fn ready(&self, path: &str) -> anyhow::Result<()> {
        let wait = async {
            loop {
                if let Ok(connection) = self.connect().await
                    && let Ok((200, _)) = connection.raw(Method::GET, path, &[], Bytes::new()).await
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .with_context(|| format!("{path} on port {} in 60 s", self.port))
    }
}

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    port: u16,
}

impl Connection {
    /// Sends a request and gives the response with its body still to come.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let mut request =
            Request::builder().method(method).uri(format!("https://127.0.0.1:{}{path}", self.port));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone();
        sender.ready().await?;
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Status and whole body.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let response = self.send(method, path, headers, body).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// As [`Connection::raw`], and any status but 2xx is an error that quotes the answer.
    ///
    /// # Errors
    /// The above.
    pub async fn done(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Bytes> {
        let named = format!("{method} {path}");
        let (status, body) = self.raw(method, path, headers, body).await?;
        ensure!(
            (200..300).contains(&status),
            "{named}: {status} {}",
            String::from_utf8_lossy(&body[..body.len().min(400)])
        );
        Ok(body)
    }
}
