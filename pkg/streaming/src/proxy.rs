//! Passes an HTTP request on to a backend, and the connection too if the backend goes over to another protocol.
//!
//! Entry point: [`forward`]. The caller has judged the request and rewritten what must not pass (path, credentials).

use crate::Io;
use crate::io::copy_both;
use crate::upgrade::list;
use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// How long one direction goes on after the other has ended.
const LINGER: Duration = Duration::from_secs(10);

/// Headers that are about one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    UPGRADE,
];

/// The backend did not answer.
#[derive(Debug, thiserror::Error)]
#[error("backend {backend}: {detail}")]
pub struct Error {
    /// Host of the request.
    pub backend: String,
    /// What happened.
    pub detail: String,
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        list(headers, CONNECTION.as_str()).iter().filter_map(|n| n.parse().ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Sends `request` over `backend` (a connection to it, with TLS if need be) and gives its response. If that is "101
/// Switching Protocols", bytes are copied both ways from the moment the response has been sent to the client.
pub async fn forward<B>(mut request: Request<B>, backend: impl Io + 'static) -> Result<Response<Body>, Error>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let host = request.uri().authority().map(|authority| authority.to_string());
    let named = host.clone().unwrap_or_else(|| "connection".into());
    let failed = |error: hyper::Error| Error { backend: named.clone(), detail: chain(&error) };
    let upgrade = request.headers().get(UPGRADE).cloned();
    let client = hyper::upgrade::on(&mut request);
    let headers = request.headers_mut();
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if let Some(Ok(host)) = host.map(|host| host.parse()) {
        headers.insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;

    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(backend)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the backend");
        }
    });
    let mut response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(response.headers_mut());
        return Ok(response.map(Body::new));
    }
    tokio::spawn(join(client, hyper::upgrade::on(&mut response)));
    Ok(response.map(|_| Body::empty()))
}

/// hyper says what failed in the causes of its errors.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn join(client: OnUpgrade, backend: OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            // When one direction has ended, so has the conversation, but for what is under way.
            if let Err(error) = copy_both(&mut client, &mut backend, Some(LINGER)).await {
                tracing::debug!(%error, "proxied connection");
            }
        }
        Err(error) => tracing::debug!(%error, "upgrade of a proxied connection"),
    }
}
