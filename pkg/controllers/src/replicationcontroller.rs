//! ReplicationController: as ReplicaSet, by the engine in [`crate::replicas`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::context::Controller;
use crate::replicas::{Condition, Replicated, Status, run};
use crate::selector::of_labels;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "replicationcontroller-controller",
    account: "replication-controller",
    start: |ctx| Box::pin(run::<ReplicationController>(ctx)),
};

impl Replicated for ReplicationController {
    const KIND: &'static str = "ReplicationController";
    const API_VERSION: &'static str = "v1";

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        of_labels(self.spec.as_ref().and_then(|s| s.selector.as_ref()).unwrap_or(&BTreeMap::new()))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().and_then(|s| s.template.as_ref())
    }

    fn status(&self) -> Status {
        let s = self.status.clone().unwrap_or_default();
        Status {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: None,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: s
                .conditions
                .unwrap_or_default()
                .into_iter()
                .map(|c| Condition {
                    kind: c.type_,
                    status: c.status,
                    reason: c.reason,
                    message: c.message,
                    since: c.last_transition_time,
                })
                .collect(),
        }
    }

    fn with_status(&self, status: &Status) -> Self {
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|c| ReplicationControllerCondition {
                type_: c.kind.clone(),
                status: c.status.clone(),
                reason: c.reason.clone(),
                message: c.message.clone(),
                last_transition_time: c.since.clone(),
            })
            .collect();
        let mut next = self.clone();
        next.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: some(status.fully_labeled),
            ready_replicas: some(status.ready),
            available_replicas: some(status.available),
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        });
        next
    }
}
