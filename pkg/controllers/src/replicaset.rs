//! ReplicaSet: keeps the wanted number of pods of one template, by the engine in [`crate::replicas`].

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::context::Controller;
use crate::replicas::{Condition, Replicated, Status, run};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "replicaset-controller",
    account: "replicaset-controller",
    start: |ctx| Box::pin(run::<ReplicaSet>(ctx)),
};

impl Replicated for ReplicaSet {
    const KIND: &'static str = "ReplicaSet";
    const API_VERSION: &'static str = "apps/v1";

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn selector(&self) -> LabelSelector {
        self.spec.selector.clone()
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn status(&self) -> Status {
        let s = self.status.clone().unwrap_or_default();
        Status {
            replicas: s.replicas,
            fully_labeled: s.fully_labeled_replicas.unwrap_or(0),
            ready: s.ready_replicas.unwrap_or(0),
            available: s.available_replicas.unwrap_or(0),
            terminating: s.terminating_replicas,
            observed_generation: s.observed_generation.unwrap_or(0),
            conditions: s
                .conditions
                .unwrap_or_default()
                .into_iter()
                .map(|c| Condition {
                    kind: c.type_.unwrap_or_default(),
                    status: c.status.unwrap_or_default(),
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
            .map(|c| ReplicaSetCondition {
                type_: Some(c.kind.clone()),
                status: Some(c.status.clone()),
                reason: c.reason.clone(),
                message: c.message.clone(),
                last_transition_time: c.since.clone(),
            })
            .collect();
        let mut next = self.clone();
        next.status = Some(ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: some(status.fully_labeled),
            ready_replicas: some(status.ready),
            available_replicas: some(status.available),
            terminating_replicas: status.terminating,
            observed_generation: Some(status.observed_generation),
            conditions: Some(conditions).filter(|c| !c.is_empty()),
        });
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::pods::tests::pod;
    use crate::replicas::{decide, status_of};

    fn pods(n: usize) -> Vec<Arc<k8s_openapi::api::core::v1::Pod>> {
        (0..n)
            .map(|i| {
                let name = format!("p{i}");
                Arc::new(pod(json!({
                    "metadata": {"name": name, "uid": name, "labels": {"app": "web"}},
                    "status": {"phase": "Running", "conditions": [
                        {"type": "Ready", "status": if i == 0 { "False" } else { "True" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
                })))
            })
            .collect()
    }

    #[test]
    fn plans() {
        let now = "2026-01-01T01:00:00Z".parse::<Timestamp>().unwrap();
        let ranks = HashMap::new();
        // (active, wanted) -> (create, delete)
        for (active, wanted, create, delete) in
            [(0, 3, 3, 0), (3, 3, 0, 0), (5, 3, 0, 2), (1, 0, 0, 1), (0, 900, 500, 0), (0, -1, 0, 0)]
        {
            let plan = decide(&pods(active), wanted, &ranks, now);
            assert_eq!((plan.create, plan.delete.len()), (create, delete), "{active} of {wanted}");
        }
        assert_eq!(
            decide(&pods(3), 2, &ranks, now).delete[0].0,
            "p0",
            "the pod that is not ready goes first"
        );
    }

    #[test]
    fn statuses() {
        let rs: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "rs", "generation": 4},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web", "x": "y"}}, "spec": {"containers": []}}},
        }))
        .unwrap();
        let now = "2026-01-01T01:00:00Z".parse::<Timestamp>().unwrap();
        let status = status_of(&rs, &pods(3), 1, Some(("FailedCreate", "no".into())), now);
        assert_eq!((status.replicas, status.fully_labeled, status.ready, status.available), (3, 0, 2, 2));
        assert_eq!((status.terminating, status.observed_generation), (Some(1), 4));
        assert_eq!(status.conditions[0].reason.as_deref(), Some("FailedCreate"));
        let rs = rs.with_status(&status);
        assert_eq!(Replicated::status(&rs), status);
        assert!(status_of(&rs, &pods(3), 0, None, now).conditions.is_empty());
    }
}
