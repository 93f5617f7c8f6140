//! A revisioned byte log with current state: etcd's model over SQL or memory.
//!
//! Entry point: [`Datastore`]. This crate knows nothing of Kubernetes: keys and values are bytes.
//! One writer task drains a queue and commits in groups; it publishes a group's events to watchers after the
//! commit and before it answers the callers.
//!
//! Who does what: [`drivers`] are dialects that store rows; `plan` decides transactions as a pure function over the
//! keys' present rows; `writer` runs the queue; `hub` spreads events; [`Watch`] joins history and live events at one
//! revision watermark; `lease` and `compaction` are the two background tasks, both asleep while there is nothing to do.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
mod bounds;
mod compaction;
pub mod drivers;
mod hub;
mod lease;
mod plan;
mod store;
mod watch;
mod writer;

pub use api::*;
pub use store::Datastore;
pub use watch::Watch;
