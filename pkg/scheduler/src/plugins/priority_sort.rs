//! PrioritySort: higher priority first, then longer waiting.

use std::cmp::Reverse;

use super::{Plugin, admits_all, never};

/// Table row.
pub const PLUGIN: Plugin =
    Plugin { name: "PrioritySort", weight: 0, admits: admits_all, prepare: |_| None, wakes: never };

/// The place of a pod in the queue: smaller is earlier. `arrival` counts pods as they come.
pub fn rank(priority: i32, arrival: u64) -> (Reverse<i32>, u64) {
    (Reverse(priority), arrival)
}
