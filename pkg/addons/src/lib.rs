//! What a cluster needs besides the core, built in: the cluster DNS Service and the source of the metrics API.
//!
//! Entry points: [`dns_service::run`] and [`metrics::Source`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod dns_service;
pub mod join_roles;
pub mod metrics;
pub mod metrics_api;
pub mod roles;
