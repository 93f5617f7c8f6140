//! `certificates.k8s.io/v1`.

pub(crate) mod certificatesigningrequest;
pub(crate) mod clustertrustbundle;
pub(crate) mod podcertificaterequest;

pub(crate) use certificatesigningrequest::signer_name as validate_signer;

/// The API group.
pub(crate) const GROUP: &str = "certificates.k8s.io";
