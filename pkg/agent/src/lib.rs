//! The node side of a process: container runtime, CNI configuration, image folder, node address.
//!
//! Entry points: [`containerd::Containerd`] and [`node`]. This crate never touches the datastore.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod containerd;
pub mod node;

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
    /// No usable address.
    #[error("node address: {0}")]
    Address(String),
}
