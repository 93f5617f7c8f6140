//! `authentication.k8s.io/v1`: asked, never stored.

pub(crate) mod selfsubjectreview;
pub(crate) mod tokenreview;
