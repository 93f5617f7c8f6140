//! `flowcontrol.apiserver.k8s.io/v1`.

pub(crate) mod flowschema;
pub(crate) mod prioritylevelconfiguration;

/// The API group.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
