//! Requests that a service of the cluster answers: the client's identity goes along in headers, vouched for by the
//! front proxy's certificate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use knarr_machinery::{ApiError, UserInfo};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::aggregation::Remote;
use crate::connect::{self, Target};
use crate::info::{Query, RequestInfo};
use crate::insecure::insecure_verifier;
use crate::outbound;
use crate::server::{Call, Inner};

/// How long a look at a remote may take.
const LOOK: Duration = Duration::from_secs(5);
/// The longest list of resources that is read.
const LIST_MAX: usize = 8 << 20;

/// TLS to a remote: its own bundle (or none, when nobody is to vouch for it) and the front proxy's certificate.
pub(crate) fn tls(server: &Inner, bundle: &str, insecure: bool) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if insecure {
        builder.dangerous().with_custom_certificate_verifier(insecure_verifier())
    } else {
        builder.with_root_certificates(outbound::roots(bundle).map_err(|e| e.message)?)
    };
    let config = match &server.config.proxy_client {
        Some(resolver) => builder.with_client_cert_resolver(resolver.clone()),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

async fn target(server: &Inner, remote: &Remote) -> Result<Target, ApiError> {
    let (namespace, name, port) = &remote.service;
    let tls = remote.tls.clone().map_err(ApiError::unavailable)?;
    let target = outbound::service(server, namespace, name, *port).await?;
    Ok(target.with_tls(tls, format!("{name}.{namespace}.svc")))
}

/// Sends a request on.
///
/// # Errors
/// 503 for remotes that do not answer.
pub(crate) async fn proxy(
    server: &Arc<Inner>,
    remote: &Remote,
    mut call: Call,
) -> Result<Response, ApiError> {
    if !remote.available.load(Ordering::Acquire) {
        return Err(ApiError::unavailable("service unavailable"));
    }
    identify(&mut call.parts.headers, &call.user);
    let path = call.parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_string();
    let failed = |e: ApiError| ApiError::unavailable(format!("error trying to reach service: {}", e.message));
    let target = target(server, remote).await.map_err(failed)?;
    connect::forward(server, &target, call, &path).await.map_err(failed)
}

/// The client's identity as headers; those that it sent itself are dropped.
fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let own: Vec<HeaderName> =
        headers.keys().filter(|n| n.as_str().starts_with("x-remote-")).cloned().collect();
    own.iter().for_each(|name| drop(headers.remove(name)));
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.username);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", utf8_percent_encode(&key.to_lowercase(), NON_ALPHANUMERIC));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// Looks whether a remote answers; the list of its resources.
///
/// # Errors
/// Reason and message of the condition.
pub(crate) async fn look(server: &Inner, remote: &Remote) -> Result<Value, (&'static str, String)> {
    let (namespace, name, _) = &remote.service;
    let target = target(server, remote).await.map_err(|e| match e.code {
        404 => ("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")),
        _ => ("MissingEndpoints", format!("endpoints for service/{name} in {namespace:?}: {}", e.message)),
    })?;
    let root = remote.root();
    let failed = |e: String| {
        let text = format!("failing or missing response from https://{}{root}: {e}", target.authority());
        ("FailedDiscoveryCheck", text)
    };
    let call = question(&root).map_err(|e| failed(e.to_string()))?;
    let answer = async {
        let response = connect::forward(server, &target, call, &root).await.map_err(|e| e.message)?;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, LIST_MAX).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((parts.status.as_u16(), body))
    };
    let (code, body) = tokio::time::timeout(LOOK, answer)
        .await
        .map_err(|_| failed("context deadline exceeded".into()))?
        .map_err(failed)?;
    if !(200..300).contains(&code) {
        return Err(failed(format!("bad status from https://{}{root}: {code}", target.authority())));
    }
    serde_json::from_slice(&body).map_err(|e| failed(format!("the answer is no document: {e}")))
}

/// A request of the aggregator itself.
fn question(path: &str) -> Result<Call, http::Error> {
    let request = http::Request::builder()
        .method(http::Method::GET)
        .uri(path)
        .header(http::header::ACCEPT, "application/json")
        .body(())?;
    let (mut parts, ()) = request.into_parts();
    let user = UserInfo::component("system:kube-aggregator", &["system:masters"]);
    identify(&mut parts.headers, &user);
    let query = Query::parse(&parts.uri);
    let info = RequestInfo::parse(&parts.method, &parts.uri, &query);
    Ok(Call { info, query, user, parts, body: Mutex::new(Body::empty()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-a", HeaderValue::from_static("b"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        let mut user = UserInfo::component("jane", &["a"]);
        user.extra.insert("example.com/Key".into(), vec!["v".into(), "w".into()]);
        identify(&mut headers, &user);
        let all = |name: &str| -> Vec<&str> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["a", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example%2Ecom%2Fkey"), ["v", "w"]);
        assert!(headers.get("x-remote-extra-a").is_none());
        assert_eq!(headers.get("accept").unwrap(), "*/*");
    }
}
