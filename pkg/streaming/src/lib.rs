//! The streaming protocols of exec, attach and port-forward.
//!
//! * [`spdy`]: SPDY/3.1 over any byte stream, both roles.
//! * [`websocket`]: Kubernetes' numbered channels over WebSocket, and a byte stream tunnelled through one.
//! * [`remotecommand`]: exec and attach, serving a client and dialling a container runtime.
//! * [`portforward`]: port-forward, serving a client.
//! * [`proxy`]: an HTTP request (upgraded or not) passed on to a backend.
//!
//! Everything here ends by itself: when either side goes away, its tasks end too.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod io;
pub mod portforward;
pub mod proxy;
pub mod remotecommand;
pub mod spdy;
mod upgrade;
pub mod websocket;

pub use io::{BoxIo, BoxRead, BoxWrite, Io, Prefixed};
pub use upgrade::Refusal;
