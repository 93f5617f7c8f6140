//! The front proxy: a client whose certificate the request-header CA signed says who really asks, in `X-Remote-*`.

use async_trait::async_trait;
use http::request::Parts;
use knarr_machinery::UserInfo;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authn::{AuthError, Authenticator, authenticated};

const EXTRA: &str = "x-remote-extra-";

/// Authenticates by `X-Remote-User`, `-Uid`, `-Group` and `-Extra-*`, from proxies that may.
pub struct FrontProxy {
    authorities: Vec<Vec<u8>>,
    allowed: Vec<String>,
}

impl FrontProxy {
    /// `ca_pem` signs the proxies' certificates; `allowed` are their common names, empty for any.
    ///
    /// # Errors
    /// PEM without a certificate.
    pub fn new(ca_pem: &str, allowed: &[&str]) -> Result<Self, AuthError> {
        let authorities: Vec<Vec<u8>> =
            crate::jwt::pem_blocks(ca_pem).into_iter().map(|(_, der)| der).collect();
        if authorities.is_empty() {
            return Err(AuthError("the request-header CA has no certificate".to_string()));
        }
        Ok(Self { authorities, allowed: allowed.iter().map(|a| (*a).to_string()).collect() })
    }

    /// Whether the request-header CA signed this certificate and its time is right.
    pub fn vouches(&self, leaf: &[u8]) -> bool {
        let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
        leaf.validity().is_valid()
            && self.authorities.iter().any(|der| {
                X509Certificate::from_der(der).is_ok_and(|(_, ca)| {
                    leaf.issuer() == ca.subject() && leaf.verify_signature(Some(ca.public_key())).is_ok()
                })
            })
    }
}

/// The user that the headers name; None without a name.
fn user(headers: &http::HeaderMap) -> Option<UserInfo> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_string).collect()
    };
    let username = all("x-remote-user").into_iter().next().filter(|n| !n.is_empty())?;
    let mut user = UserInfo {
        username,
        uid: all("x-remote-uid").into_iter().next().unwrap_or_default(),
        groups: all("x-remote-group"),
        ..UserInfo::default()
    };
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA).filter(|k| !k.is_empty()) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            user.extra.entry(key).or_default().extend(all(name.as_str()));
        }
    }
    Some(user)
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(
        &self,
        parts: &Parts,
        peer_certs: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError> {
        // Most requests are no proxy's: those are not held up by reading their certificate.
        let Some(user) = user(&parts.headers) else { return Ok(None) };
        let Some(leaf) = peer_certs.first().filter(|leaf| self.vouches(leaf)) else { return Ok(None) };
        let name = crate::authn::certificate_user(leaf)?.map(|u| u.username).unwrap_or_default();
        if !self.allowed.is_empty() && !self.allowed.contains(&name) {
            return Err(AuthError(format!("front proxy {name:?} is not one of {:?}", self.allowed)));
        }
        Ok(Some(authenticated(user)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_pki::{Ca, Leaf};

    fn der(ca: &Ca, name: &str) -> CertificateDer<'static> {
        let pair = ca.issue(&Leaf::client(name, &[])).unwrap();
        crate::jwt::pem_blocks(&pair.cert_pem).remove(0).1.into()
    }

    #[tokio::test]
    async fn only_allowed_proxies_of_the_right_authority_are_believed() {
        let (ours, theirs) = (Ca::create("front").unwrap(), Ca::create("clients").unwrap());
        let proxy = FrontProxy::new(ours.cert_pem(), &["system:auth-proxy"]).unwrap();
        let request = http::Request::builder()
            .header("X-Remote-User", "jane")
            .header("X-Remote-Group", "a")
            .header("X-Remote-Group", "b")
            .header("X-Remote-Extra-Acme.com%2FProject", "x")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let found = proxy.authenticate(&parts, &[der(&ours, "system:auth-proxy")]).await.unwrap().unwrap();
        assert_eq!(found.username, "jane");
        assert_eq!(found.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(found.extra["acme.com/project"], ["x"]);
        assert!(proxy.authenticate(&parts, &[der(&ours, "mallory")]).await.is_err());
        assert_eq!(proxy.authenticate(&parts, &[der(&theirs, "system:auth-proxy")]).await, Ok(None));
        assert_eq!(proxy.authenticate(&parts, &[]).await, Ok(None));
    }
}
