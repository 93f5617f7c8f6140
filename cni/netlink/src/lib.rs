//! The kernel's network side, behind one trait, and the ledger of what we changed on this host.
//!
//! * [`Kernel`] is everything Knarr asks of the kernel's network stack: links, addresses, routes, network
//!   namespaces, sysctls, nftables and conntrack. [`RealKernel`] speaks netlink; [`FakeKernel`] keeps the same
//!   data types in memory.
//! * [`nft`] is the model of one nftables table: pure data, a pure diff, and its wire form.
//! * [`keep`] is the pace of those who keep something in the kernel as it should be; [`tables`] does that for a table.
//! * [`Ledger`] records every host object before it is made, and undoes exactly those.
//!
//! This crate knows nothing of Kubernetes, services or pods.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod error;
mod ethtool;
mod fake;
mod fake_nft;
pub mod keep;
mod kernel;
mod ledger;
pub mod nft;
mod real;
pub mod tables;
mod tunnel;
mod undo;

pub use error::{Error, ErrorKind, Result};
pub use fake::FakeKernel;
pub use kernel::{
    AddressOptions, BridgeSpec, ConntrackFlow, Driver, ForwardingEntry, Kernel, Learning, Link, LinkChange,
    Neighbor, Netns, NetworkInterest, Offload, Route, RouteScope, VethSpec, VxlanSpec,
};
pub use ledger::{Entry, Item, Ledger};
pub use real::RealKernel;
pub use undo::{Left, UndoReport};
