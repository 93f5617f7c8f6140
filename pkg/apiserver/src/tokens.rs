//! Service-account tokens: `serviceaccounts/token`, and the documents for OIDC discovery.

use std::sync::Arc;

use axum::response::Response;
use knarr_auth::jwt;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource};
use knarr_registry::obj;
use serde_json::Value;

use crate::server::{Call, Inner};
use crate::special::{admit_document, document_kind};
use crate::writing::{Writing, take_body};
use crate::{body, respond};

/// POST on `serviceaccounts/<name>/token`.
///
/// # Errors
/// 404 for missing accounts and bound objects, 409 for other UIDs, 422 for bad lifetimes.
pub(crate) async fn request(
    server: &Arc<Inner>,
    accounts: &Kind,
    mut call: Call,
) -> Result<Response, ApiError> {
    let tokens = server.tokens()?;
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let kind = document_kind(accounts, &gvk)?;
    let writing = Writing::new(server, accounts, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, &kind, writing.validation)?;
    // Missing accounts are told by the registry before anything is signed.
    server.registry.get(accounts, &call.info.namespace, &call.info.name).await?;
    let context = writing.context(accounts, &call, Some("token"));
    let document = admit_document(&context, &gvk, decoded.value).await?;
    let mut document = tokens.request(&call.info.namespace, &call.info.name, document).await?;
    obj::set_gvk(&mut document, &gvk);
    obj::set_meta(&mut document, "creationTimestamp", &knarr_registry::registry::now());
    writing.respond_as(201, &document, &[], &decoded.warnings)
}

/// A core/v1 object by plural.
///
/// # Errors
/// 404.
pub(crate) async fn core_object(
    server: &Inner,
    plural: &'static str,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let gvr = GroupVersionResource::new("", "v1", plural);
    let kind = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
    server.registry.get_value(&kind, namespace, name).await
}

/// The two documents of OIDC discovery.
///
/// # Errors
/// 503 before the keys are there.
pub(crate) fn oidc(server: &Inner, path: &str) -> Result<Response, ApiError> {
    let tokens = server.tokens()?;
    let config = &server.config;
    let (media, document) = match path {
        "/openid/v1/jwks" => ("application/jwk-set+json", jwt::jwks(tokens.keys())),
        _ => {
            let keys = format!("https://{}:{}/openid/v1/jwks", config.advertise_address, config.port);
            ("application/json", jwt::openid_configuration(&config.issuer, &keys, tokens.keys()))
        }
    };
    let mut response = respond::bytes(200, media, bytes::Bytes::from(document.to_string()));
    let age = http::HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(http::header::CACHE_CONTROL, age);
    Ok(response)
}
