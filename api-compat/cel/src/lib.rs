//! The Common Expression Language as Kubernetes uses it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod regex;
pub mod time;
