//! Stand-in for crate auth until it is merged: the same signatures as in the contracts.
#![allow(missing_docs)]

use async_trait::async_trait;
use knarr_machinery::UserInfo;
use rustls::pki_types::CertificateDer;

#[derive(Debug, Clone, Default)]
pub struct ResourceAttributes {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct Attributes {
    pub user: UserInfo,
    pub verb: String,
    pub resource: Option<ResourceAttributes>,
    pub path: String,
}

#[derive(Debug, Clone)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, attributes: &Attributes) -> Decision;
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

#[async_trait]
pub trait Authenticator: Send + Sync {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        certificates: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError>;
}
