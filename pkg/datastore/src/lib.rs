//! A revisioned byte log with current state: etcd's model over SQL or memory.
//!
//! Entry point: [`Datastore`]. This crate knows nothing of Kubernetes: keys and values are bytes.
//! One writer task drains a queue and commits in groups; it publishes a group's events to watchers after the
//! commit and before it answers the callers.

pub mod api;

pub use api::*;
