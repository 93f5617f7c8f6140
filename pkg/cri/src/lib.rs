//! The container runtime as one trait, [`Runtime`], in the data types of the Container Runtime Interface v1.
//!
//! [`Containerd`] speaks it to a real runtime over its socket; [`fake::Fake`] is an in-memory runtime for tests.
//! [`archive`] reads image archives, [`pause`] carries the pause image that every pod sandbox is started from.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod archive;
mod containerd;
mod error;
mod events;
pub mod fake;
mod import;
mod local;
pub mod pause;
mod rootfs;
mod runtime;

pub use containerd::Containerd;
pub use error::{Error, Failure};
pub use local::{Found, LocalImages};
pub use runtime::{Event, EventKind, EventStream, FsMount, Runtime};

/// The messages of the Container Runtime Interface v1.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

#[allow(missing_docs, clippy::all, dead_code)]
pub(crate) mod wire {
    pub(crate) mod containerd {
        pub(crate) mod types {
            tonic::include_proto!("containerd.types");
        }
        pub(crate) mod services {
            pub(crate) mod events {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.events.v1");
                }
            }
            pub(crate) mod images {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.images.v1");
                }
            }
            pub(crate) mod content {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.content.v1");
                }
            }
            pub(crate) mod leases {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.leases.v1");
                }
            }
            pub(crate) mod diff {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.diff.v1");
                }
            }
            pub(crate) mod snapshots {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.snapshots.v1");
                }
            }
            pub(crate) mod namespaces {
                pub(crate) mod v1 {
                    tonic::include_proto!("containerd.services.namespaces.v1");
                }
            }
        }
    }
}

/// Secrets do not belong in logs: only who logs in where.
impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
