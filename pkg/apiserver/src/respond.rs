//! Responses: documents, Status errors, warnings, compression.

use std::io::Write as _;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WARNING,
};
use http::{HeaderMap, StatusCode};
use knarr_machinery::ApiError;
use knarr_registry::list::CONTINUE_CAUSE;
use serde_json::Value;

use crate::encode::bytes_of;
use crate::negotiate::{Accepted, Format};

/// Answers of at least this size are compressed for clients that take gzip, as upstream.
const GZIP_THRESHOLD: usize = 128 * 1024;
/// Warnings together may be this long, as upstream.
const WARNINGS_MAX: usize = 4096;

/// A response with a body of a known type.
pub fn bytes(status: u16, media_type: &str, body: Bytes) -> Response {
    let body = if media_type.starts_with("application/json") { with_line(body) } else { body };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response
}

/// JSON documents end with a line break, as those of a Go server.
fn with_line(body: Bytes) -> Bytes {
    // Indented documents have none.
    if body.is_empty() || body.last() == Some(&b'\n') || body.ends_with(b"\n}") {
        return body;
    }
    let mut out = BytesMut::with_capacity(body.len() + 1);
    out.put_slice(&body);
    out.put_u8(b'\n');
    out.freeze()
}

/// Plain text.
pub fn text(status: u16, body: impl Into<String>) -> Response {
    let mut response = bytes(status, "text/plain; charset=utf-8", Bytes::from(body.into()));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A document as it goes out: JSON on one line ends with a line break, as upstream's encoder writes it.
pub fn line(format: Format, body: Bytes) -> Bytes {
    if format != Format::Json {
        return body;
    }
    let mut out = BytesMut::with_capacity(body.len() + 1);
    out.extend_from_slice(&body);
    out.extend_from_slice(b"\n");
    out.freeze()
}

/// A document that is no resource (discovery, version).
///
/// # Errors
/// When it cannot be encoded.
pub fn document(status: u16, value: &Value, format: Format) -> Result<Response, ApiError> {
    Ok(bytes(status, format.media_type(), line(format, bytes_of(value, format)?)))
}

/// An error as a Status in the client's encoding, JSON if that cannot tell it.
pub fn error(error: &ApiError, accepted: Accepted) -> Response {
    // Paths that lead nowhere are told as any web server tells them.
    if *error == ApiError::path_not_found() {
        return text(404, "404 page not found\n");
    }
    let mut value = error.to_value();
    move_continue(&mut value);
    let encoded = bytes_of(&value, accepted.format).map(|b| (accepted.format, b));
    let (format, body) = encoded.unwrap_or_else(|_| (Format::Json, Bytes::from(value.to_string())));
    let mut response = bytes(error.code, format.media_type(), line(format, body));
    if let Some(seconds) = error.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The registry hands over the token for an inconsistent continuation as a cause.
fn move_continue(status: &mut Value) {
    let Some(causes) = status.pointer_mut("/details/causes").and_then(Value::as_array_mut) else { return };
    let Some(at) = causes.iter().position(|c| c["reason"] == CONTINUE_CAUSE) else { return };
    let token = causes.remove(at)["message"].take();
    if let Some(map) = status.as_object_mut() {
        map.remove("details");
    }
    status["metadata"]["continue"] = token;
}

/// Adds `Warning` headers, each text once.
pub fn warn(response: &mut Response, warnings: &[String]) {
    let mut told: Vec<&str> = Vec::new();
    let mut length = 0;
    for warning in warnings {
        if told.contains(&warning.as_str()) {
            continue;
        }
        told.push(warning);
        length += warning.len();
        if length > WARNINGS_MAX {
            break;
        }
        let clean: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Adds a `Warning` header before the others.
pub fn warn_first(response: &mut Response, warning: &str) {
    let headers = response.headers_mut();
    let others: Vec<HeaderValue> = headers.get_all(WARNING).iter().cloned().collect();
    headers.remove(WARNING);
    warn(response, &[warning.to_string()]);
    let first = response.headers().get(WARNING).cloned();
    for other in others.into_iter().filter(|o| Some(o) != first.as_ref()) {
        response.headers_mut().append(WARNING, other);
    }
}

/// Whether the client takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|e| e.trim().split(';').next() == Some("gzip"))
}

/// Gives an answer its body; a large one is compressed.
pub fn compress(response: Response, body: Bytes, headers: &HeaderMap) -> Response {
    let json =
        response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/json"));
    compress_exact(response, if json { with_line(body) } else { body }, headers)
}

/// As [`compress`], for a body that goes out byte for byte.
pub fn compress_exact(response: Response, body: Bytes, headers: &HeaderMap) -> Response {
    if body.len() < GZIP_THRESHOLD || !takes_gzip(headers) {
        return with_body(response, body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::new(1));
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    match compressed {
        Ok(compressed) => {
            let mut response = with_body(response, Bytes::from(compressed));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
            response
        }
        Err(error) => {
            tracing::warn!(%error, "cannot compress an answer; it goes out as it is");
            with_body(response, body)
        }
    }
}

fn with_body(response: Response, body: Bytes) -> Response {
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, Body::from(body))
}
