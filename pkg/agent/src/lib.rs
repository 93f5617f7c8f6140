//! The node side of a process: joining a cluster, certificates, load balancer, tunnel, container runtime, address.
//!
//! Entry points: [`join::join`], [`certificates`], [`balancer::Balancer`], [`tunnel::keep`],
//! [`containerd::Containerd`] and [`node`]. This crate never touches the datastore.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod balancer;
pub mod certificates;
pub mod containerd;
pub mod join;
pub mod local_registry;
pub mod node;
pub mod registries;
pub mod remote;
pub mod tunnel;

/// What can go wrong on the node; each names the program or file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("{operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The container runtime.
    #[error("container runtime {program}: {detail}")]
    Runtime {
        /// Program or socket.
        program: String,
        /// What happened.
        detail: String,
    },
    /// The file of registries.
    #[error("{path}: {detail}")]
    Registries {
        /// Which file.
        path: String,
        /// What is wrong in it.
        detail: String,
    },
    /// A server that cannot be reached, trusted or understood.
    #[error("server {server}: {detail}")]
    Server {
        /// Its address.
        server: String,
        /// What happened.
        detail: String,
    },
    /// A server whose CA is not that of the token.
    #[error(
        "server {server} is not the one of the token: the hash of its CA is {found}, the token says {wanted}; nothing was sent"
    )]
    WrongCa {
        /// Its address.
        server: String,
        /// Hash in the token.
        wanted: String,
        /// Hash of what it showed.
        found: String,
    },
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(String),
    /// A certificate was not issued.
    #[error("certificate of {name}: {detail}")]
    Certificate {
        /// Common name.
        name: String,
        /// What happened.
        detail: String,
    },
    /// A CA that cannot be used.
    #[error("certificate authority: {0}")]
    Trust(String),
    /// A file with something else than what belongs there.
    #[error("{path}: {detail}")]
    Content {
        /// Which file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] knarr_pki::Error),
    /// No usable address.
    #[error("node address: {0}")]
    Address(String),
}
