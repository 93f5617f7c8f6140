//! One file per backend.

pub mod none;
