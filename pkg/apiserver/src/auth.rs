//! Puts authentication and authorization in force: RBAC and the node authorizer over in-process informers, client
//! certificates and service-account tokens.

use std::sync::Arc;

use knarr_auth::jwt::{SigningKey, VerifyingKey};
use knarr_auth::{
    Authenticator, Authorizer, ClientLookup, NodeAuthorizer, Rbac, Tokens, Union, authn, bootstrap,
};
use knarr_client::Informers;
use knarr_machinery::{ApiError, UserInfo};

use crate::chain::ChainHooks;
use crate::server::ApiServer;

impl ApiServer {
    /// A client inside this process with an identity.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        knarr_client::in_process(self.router(), user)
    }

    /// The client of the API server itself, of `system:masters`.
    pub fn own_client(&self) -> kube::Client {
        self.client(UserInfo::component("system:apiserver", &["system:masters"]))
    }

    /// Informers of the API server itself, shared by authorization and admission.
    pub fn informers(&self) -> Arc<Informers> {
        self.inner()
            .informers
            .get_or_init(|| Informers::new(self.own_client(), self.shutdown().clone()))
            .clone()
    }

    /// Puts the admission plugins in force, except those named.
    pub fn enable_admission(&self, disabled: &[String]) {
        let server = Arc::new(self.inner().surroundings().clone());
        let context = knarr_admission::Context::new(self.own_client(), self.informers(), server);
        self.set_admission(Arc::new(ChainHooks(knarr_admission::Chain::new(&context, disabled))));
    }

    /// Writes the bootstrap roles and puts RBAC, node authorization, certificates and tokens in force. `more` are
    /// tried before those two.
    ///
    /// # Errors
    /// When the bootstrap roles cannot be written.
    pub async fn enable_auth(
        &self,
        signer: SigningKey,
        earlier_keys: Vec<VerifyingKey>,
        more: Vec<Arc<dyn Authenticator>>,
    ) -> Result<Arc<Rbac>, ApiError> {
        let client = self.own_client();
        bootstrap::reconcile(&client).await?;
        let informers = self.informers();
        let rbac = Rbac::new(&informers);
        let node = NodeAuthorizer::new(&informers, client.clone()).map_err(ApiError::internal)?;
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(node), rbac.clone()];
        let config = self.config();
        let issuers = vec![config.issuer.clone()];
        let mut audiences = issuers.clone();
        audiences.push("knarr".to_string());
        let lookup = Arc::new(ClientLookup::new(client.clone()));
        let tokens = Arc::new(Tokens::new(signer, earlier_keys, issuers, audiences, lookup));
        let mut authenticators = more;
        authenticators.push(Arc::new(authn::ClientCertificates::except(&config.request_header_ca_pem)));
        authenticators.push(Arc::new(authn::BearerTokens::new(tokens.clone())));
        self.set_tokens(tokens);
        self.set_authenticators(authenticators);
        self.set_rbac(rbac.clone());
        self.set_authorizer(Arc::new(Union::new(authorizers)));
        Ok(rbac)
    }
}
