//! Service-account tokens: `serviceaccounts/token`, and the documents for OIDC discovery.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource};
use knarr_registry::obj;
use serde_json::{Value, json};

use crate::server::{Call, Inner};
use crate::special::document_kind;
use crate::writing::{Writing, take_body};
use crate::{body, respond};

/// Tokens live this long when the request does not say (one hour), at least ten minutes.
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

/// Audiences that a TokenReview asks for; a request extension for authenticators.
#[derive(Debug, Clone, Default)]
pub struct Audiences(pub Vec<String>);

/// What a token is bound to.
#[derive(Debug, Clone, Default)]
pub struct TokenClaims {
    /// Namespace and name of the service account.
    pub namespace: String,
    /// Name of the service account.
    pub account: String,
    /// UID of the service account.
    pub account_uid: String,
    /// Audiences; empty means the API server's own.
    pub audiences: Vec<String>,
    /// Life in seconds.
    pub seconds: i64,
    /// Pod or Secret or Node that the token dies with: kind, name, UID.
    pub bound: Option<(String, String, String)>,
    /// The node of a bound pod: name and UID.
    pub node: Option<(String, String)>,
}

/// Signs tokens.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// A signed token and its end (RFC 3339).
    async fn issue(&self, claims: TokenClaims) -> Result<(String, String), ApiError>;

    /// `/.well-known/openid-configuration`.
    fn openid_configuration(&self) -> Value;

    /// `/openid/v1/jwks`.
    fn key_set(&self) -> Value;

    /// Audiences of the API server, for requests that name none.
    fn default_audiences(&self) -> Vec<String>;
}

/// POST on `serviceaccounts/<name>/token`.
///
/// # Errors
/// 404 for missing accounts and bound objects, 409 for other UIDs, 422 for bad lifetimes.
pub(crate) async fn request(server: &Arc<Inner>, accounts: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let issuer = server.issuer()?;
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let kind = document_kind(accounts, &gvk)?;
    let writing = Writing::new(server, accounts, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, &kind, writing.validation)?;
    let mut document = decoded.value;
    let account = server.registry.get_value(accounts, &call.info.namespace, &call.info.name).await?;
    let seconds = document.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
    check_seconds(seconds)?;
    let mut audiences = obj::strings(document.pointer("/spec/audiences"));
    if audiences.is_empty() {
        audiences = issuer.default_audiences();
    }
    let mut claims = TokenClaims {
        namespace: call.info.namespace.clone(),
        account: call.info.name.clone(),
        account_uid: obj::uid(&account).to_string(),
        audiences: audiences.clone(),
        seconds,
        ..TokenClaims::default()
    };
    bind(server, &document, &mut claims).await?;
    let (token, end) = issuer.issue(claims).await?;
    obj::set_gvk(&mut document, &gvk);
    obj::set_meta(&mut document, "name", &call.info.name);
    obj::set_meta(&mut document, "namespace", &call.info.namespace);
    obj::set_meta(&mut document, "creationTimestamp", &knarr_registry::registry::now());
    obj::set_at(&mut document, "spec.audiences", audiences.into());
    obj::set_at(&mut document, "spec.expirationSeconds", seconds.into());
    document["status"] = json!({"token": token, "expirationTimestamp": end});
    writing.respond_as(201, &document, &[], &decoded.warnings)
}

fn check_seconds(seconds: i64) -> Result<(), ApiError> {
    let text = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = knarr_machinery::Path::new("spec").child("expirationSeconds");
    let error = knarr_machinery::FieldError::invalid(&path, seconds, text);
    let kind = knarr_machinery::GroupKind::new("authentication.k8s.io", "TokenRequest");
    Err(ApiError::invalid(&kind, "", &[error]))
}

async fn bind(server: &Inner, document: &Value, claims: &mut TokenClaims) -> Result<(), ApiError> {
    let Some(reference) = document.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else { return Ok(()) };
    let text = |f: &str| reference.get(f).and_then(Value::as_str).unwrap_or("").to_string();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let (plural, namespace) = match (text("apiVersion").as_str(), kind.as_str()) {
        ("v1", "Pod") => ("pods", claims.namespace.clone()),
        ("v1", "Secret") => ("secrets", claims.namespace.clone()),
        ("v1", "Node") => ("nodes", String::new()),
        (version, _) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to object of type {version}, Kind={kind}",
                claims.account
            )));
        }
    };
    let object = core_object(server, plural, &namespace, &name).await?;
    if !uid.is_empty() && uid != obj::uid(&object) {
        let resource = knarr_machinery::GroupResource::new("", plural);
        let text = format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated");
        return Err(ApiError::conflict(&resource, &name, &text));
    }
    if kind == "Pod" {
        let account = object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("");
        if account != claims.account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                claims.account
            )));
        }
        let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
        if !node.is_empty() {
            let found = core_object(server, "nodes", "", node).await;
            claims.node = found.ok().map(|n| (node.to_string(), obj::uid(&n).to_string()));
        }
    }
    claims.bound = Some((kind, name, obj::uid(&object).to_string()));
    Ok(())
}

/// A core/v1 object by plural.
///
/// # Errors
/// 404.
pub(crate) async fn core_object(server: &Inner, plural: &'static str, namespace: &str, name: &str) -> Result<Value, ApiError> {
    let gvr = GroupVersionResource::new("", "v1", plural);
    let kind = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
    server.registry.get_value(&kind, namespace, name).await
}

/// The two documents of OIDC discovery.
///
/// # Errors
/// 503 before the issuer is there.
pub(crate) fn oidc(server: &Inner, path: &str) -> Result<Response, ApiError> {
    let issuer = server.issuer()?;
    let (media, document) = match path {
        "/openid/v1/jwks" => ("application/jwk-set+json", issuer.key_set()),
        _ => ("application/json", issuer.openid_configuration()),
    };
    let mut response = respond::bytes(200, media, bytes::Bytes::from(document.to_string()));
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}
