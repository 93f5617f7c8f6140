//! The official behaviours of Kubernetes v1.37 as a suite that runs against any cluster by kubeconfig.
//! Entry points: [`suite::all`] for the tests, [`runner::run`] to run them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
#[macro_use]
pub mod check;
pub mod apimachinery;
pub mod apps;
pub mod architecture;
pub mod auth;
pub mod battery;
pub mod cli;
pub mod context;
pub mod exec;
pub mod expected;
pub mod images;
pub mod instrumentation;
pub mod kinds;
pub mod network;
pub mod node;
pub mod pods;
pub mod quantity;
pub mod report;
pub mod rest;
pub mod runner;
pub mod scheduling;
pub mod stock;
pub mod storage;
pub mod suite;
pub mod watch;

/// What a test and every helper return.
pub type Result<T> = anyhow::Result<T>;
