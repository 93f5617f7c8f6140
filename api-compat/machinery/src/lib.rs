//! API machinery: what every Kubernetes object has in common, as pure values and functions.
//!
//! Start reading at [`types`] (how a document of any kind is described), [`status`] (how an
//! error is told to a client) and [`field`] (how an invalid field is named).
//! This crate knows no tokio, no HTTP, no disk and no clock.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod apply;
pub mod decode;
pub mod field;
pub mod fields;
pub mod fieldset;
pub mod gvk;
pub mod int_or_string;
pub mod labels;
pub(crate) mod managers;
pub mod meta;
pub mod names;
pub mod overlay;
pub mod patch;
pub mod quantity;
pub(crate) mod scalar;
pub mod status;
pub mod strategic;
pub mod strict;
pub mod syntax;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub(crate) mod typed;
pub mod types;
pub mod user;
pub mod version;
pub mod yaml;

pub use field::{FieldError, Path};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use status::ApiError;
pub use user::UserInfo;

/// A string that is `'static` for built-in kinds and owned for custom resources.
pub type Str = std::borrow::Cow<'static, str>;
