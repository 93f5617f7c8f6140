//! What every built-in type of Kubernetes v1.37 looks like: fields, list keys, merge strategies, defaults,
//! protobuf tags, documentation; and the codec between JSON documents and protobuf that follows from it.
//!
//! Start reading at [`builtin_types`]. The facts are the checked-in files under `data/`, written by
//! `api-compat/codegen`; they are decoded once, on first use. This crate knows no tokio, no HTTP, no disk, no clock.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod docs;
mod facts;
pub mod proto;

use std::sync::Arc;

use knarr_machinery::GroupVersionKind;
use knarr_machinery::types::{Type, TypeRef, TypeSet};

pub use docs::{DocsError, openapi_schemas};

/// All built-in definitions. Decoded on the first call.
pub fn builtin_types() -> &'static Arc<TypeSet> {
    &facts::facts().types
}

/// The type with this definition name, such as `io.k8s.api.core.v1.Pod`.
pub fn builtin_type(definition: &str) -> Option<TypeRef> {
    let set = builtin_types();
    set.find(definition).map(|id| TypeRef { set: Arc::clone(set), root: Type::Struct(id) })
}

/// The definition name of a kind. Knows every kind of upstream's scheme: lists (`PodList`), option kinds
/// (`DeleteOptions` in each group version), `Status`, `WatchEvent`, and kinds no server of today serves.
pub fn definition_name(gvk: &GroupVersionKind) -> Option<&'static str> {
    facts::facts().definition(&gvk.group, &gvk.version, &gvk.kind)
}

/// The type of a built-in kind: [`definition_name`] and [`builtin_type`] in one.
pub fn type_of(gvk: &GroupVersionKind) -> Option<TypeRef> {
    builtin_type(definition_name(gvk)?)
}

/// Every kind of upstream's scheme as (group, version, kind, definition name), sorted.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
    facts::facts().kinds.iter().map(|k| (k.group, k.version, k.kind, k.definition))
}
