//! Who asks: the in-process identity, else what the authenticators find; then impersonation.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use crate::knarr_auth::{Attributes, Authenticator, Authorizer, ResourceAttributes};
use knarr_machinery::{ApiError, UserInfo};
use rustls::pki_types::CertificateDer;

use crate::access;

/// The certificates that a TLS client presented and that its CA vouches for; set by the listener only.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

/// Finds the identity of a request.
///
/// # Errors
/// 401 for credentials that are wrong.
pub async fn authenticate(parts: &Parts, authenticators: &[Arc<dyn Authenticator>]) -> Result<UserInfo, ApiError> {
    if let Some(user) = parts.extensions.get::<UserInfo>() {
        return Ok(user.clone());
    }
    let certificates = parts.extensions.get::<PeerCertificates>().cloned().unwrap_or_default();
    let mut refused = false;
    for authenticator in authenticators {
        match authenticator.authenticate(parts, &certificates.0).await {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "credentials were refused");
                refused = true;
            }
        }
    }
    if refused || parts.headers.contains_key(http::header::AUTHORIZATION) {
        return Err(ApiError::unauthorized());
    }
    Ok(UserInfo::anonymous())
}

/// Applies `Impersonate-*` headers, each checked against the asking user's rights.
///
/// # Errors
/// 403 for what may not be impersonated, 400 for headers without a user.
pub async fn impersonate(
    user: UserInfo,
    headers: &HeaderMap,
    authorizer: Option<&Arc<dyn Authorizer>>,
) -> Result<UserInfo, ApiError> {
    let values = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_string)).collect()
    };
    let name = values("impersonate-user").into_iter().next().unwrap_or_default();
    let uid = values("impersonate-uid").into_iter().next().unwrap_or_default();
    let groups = values("impersonate-group");
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(n, v)| {
            let key = n.as_str().strip_prefix("impersonate-extra-")?;
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_ascii_lowercase();
            Some((key, v.to_str().ok()?.to_string()))
        })
        .collect();
    if name.is_empty() {
        if !groups.is_empty() || !extra.is_empty() || !uid.is_empty() {
            return Err(ApiError::internal("requested impersonation without impersonating a user"));
        }
        return Ok(user);
    }
    let ask = |group: &str, resource: &str, sub: &str, namespace: &str, name: &str| Attributes {
        user: user.clone(),
        verb: "impersonate".into(),
        resource: Some(ResourceAttributes {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..ResourceAttributes::default()
        }),
        path: String::new(),
    };
    let mut target = UserInfo { username: name.clone(), uid: uid.clone(), groups: groups.clone(), ..UserInfo::default() };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => {
            access::authorize(authorizer, &ask("", "serviceaccounts", "", namespace, account)).await?;
            if groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => {
            access::authorize(authorizer, &ask("", "users", "", "", &name)).await?;
        }
    }
    for group in &groups {
        access::authorize(authorizer, &ask("", "groups", "", "", group)).await?;
    }
    if !uid.is_empty() {
        access::authorize(authorizer, &ask("authentication.k8s.io", "uids", "", "", &uid)).await?;
    }
    for (key, value) in extra {
        access::authorize(authorizer, &ask("authentication.k8s.io", "userextras", &key, "", &value)).await?;
        target.extra.entry(key).or_default().push(value);
    }
    if name == "system:anonymous" {
        if !target.in_group("system:unauthenticated") {
            target.groups.push("system:unauthenticated".into());
        }
    } else if !target.in_group("system:authenticated") && !target.in_group("system:unauthenticated") {
        target.groups.push("system:authenticated".into());
    }
    Ok(target)
}
