//! Calls to webhooks: a review is posted over TLS to a URL or to a service of the cluster.
//!
//! Entry point: [`Webhooks::post`]. A service is reached as the service proxy reaches it: straight at one of its
//! endpoints, through the tunnel of its node where that is an agent's. Connections are kept for the next call.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use knarr_admission::CallError;
use knarr_machinery::GroupVersionResource;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, RootCertStore};
use serde_json::Value;

use crate::connect::{self, Target};
use crate::server::Inner;

/// The longest answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// A connection that was not used for so long may be gone.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that are kept for one webhook, and webhooks for which some are.
const KEPT_MAX: usize = 16;
const WEBHOOKS_MAX: usize = 256;
/// Where systems keep the certificates that everybody trusts.
const SYSTEM_BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type Sender = SendRequest<Full<Bytes>>;

struct Kept {
    sender: Sender,
    since: Instant,
}

/// What is known of the webhooks that were called.
#[derive(Default)]
pub(crate) struct Webhooks {
    trust: Mutex<HashMap<String, Arc<rustls::ClientConfig>>>,
    kept: Mutex<HashMap<String, Vec<Kept>>>,
}

/// Where a webhook is.
struct Place {
    /// `https://host:port/path`, as errors tell it.
    url: String,
    /// `host:port` for the Host header.
    authority: String,
    /// Name in the certificate.
    name: String,
    /// Path of the request.
    path: String,
    /// Namespace, name and port of a service, or host and port.
    at: At,
}

enum At {
    Service { namespace: String, name: String, port: u16 },
    Host { host: String, port: u16 },
}

fn failed(message: impl Into<String>) -> CallError {
    CallError { message: message.into(), code: 503 }
}

impl Place {
    /// Reads a `clientConfig`.
    fn of(client: &Value, limit: Option<Duration>) -> Result<Self, CallError> {
        let timeout = limit.map(|l| format!("?timeout={}s", l.as_secs().max(1))).unwrap_or_default();
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or("").to_string();
        if let Some(service) = client.get("service").filter(|s| s.is_object()) {
            let (namespace, name) = (text(service, "namespace"), text(service, "name"));
            let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
            let port =
                u16::try_from(port).map_err(|_| failed(format!("port {port} of the service is none")))?;
            let host = format!("{name}.{namespace}.svc");
            let path = text(service, "path");
            let path = format!("/{}{timeout}", path.strip_prefix('/').unwrap_or(&path));
            let authority = format!("{host}:{port}");
            return Ok(Self {
                url: format!("https://{authority}{path}"),
                authority,
                name: host,
                path,
                at: At::Service { namespace, name, port },
            });
        }
        let url = text(client, "url");
        if url.is_empty() {
            return Err(failed("webhook configuration must have either service or URL"));
        }
        let uri: http::Uri = url.parse().map_err(|e| failed(format!("Unparsable URL: {e}")))?;
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_string();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let path = format!("{}{timeout}", uri.path());
        Ok(Self {
            url: format!("https://{authority}{path}"),
            authority,
            name: host.clone(),
            path,
            at: At::Host { host, port: uri.port_u16().unwrap_or(443) },
        })
    }
}

impl Webhooks {
    /// Posts a document and reads the answer.
    ///
    /// # Errors
    /// What happened, as upstream tells it.
    pub(crate) async fn post(
        &self,
        server: &Weak<Inner>,
        client: &Value,
        limit: Option<Duration>,
        document: &Value,
    ) -> Result<Value, CallError> {
        let server = server.upgrade().ok_or_else(|| failed("the server is shutting down"))?;
        let place = Place::of(client, limit)?;
        let told = |e: CallError| CallError { message: format!("Post {:?}: {}", place.url, e.message), ..e };
        let bundle = client.get("caBundle").and_then(Value::as_str).unwrap_or("");
        let body = Bytes::from(serde_json::to_vec(document).map_err(|e| failed(e.to_string()))?);
        let exchange = self.exchange(&server, &place, bundle, body);
        // Conversions have no limit of their own; nothing waits for ever.
        let limit = limit.unwrap_or(Duration::from_secs(30));
        let (code, answer) = match tokio::time::timeout(limit, exchange).await {
            Err(_) => return Err(told(failed("context deadline exceeded"))),
            Ok(result) => result.map_err(told)?,
        };
        if !(200..300).contains(&code) {
            return Err(CallError { message: refusal(code, &answer), code });
        }
        serde_json::from_slice(&answer)
            .map_err(|e| failed(format!("couldn't get version/kind; json parse error: {e}")))
    }

    async fn exchange(
        &self,
        server: &Inner,
        place: &Place,
        bundle: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), CallError> {
        let key = format!("{}|{bundle}", place.authority);
        while let Some(mut sender) = self.take(&key) {
            if sender.ready().await.is_err() {
                continue;
            }
            match send(&mut sender, place, body.clone()).await {
                Ok(answer) => {
                    self.keep(key, sender);
                    return Ok(answer);
                }
                // The other side closed it meanwhile: nothing was sent.
                Err(error) if error.is_canceled() || error.is_closed() => {}
                Err(error) => return Err(failed(cause(&error))),
            }
        }
        let mut sender = self.dial(server, place, bundle).await?;
        let answer = send(&mut sender, place, body).await.map_err(|e| failed(cause(&e)))?;
        self.keep(key, sender);
        Ok(answer)
    }

    fn take(&self, key: &str) -> Option<Sender> {
        let mut kept = self.kept.lock();
        let list = kept.get_mut(key)?;
        while let Some(Kept { sender, since }) = list.pop() {
            if since.elapsed() < IDLE_MAX && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, key: String, sender: Sender) {
        let mut kept = self.kept.lock();
        kept.retain(|_, list| {
            list.retain(|k| k.since.elapsed() < IDLE_MAX && !k.sender.is_closed());
            !list.is_empty()
        });
        if kept.len() >= WEBHOOKS_MAX && !kept.contains_key(&key) {
            return;
        }
        let list = kept.entry(key).or_default();
        if list.len() < KEPT_MAX {
            list.push(Kept { sender, since: Instant::now() });
        }
    }

    async fn dial(&self, server: &Inner, place: &Place, bundle: &str) -> Result<Sender, CallError> {
        let config = self.trusting(bundle)?;
        let target = target(server, place).await?;
        let stream = connect::connect(server, &target).await.map_err(|e| {
            failed(e.message.strip_prefix("error dialing backend: ").unwrap_or(&e.message).to_string())
        })?;
        let name = ServerName::try_from(place.name.clone()).map_err(|e| failed(e.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = connector.connect(name, stream).await.map_err(|e| failed(tls_text(&e)))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to a webhook ended");
            }
        });
        Ok(sender)
    }

    /// TLS that trusts a bundle in base64, or what the system trusts when there is none.
    fn trusting(&self, bundle: &str) -> Result<Arc<rustls::ClientConfig>, CallError> {
        if let Some(config) = self.trust.lock().get(bundle) {
            return Ok(config.clone());
        }
        let config = Arc::new(trust(bundle)?);
        let mut known = self.trust.lock();
        if known.len() >= WEBHOOKS_MAX {
            known.clear();
        }
        known.insert(bundle.to_string(), config.clone());
        Ok(config)
    }
}

/// The certificates of a bundle in base64, or what the system trusts when there is none.
pub(crate) fn roots(bundle: &str) -> Result<RootCertStore, CallError> {
    let pem = base64::engine::general_purpose::STANDARD
        .decode(bundle)
        .map_err(|e| failed(format!("caBundle is no base64: {e}")))?;
    let mut roots = RootCertStore::empty();
    if pem.iter().all(u8::is_ascii_whitespace) {
        let system = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&system).flatten());
    } else {
        let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        if added == 0 {
            return Err(failed("unable to load root certificates: unable to parse bytes as PEM block"));
        }
    }
    Ok(roots)
}

/// TLS for a bundle.
fn trust(bundle: &str) -> Result<rustls::ClientConfig, CallError> {
    let roots = roots(bundle)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Where the bytes go.
async fn target(server: &Inner, place: &Place) -> Result<Target, CallError> {
    match &place.at {
        At::Host { host, port } => Ok(Target::straight(host, *port)),
        At::Service { namespace, name, port } => {
            service(server, namespace, name, *port).await.map_err(|e| failed(e.message))
        }
    }
}

/// An endpoint of a service; the place that it names where it is elsewhere.
///
/// # Errors
/// 404 for missing services, 503 for services without endpoints.
pub(crate) async fn service(
    server: &Inner,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Target, knarr_machinery::ApiError> {
    let missing = knarr_machinery::ApiError::path_not_found;
    let gvr = GroupVersionResource::new("", "v1", "services");
    let kind = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(missing)?;
    let found = server.registry.get_value(&kind, namespace, name).await?;
    if found.pointer("/spec/type").and_then(Value::as_str) == Some("ExternalName") {
        let host = found.pointer("/spec/externalName").and_then(Value::as_str).unwrap_or("");
        return Ok(Target::straight(host, port));
    }
    connect::service_target(server, &kind, namespace, name, &port.to_string(), false).await
}

async fn send(sender: &mut Sender, place: &Place, body: Bytes) -> Result<(u16, Bytes), Failure> {
    let request = http::Request::builder()
        .method("POST")
        .uri(place.path.as_str())
        .header(HOST, place.authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, */*")
        .header(USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|e| Failure::Other(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(Failure::Http)?;
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    Ok((code, body.map_err(|e| Failure::Other(e.to_string()))?.to_bytes()))
}

enum Failure {
    Http(hyper::Error),
    Other(String),
}

impl Failure {
    fn is_canceled(&self) -> bool {
        matches!(self, Self::Http(e) if e.is_canceled())
    }

    fn is_closed(&self) -> bool {
        matches!(self, Self::Http(e) if e.is_closed())
    }
}

fn cause(failure: &Failure) -> String {
    match failure {
        Failure::Http(e) if e.is_incomplete_message() => "EOF".to_string(),
        Failure::Http(e) => e.to_string(),
        Failure::Other(text) => text.clone(),
    }
}

/// What is wrong with a certificate, in the words of a Go client.
fn tls_text(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(reason)) = inner else {
        return format!("remote error: tls: {error}");
    };
    let text = match reason {
        CertificateError::UnknownIssuer => "x509: certificate signed by unknown authority".to_string(),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_string()
        }
        other => format!("x509: {other}"),
    };
    format!("tls: failed to verify certificate: {text}")
}

/// An answer that is none: the message of a Status, or what stands in the body.
fn refusal(code: u16, body: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(body).ok();
    let status = status.filter(|s| s["kind"] == "Status");
    if let Some(message) = status.as_ref().and_then(|s| s["message"].as_str()).filter(|m| !m.is_empty()) {
        return message.to_string();
    }
    let text: String = String::from_utf8_lossy(body).trim().chars().take(2048).collect();
    match code {
        401 => "the server has asked for the client to provide credentials".to_string(),
        404 => "the server could not find the requested resource".to_string(),
        400 | 403 => format!("the server rejected our request for an unknown reason: {text}"),
        _ => format!("an error on the server ({text:?}) has prevented the request from succeeding"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places() {
        let limit = Some(Duration::from_secs(5));
        let service = json!({"service": {"namespace": "n", "name": "s", "path": "/x", "port": 8443}});
        let place = Place::of(&service, limit).unwrap();
        assert_eq!(place.url, "https://s.n.svc:8443/x?timeout=5s");
        assert_eq!((place.name.as_str(), place.authority.as_str()), ("s.n.svc", "s.n.svc:8443"));
        let url = Place::of(&json!({"url": "https://[::1]/y"}), None).unwrap();
        assert_eq!(url.url, "https://[::1]/y");
        assert!(matches!(url.at, At::Host { host, port: 443 } if host == "::1"));
        assert!(Place::of(&json!({}), None).is_err());
    }

    #[test]
    fn refusals_and_bundles() {
        assert_eq!(refusal(500, b"{\"kind\":\"Status\",\"message\":\"no\"}"), "no");
        assert!(refusal(500, b"oops").contains("an error on the server (\"oops\")"));
        let no_pem = base64::engine::general_purpose::STANDARD.encode("nonsense");
        assert!(trust(&no_pem).unwrap_err().message.contains("unable to load root certificates"));
    }
}
