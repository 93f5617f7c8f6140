//! Who makes a request: client certificates, bearer tokens, anonymous.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use http::HeaderMap;
use http::request::Parts;
use knarr_machinery::UserInfo;
use rustls_pki_types::CertificateDer;

use crate::serviceaccount::Tokens;

/// Credentials that were given and are wrong. The text is for the log; clients only learn 401.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// Finds the identity behind a request.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// None when the request carries no credentials of this kind.
    ///
    /// # Errors
    /// Credentials that are wrong.
    async fn authenticate(
        &self,
        parts: &Parts,
        peer_certs: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError>;
}

/// Adds `system:authenticated` to an identity.
pub fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group("system:authenticated") {
        user.groups.push("system:authenticated".to_string());
    }
    user
}

/// Whether requests without credentials may use a path: the health checks only.
pub fn anonymous_allowed(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|p| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Client certificates: CN is the user, O are the groups. The TLS listener has verified the chain.
#[derive(Debug, Default, Clone)]
pub struct ClientCertificates {
    /// Subjects of authorities that the listener trusts for other purposes.
    others: Vec<Vec<u8>>,
}

impl ClientCertificates {
    /// Certificates of these authorities (PEM), such as that of the front proxy, name no users.
    pub fn except(ca_pem: &str) -> Self {
        let subject = |der: Vec<u8>| {
            x509_parser::parse_x509_certificate(&der).ok().map(|(_, ca)| ca.subject().as_raw().to_vec())
        };
        let blocks = crate::jwt::pem_blocks(ca_pem).into_iter().filter_map(|(_, der)| subject(der));
        Self { others: blocks.collect() }
    }

    fn is_of_another(&self, der: &[u8]) -> bool {
        !self.others.is_empty()
            && x509_parser::parse_x509_certificate(der)
                .is_ok_and(|(_, leaf)| self.others.iter().any(|o| o == leaf.issuer().as_raw()))
    }
}

/// OID of the UID attribute in a subject (1.3.6.1.4.1.57683.2).
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// The identity in a client certificate; None when it has no common name.
///
/// # Errors
/// The certificate cannot be read, is out of its time, or is not meant for clients.
pub fn certificate_user(der: &[u8]) -> Result<Option<UserInfo>, AuthError> {
    let (_, cert) = x509_parser::parse_x509_certificate(der)
        .map_err(|e| AuthError(format!("client certificate: {e}")))?;
    if !cert.validity().is_valid() {
        return Err(AuthError(format!("client certificate of {} is not valid now", cert.subject())));
    }
    let usage = cert.extended_key_usage().map_err(|e| AuthError(format!("client certificate: {e}")))?;
    if !usage.is_some_and(|u| u.value.client_auth || u.value.any) {
        return Err(AuthError(format!("the certificate of {} is not for clients", cert.subject())));
    }
    let name = cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let groups = cert.subject().iter_organization().filter_map(|o| o.as_str().ok());
    let uid = cert.subject().iter_attributes().find(|a| a.attr_type().to_id_string() == UID_OID);
    let mut user = UserInfo {
        username: name.to_string(),
        uid: uid.and_then(|a| a.as_str().ok()).unwrap_or_default().to_string(),
        groups: groups.map(str::to_string).collect(),
        ..UserInfo::default()
    };
    let hash = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    user.extra
        .insert("authentication.kubernetes.io/credential-id".to_string(), vec![format!("X509SHA256={hex}")]);
    Ok(Some(user))
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(
        &self,
        _: &Parts,
        peer_certs: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError> {
        match peer_certs.first() {
            Some(leaf) if !self.is_of_another(leaf) => Ok(certificate_user(leaf)?.map(authenticated)),
            _ => Ok(None),
        }
    }
}

/// The bearer token of a request: `Authorization: Bearer ...`, or the WebSocket protocol that browsers use.
pub fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut parts = header.trim().splitn(3, ' ');
    if parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")) {
        // Two blanks make an empty token, which is none.
        return parts.next().filter(|t| !t.is_empty()).map(str::to_string);
    }
    let protocols =
        headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let coded = protocols
        .flat_map(|p| p.split(','))
        .find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(coded).ok()?;
    String::from_utf8(token).ok().filter(|t| !t.is_empty())
}

/// Service-account tokens in the `Authorization` header.
pub struct BearerTokens {
    tokens: Arc<Tokens>,
}

impl BearerTokens {
    /// Checks tokens for this API server's audiences.
    pub fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens }
    }
}

#[async_trait]
impl Authenticator for BearerTokens {
    async fn authenticate(
        &self,
        parts: &Parts,
        _: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError> {
        let Some(token) = bearer_token(&parts.headers) else { return Ok(None) };
        match self.tokens.authenticate(&token, self.tokens.audiences()).await? {
            Some(found) => Ok(Some(authenticated(found.user))),
            None => Err(AuthError("invalid bearer token".to_string())),
        }
    }
}

/// Tries authenticators in order: the first identity counts; without any, the first error.
///
/// # Errors
/// Credentials were given and none was right.
pub async fn authenticate_any(
    authenticators: &[Arc<dyn Authenticator>],
    parts: &Parts,
    peer_certs: &[CertificateDer<'static>],
) -> Result<Option<UserInfo>, AuthError> {
    let mut first_error = None;
    for authenticator in authenticators {
        match authenticator.authenticate(parts, peer_certs).await {
            Ok(Some(user)) => return Ok(Some(user)),
            Ok(None) => {}
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    first_error.map_or(Ok(None), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer() {
        for (header, want) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("Bearer  abc", None),
            ("Bearer", None),
            ("Basic abc", None),
            ("Bearer abc def", Some("abc")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", header.parse().unwrap());
            assert_eq!(bearer_token(&headers).as_deref(), want, "{header}");
        }
        let mut headers = HeaderMap::new();
        let value = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        headers.insert("sec-websocket-protocol", value.parse().unwrap());
        assert_eq!(bearer_token(&headers).as_deref(), Some("abc"));
    }

    #[test]
    fn anonymous_paths() {
        for (path, want) in [
            ("/healthz", true),
            ("/livez/ping", true),
            ("/readyz", true),
            ("/healthzz", false),
            ("/api", false),
        ] {
            assert_eq!(anonymous_allowed(path), want, "{path}");
        }
    }

    #[tokio::test]
    async fn the_front_proxys_certificates_name_no_users() {
        let dir = tempfile::tempdir().unwrap();
        let clients = knarr_pki::Ca::load_or_create(dir.path(), "clients").unwrap();
        let front = knarr_pki::Ca::load_or_create(dir.path(), "front").unwrap();
        let by = ClientCertificates::except(front.cert_pem());
        let (parts, ()) = http::Request::new(()).into_parts();
        for (ca, want) in [(&clients, true), (&front, false)] {
            let cert = ca.issue(&knarr_pki::Leaf::client("admin", &["system:masters"])).unwrap();
            let der = crate::jwt::pem_blocks(&cert.cert_pem).remove(0).1;
            let found = by.authenticate(&parts, &[der.into()]).await.unwrap();
            assert_eq!(found.is_some(), want);
        }
    }

    #[test]
    fn certificates() {
        let dir = tempfile::tempdir().unwrap();
        let ca = knarr_pki::Ca::load_or_create(dir.path(), "ca").unwrap();
        let cert = ca.issue(&knarr_pki::Leaf::client("system:node:n1", &["system:nodes"])).unwrap();
        let der = crate::jwt::pem_blocks(&cert.cert_pem).remove(0).1;
        let user = certificate_user(&der).unwrap().unwrap();
        assert_eq!(
            (user.username.as_str(), user.groups),
            ("system:node:n1", vec!["system:nodes".to_string()])
        );
        assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));
        let server = ca.issue(&knarr_pki::Leaf::server("x", vec!["x".into()], vec![])).unwrap();
        let der = crate::jwt::pem_blocks(&server.cert_pem).remove(0).1;
        assert!(certificate_user(&der).is_err());
        assert!(certificate_user(b"junk").is_err());
    }
}
