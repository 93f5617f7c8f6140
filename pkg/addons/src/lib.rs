//! What a cluster needs besides the core, built in: the cluster DNS Service, the source of the metrics API, the role of
//! servers' nodes.
//!
//! Entry points: [`dns_service::run`], [`metrics::Source`] and [`server_node::run`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod dns_service;
pub mod join_roles;
pub mod metrics;
pub mod metrics_api;
pub mod roles;
pub mod server_node;
