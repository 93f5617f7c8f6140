//! NodeUnschedulable: cordoned nodes take no pods, unless the pod tolerates that.

use super::taint_toleration::tolerates;
use super::{Change, Plugin, Prepared, admits_all};
use crate::cache::NodeInfo;
use crate::cycle::Refusal;
use crate::pod::PodInfo;
use k8s_openapi::api::core::v1::{Node, Taint};

/// Table row.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeUnschedulable",
    weight: 0,
    admits: admits_all,
    prepare: |cycle| Some(Box::new(Cordon { tolerated: tolerated(cycle.pod) })),
    wakes: |change, pod| match change {
        Change::Node { new, .. } => !is_cordoned(new) || tolerated(pod),
        _ => false,
    },
};

struct Cordon {
    tolerated: bool,
}

fn tolerated(pod: &PodInfo) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerates(pod.tolerations(), &taint)
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true)
}

impl Prepared for Cordon {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.tolerated && node.node.as_ref().is_some_and(|n| is_cordoned(n)) {
            return Err(Refusal::fixed("node(s) were unschedulable"));
        }
        Ok(())
    }
}
