//! Discovery and OpenAPI documents, derived from the table of kinds.
//!
//! Start reading at [`discovery`] (`/api`, `/apis`, aggregated discovery) and [`Catalog`] (`/openapi/v2`,
//! `/openapi/v3`). Everything is a pure function of the kinds given: caching, and when to make a document anew, is the
//! API server's business. This crate knows no tokio, no HTTP server, no disk, no clock.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod discovery;
mod gnostic;
pub mod groups;
mod operations;
mod params;
mod schemas;
mod v2;
mod v3;

use knarr_kinds::kind::{Kind, KindInfo};
use knarr_machinery::GroupVersion;
use serde_json::Value;
use sha2::{Digest, Sha512};

/// Media type of the protobuf form of `/openapi/v2`, as answers carry it.
pub const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What most clients call it in Accept headers. No valid media type because of its `@`: in an answer clients refuse it.
pub const OPENAPI_V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Why no OpenAPI document can be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded schemas are damaged.
    #[error(transparent)]
    Docs(#[from] knarr_schema::DocsError),
    /// A single schema is not JSON.
    #[error("schema {name}: {source}")]
    Schema {
        /// Definition name.
        name: String,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// What OpenAPI documents are made from.
#[derive(Clone, Copy)]
pub struct Catalog<'a> {
    /// Built-in and custom kinds that are served.
    pub kinds: &'a [Kind],
    /// Version of the server, such as `v1.37.0+knarr1`.
    pub version: &'a str,
    /// `spec.versions[].schema.openAPIV3Schema` of a custom kind.
    pub custom_schema: &'a dyn Fn(&KindInfo) -> Option<Value>,
}

impl Catalog<'_> {
    /// `/openapi/v3`: the path of each group version's document with the hash of its content.
    pub fn v3_index(&self) -> Value {
        v3::index(self)
    }

    /// The hash of a group version's document, `None` if nothing of it is served. Cheaper than the document.
    pub fn v3_hash(&self, gv: &GroupVersion) -> Option<String> {
        v3::hash(self, gv)
    }

    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`; `None` if nothing of it is served.
    ///
    /// # Errors
    /// The embedded schemas are damaged.
    pub fn v3_document(&self, gv: &GroupVersion) -> Result<Option<Value>, Error> {
        v3::document(self, gv)
    }

    /// `/openapi/v2` in JSON.
    ///
    /// # Errors
    /// The embedded schemas are damaged.
    pub fn v2_document(&self) -> Result<Value, Error> {
        v2::document(self)
    }
}

/// `/openapi/v2` in protobuf ([`OPENAPI_V2_PROTOBUF`]), from its JSON form.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    gnostic::encode(document)
}

/// The encoding of `/openapi/v2` that an Accept header asks for, the first one in its order of preference that there is;
/// `None` means 406.
pub fn negotiate_v2(accept: Option<&str>) -> Option<discovery::Encoding> {
    let Some(accept) = accept.map(str::trim).filter(|a| !a.is_empty()) else {
        return Some(discovery::Encoding::Json);
    };
    accept.split(',').find_map(|clause| match clause.split(';').next().map(str::trim) {
        Some("*/*" | "application/*" | "application/json") => Some(discovery::Encoding::Json),
        Some(OPENAPI_V2_PROTOBUF | OPENAPI_V2_PROTOBUF_OLD) => Some(discovery::Encoding::Protobuf),
        _ => None,
    })
}

/// The hash that ETags and the index of `/openapi/v3` use: SHA-512 in capital hexadecimal digits.
pub fn content_hash(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

/// An ETag header from a hash.
pub fn etag(hash: &str) -> String {
    format!("\"{hash}\"")
}
