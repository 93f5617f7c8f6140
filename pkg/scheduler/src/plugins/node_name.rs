//! NodeName: a pod that names a node goes there and nowhere else.

use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::Refusal;
use crate::pod::PodInfo;

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeName",
    weight: 0,
    admits: admits_all,
    prepare: |cycle| Some(Box::new(Named { name: wanted(cycle.pod)?.to_owned() })),
    wakes: |change, pod| match change {
        Change::Node { new, old: None } => new.metadata.name.as_deref() == wanted(pod),
        _ => false,
    },
};

fn wanted(pod: &PodInfo) -> Option<&str> {
    pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

struct Named {
    name: String,
}

impl Prepared for Named {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.name() == self.name {
            Ok(())
        } else {
            Err(Refusal::fixed("node(s) didn't match the requested node name"))
        }
    }
}
