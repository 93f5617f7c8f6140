//! The documented OpenAPI schemas, compressed in the program.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

/// The embedded documentation cannot be read (a broken build).
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// The compressed stream is damaged.
    #[error("embedded OpenAPI schemas: {0}")]
    Compression(String),
    /// It does not hold the JSON expected.
    #[error("embedded OpenAPI schemas: {0}")]
    Json(#[from] serde_json::Error),
}
