//! YAML as the API understands it: the first document, plain scalars as YAML 1.1 reads them, repeated keys told.
//!
//! Entry points: [`read`] and [`write()`](write::write). Which plain scalars are strings is decided once, by [`plain`].

pub mod plain;
pub mod read;
pub mod write;

pub use read::{Document, read};
pub use write::write;
