//! How every component reaches state: an ordinary Kubernetes client, in process or remote.
//!
//! Entry points: [`in_process`] (a `kube::Client` over the server's router), [`Informers`] (one watch per kind
//! per process, shared), [`WorkQueue`] and [`Recorder`]. This crate knows no store and no registry.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cluster;
pub mod informer;
pub mod queue;
pub mod recorder;
mod selector;
mod shelf;

pub use cluster::ClusterConfig;
pub use informer::{Cached, Event, Informers, Sink, Store};
pub use queue::WorkQueue;
pub use recorder::Recorder;
pub use selector::selector_of;
pub use shelf::Key;

use knarr_machinery::UserInfo;
use tower::ServiceExt;

/// A client whose transport is a function call into `router`, with `user` as the request's identity.
///
/// Authorization still applies: the identity is a claim made by this process, not a permission.
/// Exec, attach and port-forward need a real connection and fail here.
pub fn in_process(router: axum::Router, user: UserInfo) -> kube::Client {
    let service = router.into_service().map_request(move |mut req: http::Request<kube::client::Body>| {
        req.extensions_mut().insert(user.clone());
        req
    });
    kube::Client::new(service, "default")
}
