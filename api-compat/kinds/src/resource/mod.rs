//! `resource.k8s.io/v1`.

pub(crate) mod deviceclass;
mod devices;
pub(crate) mod devicetaintrule;
pub(crate) mod resourceclaim;
pub(crate) mod resourceclaimtemplate;
pub(crate) mod resourceslice;

/// The API group.
pub(crate) const GROUP: &str = "resource.k8s.io";
