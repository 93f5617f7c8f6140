//! Kinds: what each resource is and which rules it obeys, as data and pure functions.
//!
//! Entry point: [`BUILTINS`](builtins) — one entry for each group/version/resource that a stock server enables.
//! A CRD adds the same kind of entry ([`Kind`]) at run time. No tokio, HTTP, disk or clock here:
//! the time comes in through [`Ctx`].

pub mod kind;

pub use kind::{
    Column, Ctx, DeletePlan, Kind, KindInfo, Rules, Scope, Storage, Subresource, Verb, Warnings,
};
