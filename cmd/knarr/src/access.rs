//! Who may do what: roles of built-in parts, tokens, authorization and admission, put in force once the API can be read.

use std::sync::Arc;

use anyhow::Context;
use knarr_auth::authn::ClientCertificates;
use knarr_auth::jwt::SigningKey;
use knarr_auth::{Authenticator, FrontProxy, JoinTokens};

use crate::server::Wiring;

/// What can authenticate before the API can be read: client certificates.
pub fn first_authenticators() -> Vec<Arc<dyn Authenticator>> {
    vec![Arc::new(ClientCertificates::default())]
}

/// The issuer of service-account tokens.
pub fn issuer(domain: &str) -> String {
    format!("https://kubernetes.default.svc.{domain}")
}

/// Puts tokens, roles, authorization and admission in force. Until then only `system:masters` are served.
///
/// # Errors
/// What cannot be read or written, by name.
pub async fn enforce(wiring: &Arc<Wiring>, join: Arc<JoinTokens>) -> anyhow::Result<()> {
    let client = wiring.client("system:apiserver", &["system:masters"]);
    let signer = SigningKey::from_pem(&wiring.pki.service_account_key_pem)
        .with_context(|| format!("service-account key in {}", wiring.pki.dir.display()))?;
    let front = FrontProxy::new(wiring.pki.request_header_ca.cert_pem(), &["system:auth-proxy"])
        .context("front proxy")?;
    wiring
        .api
        .enable_auth(signer, Vec::new(), vec![Arc::new(front), join])
        .await
        .context("authentication and authorization")?;
    knarr_addons::roles::ensure(&client).await.context("roles of built-in parts")?;
    knarr_addons::join_roles::ensure(&client).await.context("roles of joining")?;
    wiring.api.enable_admission(&[]);
    Ok(())
}
