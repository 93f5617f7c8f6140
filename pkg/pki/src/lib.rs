//! Certificate authorities, leaf certificates and keys of a cluster, kept as PEM files.
//!
//! Entry point: [`ClusterPki::load_or_create`]. Keys are ECDSA P-256, files 0600, directories 0700.
//! This crate knows no HTTP and no Kubernetes objects.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cluster;
mod der;
pub mod file;
pub mod kubeconfig;
pub mod leaf;
pub mod request;
pub mod rotating;
mod sign;
pub mod token;

pub use cluster::{ClusterPki, ServingNames};
pub use leaf::{Ca, CertKey, Leaf, Usage};
pub use request::Request;
pub use rotating::Rotating;
pub use token::Token;

/// What can go wrong with certificates and keys; each names the file or subject.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read, written or created.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A file exists, but not what belongs in it.
    #[error("{path}: {detail}")]
    Content {
        /// Which file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A certificate request cannot be used.
    #[error("certificate request: {detail}")]
    Request {
        /// What is wrong.
        detail: String,
    },
    /// A certificate could not be made.
    #[error("certificate {subject}: {detail}")]
    Issue {
        /// Common name.
        subject: String,
        /// Why not.
        detail: String,
    },
}
