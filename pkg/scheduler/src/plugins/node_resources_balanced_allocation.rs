//! NodeResourcesBalancedAllocation: CPU and memory of a node should be used to the same degree.

use super::{Plugin, Prepared, admits_all, never};
use crate::cache::NodeInfo;
use crate::cycle::MAX_SCORE;
use crate::pod::PodInfo;

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    weight: 1,
    admits: admits_all,
    prepare: |cycle| {
        // A pod that asks for nothing balances nothing.
        (!cycle.pod.requests.is_zero()).then(|| Box::new(Balance { pod: cycle.pod }) as Box<dyn Prepared>)
    },
    wakes: never,
};

struct Balance<'a> {
    pod: &'a PodInfo,
}

impl Prepared for Balance<'_> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn score(&self, node: &NodeInfo) -> i64 {
        let share = |used: i64, room: i64| if room <= 0 { 1.0 } else { (used as f64 / room as f64).min(1.0) };
        let cpu = share(node.requested.milli_cpu + self.pod.requests.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(node.requested.memory + self.pod.requests.memory, node.allocatable.memory);
        let deviation = (cpu - memory).abs() / 2.0;
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}
