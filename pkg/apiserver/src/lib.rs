//! The HTTP edge: path → [`RequestInfo`](info::RequestInfo) → identity → permit → admission → registry.
//!
//! Entry point: [`ApiServer`]. One fallback handler takes every request; the path is parsed once and looked up in the
//! kind table. There is no handler per kind.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod access;
mod aggregated;
mod aggregation;
pub mod auth;
pub mod body;
pub mod bootstrap;
pub mod chain;
pub mod config;
mod connect;
mod connect_admission;
mod custom;
pub mod discovery;
pub mod encode;
mod eviction;
pub mod health;
mod hooks;
pub mod identity;
pub mod info;
mod insecure;
pub mod listing;
pub mod metrics;
pub mod negotiate;
pub mod options;
mod outbound;
mod proxy_links;
pub mod resource;
pub mod respond;
mod reviews;
pub mod serve;
pub mod server;
pub mod services;
pub mod special;
pub mod supervisor;
mod surroundings;
pub mod tokens;
pub mod tunnel;
pub mod virtual_kinds;
pub mod watching;
pub mod writing;

pub use config::Config;
pub use server::ApiServer;
