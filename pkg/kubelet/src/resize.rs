//! Changing the resources of a pod that runs: what is to change (pure), and telling the runtime and the kernel.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde_json::json;

use crate::{
    allocation::{ByContainer, Resize},
    decide::{Kill, Plan},
    observed::{Instance, Observed, State},
    resources::{self, PodLimits, memory_limit, same_compute},
    spec::{self, Role, Unit},
    worker::Worker,
};

/// After a failure the kernel is asked again.
const RETRY: Duration = Duration::from_secs(10);
/// A resize that waits for room is looked at again, even if nobody has said that there is some.
pub(crate) const DEFERRED: Duration = Duration::from_secs(180);

/// A running container that was given something else than it may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    unit_name: String,
    container: Container,
    role: Role,
    id: String,
    was: ResourceRequirements,
}

impl Change {
    fn now(&self) -> ResourceRequirements {
        self.container.resources.clone().unwrap_or_default()
    }

    /// Whether one of the resources that change wants the container restarted.
    fn restarts(&self) -> bool {
        let list = |r: &ResourceRequirements, name: &str| {
            let of = |l: &Option<std::collections::BTreeMap<String, _>>| l.as_ref()?.get(name).cloned();
            (of(&r.requests), of(&r.limits))
        };
        let changed = |name: &str| {
            let only = |r: &ResourceRequirements| {
                let (requests, limits) = list(r, name);
                let one = |q| Some(std::collections::BTreeMap::from([(name.to_owned(), q)]));
                ResourceRequirements {
                    requests: requests.and_then(one),
                    limits: limits.and_then(one),
                    ..Default::default()
                }
            };
            !same_compute(&only(&self.was), &only(&self.now()))
        };
        let policies = self.container.resize_policy.iter().flatten();
        let mut restart = policies.filter(|p| p.restart_policy == "RestartContainer");
        restart.any(|p| changed(&p.resource_name))
    }
}

/// The running containers of a pod whose resources are not those it was promised.
pub fn changes(pod: &Pod, observed: &Observed, actuated: &ByContainer) -> Vec<Change> {
    let running = |unit: &Unit| -> Option<Instance> {
        observed.newest(&unit.container.name).filter(|i| i.state == State::Running).cloned()
    };
    spec::units(pod)
        .into_iter()
        .filter(|u| matches!(u.role, Role::App | Role::Sidecar))
        .filter_map(|unit| {
            let instance = running(&unit)?;
            let was = actuated.get(&unit.container.name)?;
            let now = unit.container.resources.clone().unwrap_or_default();
            (!same_compute(was, &now)).then(|| Change {
                unit_name: unit.container.name.clone(),
                container: unit.container,
                role: unit.role,
                id: instance.id,
                was: was.clone(),
            })
        })
        .collect()
}

/// The greater of both where both are limited; a new limit comes only after the containers have theirs.
fn raised(before: &PodLimits, after: &PodLimits) -> PodLimits {
    let both = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    PodLimits {
        cpu_shares: before.cpu_shares.max(after.cpu_shares),
        cpu_quota: both(before.cpu_quota, after.cpu_quota),
        memory_bytes: both(before.memory_bytes, after.memory_bytes),
    }
}

/// The pod as the runtime knows it.
fn with_actuated(pod: &Pod, actuated: &ByContainer) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(resources) = actuated.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        }
    }
    pod
}

/// The text of events: what is wanted, and why it is not there.
fn told(what: &str, pod: &Pod, error: Option<&str>) -> String {
    let containers: Vec<_> = spec::units(pod)
        .iter()
        .filter(|u| matches!(u.role, Role::App | Role::Sidecar))
        .map(|u| json!({"name": u.container.name, "resources": u.container.resources}))
        .collect();
    let mut text = json!({"containers": containers, "generation": pod.metadata.generation});
    if let Some(error) = error {
        text["error"] = json!(error);
    }
    format!("Pod resize {what}: {text}")
}

impl Worker {
    /// The pod with the resources it is promised, after asking for those that it wants now.
    pub(crate) async fn resized(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let node = self.node.clone();
        if !node.allocations.has(&self.uid) {
            return pod.clone();
        }
        let object = node.own.get().await;
        let pending = match node.allocations.resize(pod, &object, &self.wake) {
            Resize::None => None,
            Resize::Accepted => {
                self.resize_error = None;
                self.resizing = true;
                node.event(pod, None, "Normal", "ResizeStarted", &told("started", pod, None));
                None
            }
            Resize::Deferred(message) => Some(("Deferred", message)),
            Resize::Infeasible(message) => Some(("Infeasible", message)),
        };
        if let Some((reason, message)) = &pending
            && self.resize_pending != pending
        {
            let text = told(&reason.to_lowercase(), pod, Some(message));
            node.event(pod, None, "Warning", &format!("Resize{reason}"), &text);
        }
        self.resize_pending = pending;
        node.allocations.applied(pod)
    }

    /// Brings running containers and the pod's cgroup to what the pod is promised; containers that must restart for it
    /// go into the plan. Gives how long to wait after a failure.
    pub(crate) async fn actuate(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        plan: &mut Plan,
    ) -> Option<Duration> {
        let node = self.node.clone();
        let changes = changes(pod, observed, &node.allocations.actuated(&self.uid));
        if changes.is_empty() {
            return self.settle(pod, observed);
        }
        let (restarts, live): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::restarts);
        if let Err(error) = self.apply(pod, &live).await {
            if self.resize_error.as_ref() != Some(&error) {
                node.event(pod, None, "Warning", "ResizeError", &told("error", pod, Some(&error)));
            }
            self.resize_error = Some(error);
            return Some(RETRY);
        }
        self.resize_error = None;
        for change in restarts {
            if plan.kill.iter().any(|k| k.id == change.id) {
                continue;
            }
            let unit = Unit { role: change.role, container: change.container, target: None };
            if spec::restarts(pod, &unit, 137) && !plan.start.contains(&change.unit_name) {
                plan.start.push(change.unit_name.clone());
            }
            let message = format!("Container {} resize requires restart", change.unit_name);
            plan.kill.push(Kill { id: change.id, name: change.unit_name, message });
        }
        self.settle(pod, observed)
    }

    /// Once every container has what it may have, so does the pod's cgroup.
    fn settle(&mut self, pod: &Arc<Pod>, observed: &Observed) -> Option<Duration> {
        let node = self.node.clone();
        let open = !changes(pod, observed, &node.allocations.actuated(&self.uid)).is_empty();
        let limits = resources::of_pod(pod);
        if open || self.limits.as_ref() == Some(&limits) || observed.sandboxes.is_empty() {
            return None;
        }
        let path = resources::cgroup(pod, &node.config.cgroup_root);
        if let Err(error) = node.cgroups.ensure(&path, &limits) {
            let text = format!("cgroup {path}: {error}");
            node.event(pod, None, "Warning", "ResizeError", &told("error", pod, Some(&text)));
            self.resize_error = Some(text);
            return Some(RETRY);
        }
        self.limits = Some(limits);
        if std::mem::take(&mut self.resizing) {
            self.resize_error = None;
            node.event(pod, None, "Normal", "ResizeCompleted", &told("completed", pod, None));
        }
        None
    }

    /// Room in the pod's cgroup first, then the containers.
    async fn apply(&mut self, pod: &Arc<Pod>, live: &[Change]) -> Result<(), String> {
        let node = self.node.clone();
        let path = resources::cgroup(pod, &node.config.cgroup_root);
        let before = resources::of_pod(&with_actuated(pod, &node.allocations.actuated(&self.uid)));
        let after = resources::of_pod(pod);
        self.refuse_shrinking(&path, &before, &after, live)?;
        let failed = |e: std::io::Error| format!("cgroup {path}: {e}");
        node.cgroups.ensure(&path, &raised(&before, &after)).map_err(failed)?;
        self.limits = None;
        for change in live {
            let resources = resources::of_container(pod, &change.container, node.memory_bytes);
            node.runtime
                .update_container_resources(&change.id, resources)
                .await
                .map_err(|e| format!("updating the resources of container {}: {e}", change.unit_name))?;
            node.allocations.set_actuated(&self.uid, &change.unit_name, &change.now());
        }
        Ok(())
    }

    /// A memory limit does not go below what is in use: the kernel would kill for it.
    fn refuse_shrinking(
        &self,
        path: &str,
        before: &PodLimits,
        after: &PodLimits,
        live: &[Change],
    ) -> Result<(), String> {
        let usage = |path: &str| self.node.cgroups.memory_usage(path).unwrap_or_default();
        if let (Some(was), Some(limit)) = (before.memory_bytes, after.memory_bytes)
            && limit < was
        {
            let used = usage(path);
            if used >= limit {
                return Err(format!(
                    "attempting to set pod memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        for change in live {
            let (was, limit) = (memory_limit(&change.was), memory_limit(&change.now()));
            let used = usage(&format!("{path}/{}", change.id));
            if limit > 0 && (was == 0 || limit < was) && used >= limit {
                return Err(format!(
                    "attempting to set container {:?} memory limit ({limit}) below current usage ({used})",
                    change.unit_name
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(resources: Value, policy: Value) -> Pod {
        let container = json!({"name": "c", "resources": resources, "resizePolicy": policy});
        serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
    }

    fn running() -> Observed {
        let instance = Instance {
            id: "i".into(),
            name: "c".into(),
            sandbox: "s".into(),
            restart_count: 0,
            state: State::Running,
            created_at: 1,
            started_at: 1,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            hash: String::new(),
            log_path: String::new(),
            termination_message: String::new(),
        };
        Observed { instances: vec![instance], ..Observed::default() }
    }

    fn actuated(resources: Value) -> ByContainer {
        ByContainer::from([("c".to_owned(), serde_json::from_value(resources).unwrap())])
    }

    #[test]
    fn only_other_amounts_are_changes_and_the_policy_decides() {
        let restart = |name: &str| json!([{"resourceName": name, "restartPolicy": "RestartContainer"}]);
        let was = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
        for (now, policy, want) in [
            (json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}}), json!([]), None),
            (json!({"requests": {"cpu": "2", "memory": "1Gi"}}), json!([]), Some(false)),
            (json!({"requests": {"cpu": "2", "memory": "1Gi"}}), restart("cpu"), Some(true)),
            (json!({"requests": {"cpu": "2", "memory": "1Gi"}}), restart("memory"), Some(false)),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
                restart("memory"),
                Some(true),
            ),
        ] {
            let found = changes(&pod(now.clone(), policy), &running(), &actuated(was.clone()));
            assert_eq!(found.first().map(Change::restarts), want, "{now}");
        }
        let other = pod(json!({"requests": {"cpu": "2"}}), json!([]));
        assert!(changes(&other, &running(), &ByContainer::new()).is_empty(), "nothing is known of it");
        assert!(changes(&other, &Observed::default(), &actuated(was)).is_empty(), "it does not run");
    }

    #[test]
    fn the_pod_gets_room_first() {
        let limits = |cpu_shares, cpu_quota, memory_bytes| PodLimits { cpu_shares, cpu_quota, memory_bytes };
        assert_eq!(
            raised(&limits(10, Some(5), None), &limits(20, Some(3), Some(7))),
            limits(20, Some(5), None)
        );
    }
}
