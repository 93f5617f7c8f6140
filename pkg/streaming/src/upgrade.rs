//! HTTP upgrades, as far as they are common to all protocols.

use axum::body::Body;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Response, StatusCode};

/// Why a request is not upgraded, ready to be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong.
    pub message: String,
    /// Headers that tell the client what would be accepted.
    pub headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The response, as plain text.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("{}\n", self.message)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(name, value);
            }
        }
        response
    }
}

/// All values of a header that holds comma-separated lists.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
}

/// Whether the client asks to go over to `protocol`.
pub(crate) fn wants(headers: &HeaderMap, protocol: &str) -> bool {
    let connection = list(headers, CONNECTION.as_str());
    connection.iter().any(|token| token.eq_ignore_ascii_case("upgrade"))
        && list(headers, UPGRADE.as_str()).iter().any(|token| token.eq_ignore_ascii_case(protocol))
}

/// "101 Switching Protocols".
pub(crate) fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The header in which SPDY clients offer versions, and the server answers.
pub(crate) const PROTOCOL_VERSION: &str = "x-stream-protocol-version";
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The SPDY hand-shake: the first version that the client offers and we know, with the response.
pub(crate) fn spdy<'k>(headers: &HeaderMap, known: &[&'k str]) -> Result<(Response<Body>, &'k str), Refusal> {
    if !wants(headers, "SPDY/3.1") {
        return Err(Refusal::bad_request(
            "unable to upgrade: the request asks for neither WebSocket nor SPDY/3.1",
        ));
    }
    let offered = list(headers, PROTOCOL_VERSION);
    if offered.is_empty() {
        let message = "unable to upgrade: header X-Stream-Protocol-Version is missing from the request";
        return Err(Refusal::bad_request(message));
    }
    let Some(chosen) = offered.iter().find_map(|offer| known.iter().find(|name| *name == offer)) else {
        let message =
            format!("unable to upgrade: protocols {offered:?} are not supported; known are {known:?}");
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, message);
        refusal.headers = known.iter().map(|name| (ACCEPTED_VERSIONS, name.to_string())).collect();
        return Err(refusal);
    };
    let mut response = switching("SPDY/3.1");
    if let Ok(value) = HeaderValue::from_str(chosen) {
        response.headers_mut().insert(PROTOCOL_VERSION, value);
    }
    Ok((response, chosen))
}
