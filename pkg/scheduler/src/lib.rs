//! The scheduler: gives every pod without a node the best node that can take it.
//!
//! Entry point is [`run`]. [`queue`] holds the pods that wait, [`cache`] what the nodes carry, [`cycle`] decides
//! about one pod by the plugins of [`plugins::PLUGINS`] (pure), [`service`] listens, binds and reports.
//! This crate knows no registry and no store: it is an ordinary API client.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cache;
pub mod cycle;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod service;

pub use service::{Error, run, run_with};

#[cfg(test)]
pub(crate) mod testing;
