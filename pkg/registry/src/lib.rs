//! All verbs of the API once, over [`Kind`](knarr_kinds::Kind) and [`Datastore`](knarr_datastore::Datastore).
//!
//! Entry point: [`Registry`]. A request that was authenticated, authorized and decoded comes in as a
//! [`WriteContext`] plus a document; what goes out are documents (writes) or spliced bytes (reads).
//! No HTTP here. Admission enters through [`Hooks`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cache;
pub mod codec;
pub mod convert;
pub mod create;
pub mod delete;
pub mod error;
pub mod feed;
mod history;
pub mod hooks;
pub mod kinds;
pub mod list;
mod managed;
pub mod obj;
pub mod patch;
pub mod registry;
pub mod scale;
pub mod select;
pub mod subresource;
pub mod token;
pub mod ttl;
pub mod update;
pub mod watch;

pub use cache::Entry;
pub use convert::ConversionCaller;
pub use hooks::{Admission, AllowAll, Hooks, Operation, Settle};
pub use kinds::{KindTable, Kinds};
pub use list::{ListOptions, ListPage, VersionMatch};
pub use registry::{Outcome, Registry, WriteContext};
pub use select::Selection;
pub use watch::{EventType, WatchOptions, WatchStream, Watched};
