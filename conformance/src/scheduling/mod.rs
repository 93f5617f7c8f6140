//! Tests of this SIG, a file as upstream has it.

mod limit_range;
mod nodes;
mod predicates;
mod preemption;
mod preemption_path;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] =
    &[limit_range::TESTS, predicates::TESTS, preemption::TESTS, preemption_path::TESTS];
