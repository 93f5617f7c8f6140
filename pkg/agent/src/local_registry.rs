//! This node's own registry: a read-only OCI distribution endpoint on loopback that answers containerd's pulls with
//! images that came from archives on this node, so that `imagePullPolicy: Always` works without a network.
//!
//! Entry point: [`serve`]. Source: OCI distribution specification 1.1, "pull".

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use knarr_cri::{Found, LocalImages};
use tokio_util::sync::CancellationToken;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// The version check.
    Base,
    /// A manifest by tag or digest.
    Manifest { name: &'a str, reference: &'a str },
    /// A blob by digest.
    Blob { digest: &'a str },
}

fn parse(path: &str) -> Option<Asked<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if rest.is_empty() || rest == "/" {
        return Some(Asked::Base);
    }
    let rest = rest.strip_prefix('/')?;
    if let Some((name, reference)) = rest.rsplit_once("/manifests/") {
        return (!name.is_empty() && !reference.is_empty()).then_some(Asked::Manifest { name, reference });
    }
    let (name, digest) = rest.rsplit_once("/blobs/")?;
    (!name.is_empty() && !digest.is_empty()).then_some(Asked::Blob { digest })
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn unknown(code: &str, what: &str) -> Response {
    error(StatusCode::NOT_FOUND, code, &format!("{what}: no archive on this node brought it"))
}

/// The media type that a manifest says it has, or that its shape gives away.
fn media_type(manifest: &serde_json::Value) -> String {
    let fallback = if manifest.get("manifests").is_some() {
        "application/vnd.oci.image.index.v1+json"
    } else {
        "application/vnd.oci.image.manifest.v1+json"
    };
    manifest["mediaType"].as_str().unwrap_or(fallback).to_owned()
}

async fn manifest(
    images: &LocalImages,
    registry: &str,
    name: &str,
    reference: &str,
) -> Result<Option<Found>, knarr_cri::Error> {
    if reference.contains(':') {
        let Some(mut found) = images.blob(reference).await? else { return Ok(None) };
        found.media_type = media_type(&images.document(reference).await?);
        return Ok(Some(found));
    }
    images.image(&format!("{registry}/{name}:{reference}")).await
}

async fn send(images: &LocalImages, method: &Method, found: Found) -> Result<Response, knarr_cri::Error> {
    let mut headers = HeaderMap::new();
    let kind = if found.media_type.is_empty() { "application/octet-stream" } else { &found.media_type };
    for (name, value) in [(CONTENT_TYPE, kind.to_owned()), (CONTENT_LENGTH, found.size.to_string())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    if let Ok(value) = HeaderValue::from_str(&found.digest) {
        headers.insert("docker-content-digest", value);
    }
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(images.read(&found.digest).await?)
    };
    Ok((headers, body).into_response())
}

async fn answer(State(images): State<LocalImages>, request: Request) -> Response {
    let method = request.method().clone();
    if !matches!(method, Method::GET | Method::HEAD) {
        return error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only");
    }
    let path = request.uri().path().to_owned();
    let registry = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|p| p.strip_prefix("ns="))
        .unwrap_or_default();
    let outcome = match parse(&path) {
        None => return error(StatusCode::NOT_FOUND, "UNSUPPORTED", "not a path of the distribution API"),
        Some(Asked::Base) => return StatusCode::OK.into_response(),
        Some(Asked::Manifest { name, reference }) => match manifest(&images, registry, name, reference).await
        {
            Ok(None) => return unknown("MANIFEST_UNKNOWN", &format!("{registry}/{name} {reference}")),
            Ok(Some(found)) => send(&images, &method, found).await,
            Err(error) => Err(error),
        },
        Some(Asked::Blob { digest }) => match images.blob(digest).await {
            Ok(None) => return unknown("BLOB_UNKNOWN", digest),
            Ok(Some(found)) => send(&images, &method, found).await,
            Err(error) => Err(error),
        },
    };
    outcome.unwrap_or_else(|e| {
        tracing::warn!(error = %e, path, "local registry");
        error(StatusCode::BAD_GATEWAY, "UNKNOWN", &e.to_string())
    })
}

/// Listens on loopback on a free port and serves until shutdown; gives the address.
///
/// # Errors
/// No port is to be had.
pub async fn serve(images: LocalImages, shutdown: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().fallback(answer).with_state(images);
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "local registry ended");
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(parse("/v2/"), Some(Asked::Base));
        let manifest = Asked::Manifest { name: "a/b", reference: "1.0" };
        assert_eq!(parse("/v2/a/b/manifests/1.0"), Some(manifest));
        assert_eq!(parse("/v2/a/blobs/sha256:00"), Some(Asked::Blob { digest: "sha256:00" }));
        for path in [
            "/",
            "/v1/a/manifests/b",
            "/v2/manifests/b",
            "/v2/a/manifests/",
            "/v2/a/tags/list",
            "/v2x/a/blobs/b",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn media_types() {
        let of = |text: &str| media_type(&serde_json::from_str(text).unwrap());
        assert_eq!(of(r#"{"mediaType":"x/y"}"#), "x/y");
        assert!(of(r#"{"manifests":[]}"#).contains("index"));
        assert!(of(r#"{"layers":[]}"#).contains("manifest"));
    }
}
