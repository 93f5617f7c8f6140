//! Tests of this SIG, a file as upstream has it.

mod core_events;
mod events;

use crate::suite::Test;

/// The files.
pub const FILES: &[&[Test]] = &[core_events::TESTS, events::TESTS];
