//! Authentication → identity, authorization → permit.
//!
//! Entry points: [`Authenticator`] with [`authn::ClientCertificates`] and [`authn::BearerTokens`]; [`Authorizer`]
//! with [`Rbac`] and [`NodeAuthorizer`] joined by [`Union`]; [`authorize`] makes the [`Permit`] that handlers
//! require. [`Tokens`] issues service-account tokens, [`bootstrap::reconcile`] writes the first roles, [`review`]
//! answers review documents, [`escalation`] checks writes of roles. This crate knows no registry and no datastore.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
pub mod attributes;
pub mod authn;
pub mod bootstrap;
pub mod escalation;
pub mod front_proxy;
pub mod impersonation;
pub mod join;
pub mod jwt;
pub mod node;
pub mod node_password;
pub mod rbac;
pub mod review;
pub mod rules;
pub mod serviceaccount;

pub use attributes::{
    Attributes, Authorizer, Decision, Permit, ResourceAttributes, RuleList, Union, authorize,
};
pub use authn::{AuthError, Authenticator};
pub use front_proxy::FrontProxy;
pub use join::JoinTokens;
pub use node::NodeAuthorizer;
pub use node_password::NodePasswords;
pub use rbac::{Policy, Rbac};
pub use serviceaccount::{ClientLookup, Lookup, Tokens};
