//! Tests of this SIG, a file as upstream has it.

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[];
