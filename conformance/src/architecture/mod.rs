//! Tests of this SIG, a file as upstream has it.

mod conformance;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[conformance::TESTS];
