//! SchedulingGates: a pod with a gate does not enter the queue.

use k8s_openapi::api::core::v1::Pod;

use super::{Change, Plugin};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "SchedulingGates",
    weight: 0,
    admits,
    prepare: |_| None,
    wakes: |change, _| matches!(change, Change::Own),
};

fn admits(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_none_or(Vec::is_empty)
}
