//! `networking.k8s.io/v1`.

pub(crate) mod ingress;
pub(crate) mod ingressclass;
pub(crate) mod ipaddress;
pub(crate) mod networkpolicy;
pub(crate) mod servicecidr;

/// The API group.
pub(crate) const GROUP: &str = "networking.k8s.io";
