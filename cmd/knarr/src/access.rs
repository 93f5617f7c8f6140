//! Who may do what: authenticators, RBAC and admission, put in force once the API can be read.

use std::sync::Arc;

use anyhow::Context;
use knarr_auth::authn::{BearerTokens, ClientCertificates};
use knarr_auth::jwt::SigningKey;
use knarr_apiserver::chain::ChainHooks;
use knarr_auth::{Authenticator, ClientLookup, NodeAuthorizer, Rbac, Tokens, Union};
use knarr_client::Informers;

use crate::server::Wiring;

/// The user that the server's own parts read and bootstrap with.
const SERVER: &str = "system:apiserver";

/// What can authenticate before the API can be read: client certificates.
pub fn first_authenticators() -> Vec<Arc<dyn Authenticator>> {
    vec![Arc::new(ClientCertificates)]
}

/// The issuer of service-account tokens.
pub fn issuer(domain: &str) -> String {
    format!("https://kubernetes.default.svc.{domain}")
}

/// Puts tokens, roles, authorization and admission in force. Until then only `system:masters` are served.
///
/// # Errors
/// What cannot be read or written, by name.
pub async fn enforce(wiring: &Arc<Wiring>) -> anyhow::Result<()> {
    let client = wiring.client(SERVER, &["system:masters"]);
    let informers = Informers::new(client.clone(), wiring.shutdown.clone());
    let issuer = issuer(&wiring.config.cluster_domain);
    let signer = SigningKey::from_pem(&wiring.pki.service_account_key_pem)
        .with_context(|| format!("service-account key in {}", wiring.pki.dir.display()))?;
    let lookup = Arc::new(ClientLookup::new(client.clone()));
    let tokens =
        Arc::new(Tokens::new(signer, Vec::new(), vec![issuer.clone()], vec![issuer], lookup));
    let mut authenticators = first_authenticators();
    authenticators.push(Arc::new(BearerTokens::new(tokens.clone())));
    wiring.api.set_authenticators(authenticators);
    wiring.api.set_tokens(tokens);
    knarr_auth::bootstrap::reconcile(&client).await.context("bootstrap roles and bindings")?;
    knarr_addons::roles::ensure(&client).await.context("roles of built-in parts")?;
    let rbac = Rbac::new(&informers);
    wiring.api.set_rbac(rbac.clone());
    let admission = knarr_admission::Context::new(client.clone(), informers.clone());
    wiring.api.set_admission(Arc::new(ChainHooks(knarr_admission::Chain::new(&admission, &[]))));
    let nodes = NodeAuthorizer::new(&informers, client)
        .map_err(|e| anyhow::anyhow!("node authorizer: {e}"))?;
    wiring.api.set_authorizer(Arc::new(Union::new(vec![Arc::new(nodes), rbac])));
    Ok(())
}
