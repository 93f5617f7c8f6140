//! Who asks: the in-process identity, else what the authenticators find; then impersonation.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use knarr_auth::{Authenticator, Authorizer, authn, impersonation};
use knarr_machinery::{ApiError, UserInfo};
use rustls::pki_types::CertificateDer;

/// The certificates that a TLS client presented and that its CA vouches for; set by the listener only.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

/// Finds the identity of a request.
///
/// # Errors
/// 401 for credentials that are wrong or missing: only the health endpoints, which are served before, are open to all.
pub async fn authenticate(
    parts: &Parts,
    authenticators: &[Arc<dyn Authenticator>],
) -> Result<UserInfo, ApiError> {
    if let Some(user) = parts.extensions.get::<UserInfo>() {
        return Ok(user.clone());
    }
    let certificates = parts.extensions.get::<PeerCertificates>().cloned().unwrap_or_default();
    match authn::authenticate_any(authenticators, parts, &certificates.0).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(ApiError::unauthorized()),
        Err(error) => {
            tracing::debug!(%error, "credentials were refused");
            Err(ApiError::unauthorized())
        }
    }
}

/// Applies `Impersonate-*` headers, each checked against the asking user's rights.
///
/// # Errors
/// 403 for what may not be impersonated, 500 for headers without a user.
pub async fn impersonate(
    user: UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, ApiError> {
    match impersonation::wanted(headers)? {
        None => Ok(user),
        Some(wanted) => impersonation::impersonate(authorizer, &user, &wanted).await,
    }
}
