//! PodDisruptionBudget: tells in the status how many pods may be evicted now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::PostParams;

use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::pods::{controller_of, is_active, is_ready};
use crate::selector;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "disruption-controller",
    account: "disruption-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// An eviction that was allowed and not seen to happen is forgotten after this long.
const EVICTION_TIMEOUT: i64 = 120;

type Key = (String, String);

/// Evicted pods by name, and when.
type Disrupted = BTreeMap<String, Time>;

fn scaled(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of) + 99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

/// (expected pods, wanted healthy). `scale` is the number of pods that the owners want, where that is needed.
fn wanted(budget: &PodDisruptionBudget, pods: i32, scale: i32) -> (i32, i32) {
    let Some(spec) = budget.spec.as_ref() else { return (pods, 0) };
    if let Some(max) = &spec.max_unavailable {
        return (scale, (scale - scaled(max, scale)).max(0));
    }
    match &spec.min_available {
        Some(IntOrString::Int(n)) => (pods, *n),
        Some(percent) => (scale, scaled(percent, scale)),
        None => (pods, 1),
    }
}

/// Whether the number of pods that the owners want must be known.
fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|s| {
        s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_)))
    })
}

/// Evictions that are still under way, and when the next of them is forgotten.
fn disrupted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (Disrupted, Option<Duration>) {
    let mut open = Disrupted::new();
    let mut next: Option<i64> = None;
    let known = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    for (name, time) in known.into_iter().flatten() {
        let Some(pod) = pods.iter().find(|p| p.metadata.name.as_deref() == Some(name)) else { continue };
        let until = time.0.as_second() + EVICTION_TIMEOUT;
        if pod.metadata.deletion_timestamp.is_some() || until <= now.as_second() {
            continue;
        }
        open.insert(name.clone(), time.clone());
        next = Some(next.map_or(until, |n| n.min(until)));
    }
    let left = next.map(|n| Duration::from_secs(u64::try_from(n - now.as_second()).unwrap_or(0) + 1));
    (open, left)
}

/// The status from these pods.
fn decide(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    open: Disrupted,
    scale: i32,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let (expected, desired) = wanted(budget, count, scale);
    let healthy = pods.iter().filter(|p| {
        p.metadata.deletion_timestamp.is_none()
            && is_ready(p)
            && !open.contains_key(p.metadata.name.as_deref().unwrap_or_default())
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let generation = budget.metadata.generation;
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let old = budget.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    set_condition(&mut conditions, status, reason, "", generation, now);
    PodDisruptionBudgetStatus {
        conditions: Some(conditions),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: Some(open).filter(|o| !o.is_empty()),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: generation,
    }
}

fn set_condition(
    all: &mut Vec<Condition>,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    const KIND: &str = "DisruptionAllowed";
    let old = all.iter().find(|c| c.type_ == KIND);
    let since = old.filter(|c| c.status == status).map_or(Time(now), |c| c.last_transition_time.clone());
    let next = Condition {
        type_: KIND.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    all.retain(|c| c.type_ != KIND);
    all.push(next);
}

struct Budgets {
    ctx: Arc<Ctx>,
    budgets: Arc<Store<PodDisruptionBudget>>,
    sets: Arc<Store<ReplicaSet>>,
    deployments: Arc<Store<Deployment>>,
    stateful: Arc<Store<StatefulSet>>,
    controllers: Arc<Store<ReplicationController>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let budgets = ctx.store::<PodDisruptionBudget>();
    {
        let queue = queue.clone();
        budgets.on_event(move |event| {
            if let Event::Applied { new, .. } = event {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    {
        let (queue, budgets) = (queue.clone(), budgets.clone());
        ctx.store::<Pod>().on_event(move |event| {
            let (pod, old) = match event {
                Event::Applied { new, old } => (new, old.as_ref()),
                Event::Deleted(old) => (old, None),
            };
            for budget in budgets.list_ns(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                if covers(&budget, pod) || old.is_some_and(|o| covers(&budget, o)) {
                    queue.add((budget.namespace().unwrap_or_default(), budget.name_any()));
                }
            }
        });
    }
    let this = Arc::new(Budgets {
        ctx: ctx.clone(),
        budgets,
        sets: ctx.store(),
        deployments: ctx.store(),
        stateful: ctx.store(),
        controllers: ctx.store(),
    });
    this.budgets.synced().await;
    this.sets.synced().await;
    this.deployments.synced().await;
    this.stateful.synced().await;
    this.controllers.synced().await;
    ctx.store::<Pod>().synced().await;
    work(ctx, queue, 2, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    })
    .await;
    Ok(())
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    wanted.is_some_and(|w| selector::matches(w, pod.metadata.labels.as_ref()))
}

impl Budgets {
    async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let Some(budget) = self.budgets.get(&namespace, &name) else { return Ok(Action::Done) };
        let pods: Vec<_> = self
            .ctx
            .store::<Pod>()
            .list_ns(&namespace)
            .into_iter()
            .filter(|p| covers(&budget, p) && !crate::pods::is_finished(p))
            .collect();
        let now = Timestamp::now();
        let (open, left) = disrupted(&budget, &pods, now);
        let mut next = PodDisruptionBudget::clone(&budget);
        match self.scale(&budget, &pods) {
            Ok(scale) => next.status = Some(decide(&budget, &pods, open, scale, now)),
            Err(why) => {
                let about = reference("policy/v1", "PodDisruptionBudget", &budget.metadata);
                self.ctx.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", &why);
                let status = next.status.get_or_insert_default();
                status.disruptions_allowed = Some(0);
                let conditions = status.conditions.get_or_insert_default();
                set_condition(conditions, "False", "SyncFailed", &why, budget.metadata.generation, now);
            }
        }
        if next.status != budget.status {
            let api = self.ctx.api::<PodDisruptionBudget>(&namespace);
            let result = api.replace_status(&name, &PostParams::default(), &next).await;
            match result.during("update status of", "PodDisruptionBudget", &namespace, &name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(left.map_or(Action::Done, Action::After))
    }

    /// How many pods the owners of these pods want together; a pod without a known owner makes that unknown.
    fn scale(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, String> {
        if !needs_scale(budget) {
            return Ok(0);
        }
        let mut owners: HashMap<String, i32> = HashMap::new();
        for pod in pods.iter().filter(|p| is_active(p) || p.metadata.deletion_timestamp.is_some()) {
            let name = pod.name_any();
            let owner = controller_of(&pod.metadata)
                .ok_or_else(|| format!("found no controller ref for pod {name:?}"))?;
            if owners.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let (uid, replicas) = self.owner_scale(namespace, &owner.kind, &owner.name).ok_or_else(|| {
                format!(
                    "found no controllers for pod {name:?}: {} {:?} has no scale that is known",
                    owner.kind, owner.name
                )
            })?;
            owners.insert(uid, replicas);
        }
        Ok(owners.values().sum())
    }

    fn owner_scale(&self, namespace: &str, kind: &str, name: &str) -> Option<(String, i32)> {
        match kind {
            "ReplicaSet" => {
                let set = self.sets.get(namespace, name)?;
                // A deployment in the middle of a rollout has several sets, and wants what it says itself.
                if let Some(above) = controller_of(&set.metadata).filter(|o| o.kind == "Deployment") {
                    let d = self.deployments.get(namespace, &above.name)?;
                    return Some((d.uid()?, d.spec.replicas.unwrap_or(1)));
                }
                Some((set.uid()?, set.spec.replicas.unwrap_or(1)))
            }
            "StatefulSet" => {
                let set = self.stateful.get(namespace, name)?;
                Some((set.uid()?, set.spec.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let rc = self.controllers.get(namespace, name)?;
                Some((rc.uid()?, rc.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    #[test]
    fn allowances() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let pods: Vec<_> = (0..4)
            .map(|i| {
                let ready = if i == 3 { "False" } else { "True" };
                Arc::new(pod(json!({"metadata": {"name": format!("p{i}")}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})))
            })
            .collect();
        let check = |spec: Value, allowed: i32, desired: i32| {
            let budget: PodDisruptionBudget = serde_json::from_value(json!({"spec": spec})).unwrap();
            let status = decide(&budget, &pods, Disrupted::new(), 4, now);
            assert_eq!(
                (status.disruptions_allowed, status.desired_healthy),
                (Some(allowed), Some(desired)),
                "{spec}"
            );
        };
        check(json!({"minAvailable": 2}), 1, 2);
        check(json!({"minAvailable": "50%"}), 1, 2);
        check(json!({"maxUnavailable": 1}), 0, 3);
        check(json!({"maxUnavailable": "50%"}), 1, 2);
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "spec": {"minAvailable": 2}, "status": {"disruptedPods": {"p0": "2025-12-31T23:59:30Z", "p1": "2025-12-31T23:00:00Z", "gone": "2025-12-31T23:59:30Z"}},
        }))
        .unwrap();
        let (open, left) = disrupted(&budget, &pods, now);
        assert_eq!(open.keys().collect::<Vec<_>>(), ["p0"]);
        assert_eq!(left, Some(Duration::from_secs(91)));
        assert_eq!(decide(&budget, &pods, open, 0, now).disruptions_allowed, Some(0));
    }
}
