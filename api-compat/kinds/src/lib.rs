//! Kinds: what each resource is and which rules it obeys, as data and pure functions.
//!
//! Entry point: [`builtins`], made from the table in [`table`]: one entry for each group/version/resource that a
//! stock server enables. A CRD adds the same kind of entry ([`Kind`]) at run time. No tokio, HTTP, disk or clock
//! here: the time comes in through [`Ctx`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod check;
pub mod custom;
mod facts;
pub mod kind;
mod limits;
mod podspec;
mod ruleset;
mod table;
#[cfg(test)]
mod testing;
mod value;
mod workload;

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod authentication;
mod authorization;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod scheduling;
mod storage;
mod storagemigration;

pub use admissionregistration::expressions;
pub use kind::{
    Column, Conversion, Ctx, DeletePlan, Kind, KindInfo, Rules, ScalePaths, Scope, Storage, Subresource,
    Verb, Warnings,
};
pub use ruleset::plain_rules;
pub use table::{builtins, find};
