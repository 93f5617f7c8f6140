//! `admissionregistration.k8s.io/v1`.

mod conditions;
pub mod expressions;
pub(crate) mod mutatingadmissionpolicy;
pub(crate) mod mutatingadmissionpolicybinding;
pub(crate) mod mutatingwebhookconfiguration;
pub(crate) mod policy;
pub(crate) mod validatingadmissionpolicy;
pub(crate) mod validatingadmissionpolicybinding;
pub(crate) mod validatingwebhookconfiguration;
pub(crate) mod webhooks;

/// The API group.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
