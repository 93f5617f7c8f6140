//! DaemonSet: one pod on each node that fits.

mod placement;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::claim::{Claimer, controller_ref};
use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::expectations::Expectations;
use crate::pods::{self, controller_of, is_available, is_finished, is_ready};
use crate::revisions::{self, Owner, POD_LABEL, hash_of};
use crate::selector;
use crate::template::pod_from;
use placement::{Placement, node_of};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "daemonset-controller",
    account: "daemon-set-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const KIND: &str = "DaemonSet";
/// Pods created or deleted in one reconcile at most.
const BURST: usize = 250;

type Key = (String, String);

/// Changes to the pods.
#[derive(Debug, Default)]
struct Plan {
    /// Names of nodes.
    create: Vec<String>,
    delete: Vec<Arc<Pod>>,
    /// Pods that have failed, among those to delete.
    failed: Vec<Arc<Pod>>,
}

fn scaled(value: Option<&IntOrString>, of: usize) -> usize {
    match value {
        Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(0),
        Some(IntOrString::String(text)) => {
            (text.trim_end_matches('%').parse::<usize>().unwrap_or(0) * of).div_ceil(100)
        }
        None => 0,
    }
}

fn hash(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(POD_LABEL)).map_or("", String::as_str)
}

type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// Decides over all nodes.
fn decide(
    set: &DaemonSet,
    nodes: &[(String, Placement)],
    by_node: &ByNode,
    current: &str,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for (name, placement) in nodes {
        let pods = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let (ended, mut live): (Vec<_>, Vec<_>) = pods.iter().cloned().partition(|p| is_finished(p));
        if !placement.stay {
            plan.delete.extend(pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).cloned());
            continue;
        }
        for pod in ended.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
            if pods::phase(&pod) == "Failed" {
                plan.failed.push(pod.clone());
            }
            plan.delete.push(pod);
        }
        if pods.is_empty() && placement.run {
            plan.create.push(name.clone());
        }
        // Of several pods the oldest stays, except for a new one beside an old one in a surge.
        live.retain(|p| p.metadata.deletion_timestamp.is_none());
        live.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        for group in [true, false] {
            plan.delete.extend(live.iter().filter(|p| (hash(p) == current) == group).skip(1).cloned());
        }
    }
    // Pods on nodes that are gone are left to the pod garbage collector.
    if plan.create.is_empty() && plan.delete.is_empty() {
        roll(set, nodes, by_node, current, now, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// Replaces pods of older templates, within the limits of unavailability or surge.
fn roll(
    set: &DaemonSet,
    nodes: &[(String, Placement)],
    by_node: &ByNode,
    current: &str,
    now: Timestamp,
    plan: &mut Plan,
) {
    let strategy = set.spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        return;
    }
    let wanted: Vec<&String> = nodes.iter().filter(|(_, p)| p.run).map(|(n, _)| n).collect();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted.len());
    let one = IntOrString::Int(1);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).or(Some(&one).filter(|_| surge == 0));
    let unavailable = scaled(unavailable, wanted.len());
    let minimum = set.spec.min_ready_seconds.unwrap_or(0);
    let works = |p: &Pod| p.metadata.deletion_timestamp.is_none() && is_available(p, minimum, now);
    let (mut down, mut surging, mut ready_to_go, mut broken) = (0, 0, Vec::new(), Vec::new());
    for node in wanted {
        let pods = by_node.get(node).map(Vec::as_slice).unwrap_or_default();
        let new = pods.iter().find(|p| hash(p) == current);
        let old = pods.iter().find(|p| hash(p) != current && p.metadata.deletion_timestamp.is_none());
        match (old, new) {
            (Some(old), Some(new)) if works(new) => plan.delete.push(old.clone()),
            (Some(_), Some(_)) => surging += 1,
            (Some(old), None) if !works(old) => {
                down += 1;
                broken.push(old.clone());
            }
            (Some(old), None) => ready_to_go.push((node, old.clone())),
            (None, Some(new)) if works(new) => {}
            (None, _) => down += 1,
        }
    }
    // A pod that does not work anyway costs nothing.
    plan.delete.extend(broken);
    if surge > 0 {
        let room = surge.saturating_sub(surging);
        plan.create.extend(ready_to_go.into_iter().take(room).map(|(node, _)| node.clone()));
    } else {
        let room = unavailable.saturating_sub(down);
        plan.delete.extend(ready_to_go.into_iter().take(room).map(|(_, old)| old));
    }
}

fn status_of(
    set: &DaemonSet,
    nodes: &[(String, Placement)],
    by_node: &ByNode,
    current: &str,
    now: Timestamp,
) -> DaemonSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let minimum = set.spec.min_ready_seconds.unwrap_or(0);
    let mut s = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for (name, placement) in nodes {
        let pods = by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let has = !pods.is_empty();
        if !placement.run {
            s.number_misscheduled += i32::from(has);
            continue;
        }
        s.desired_number_scheduled += 1;
        s.current_number_scheduled += i32::from(has);
        s.number_ready += i32::from(pods.iter().any(|p| is_ready(p)));
        available += i32::from(pods.iter().any(|p| is_available(p, minimum, now)));
        updated += i32::from(pods.iter().any(|p| hash(p) == current));
    }
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    s.number_available = some(available);
    s.updated_number_scheduled = some(updated);
    s.number_unavailable = some(s.desired_number_scheduled - available);
    s
}

struct Daemons {
    ctx: Arc<Ctx>,
    sets: Arc<Store<DaemonSet>>,
    nodes: Arc<Store<Node>>,
    expectations: Arc<Expectations>,
}

/// Whether a change of a node can move daemon pods.
fn node_matters(new: &Node, old: &Node) -> bool {
    new.metadata.labels != old.metadata.labels
        || new.spec.as_ref().map(|s| &s.taints) != old.spec.as_ref().map(|s| &s.taints)
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let (sets, nodes) = (ctx.store::<DaemonSet>(), ctx.store::<Node>());
    let expectations = Arc::new(Expectations::default());
    {
        let (queue, expectations) = (queue.clone(), expectations.clone());
        sets.on_event(move |event| match event {
            Event::Applied { new, .. } => queue.add((new.namespace().unwrap_or_default(), new.name_any())),
            Event::Deleted(old) => expectations.drop_owner(old.metadata.uid.as_deref().unwrap_or_default()),
        });
    }
    {
        let (queue, sets) = (queue.clone(), sets.clone());
        nodes.on_event(move |event| {
            if let Event::Applied { new, old: Some(old) } = event
                && !node_matters(new, old)
            {
                return;
            }
            for set in sets.list() {
                queue.add((set.namespace().unwrap_or_default(), set.name_any()));
            }
        });
    }
    {
        let queue = queue.clone();
        revisions::follow(&ctx, KIND, move |namespace, name| queue.add((namespace, name)));
    }
    follow_pods(&ctx, &queue, &expectations);
    sets.synced().await;
    nodes.synced().await;
    ctx.store::<ControllerRevision>().synced().await;
    ctx.store::<Pod>().synced().await;
    let this = Arc::new(Daemons { ctx: ctx.clone(), sets, nodes, expectations });
    work(ctx, queue, 2, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    })
    .await;
    Ok(())
}

fn follow_pods(ctx: &Ctx, queue: &WorkQueue<Key>, expectations: &Arc<Expectations>) {
    let (queue, expectations) = (queue.clone(), expectations.clone());
    ctx.store::<Pod>().on_event(move |event| {
        let (pod, fresh) = match event {
            Event::Applied { new, old } => (new, old.is_none()),
            Event::Deleted(old) => (old, false),
        };
        let Some(owner) = controller_of(&pod.metadata).filter(|o| o.kind == KIND) else { return };
        if fresh {
            expectations.created(&owner.uid);
        }
        if matches!(event, Event::Deleted(_)) || pod.metadata.deletion_timestamp.is_some() {
            expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
        }
        queue.add((pod.namespace().unwrap_or_default(), owner.name.clone()));
    });
}

impl Daemons {
    async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let Some(set) = self.sets.get(&namespace, &name) else { return Ok(Action::Done) };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        if selector::is_empty(&set.spec.selector) {
            let about = reference("apps/v1", KIND, &set.metadata);
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.ctx.event(&about, EventType::Warning, "SelectingAll", note);
            return Ok(Action::Done);
        }
        let uid = set.uid().unwrap_or_default();
        let waiting = self.expectations.wait(&uid);
        let pods = self.claim(&set).await?;
        let owner = Owner {
            meta: &set.metadata,
            kind: KIND,
            selector: &set.spec.selector,
            template: &set.spec.template,
            collisions: set.status.as_ref().and_then(|s| s.collision_count),
            hash_label: POD_LABEL,
        };
        let history = owner.history(&self.ctx, || self.is_there(&set)).await?;
        let current = hash_of(&history.current, POD_LABEL);
        let mut by_node = ByNode::new();
        for pod in &pods {
            if let Some(node) = node_of(pod) {
                by_node.entry(node).or_default().push(pod.clone());
            }
        }
        let nodes: Vec<_> = self
            .nodes
            .list()
            .iter()
            .map(|n| (n.name_any(), placement::decide(&set.spec.template, n)))
            .collect();
        let now = Timestamp::now();
        let mut outcome = Ok(());
        if waiting.is_none() && !history.collided {
            outcome = self.perform(&set, decide(&set, &nodes, &by_node, &current, now), &current).await;
        }
        let mut status = status_of(&set, &nodes, &by_node, &current, now);
        if history.collided {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        self.write(&set, status).await?;
        outcome?;
        let hashes: HashSet<&str> = pods.iter().map(|p| hash(p)).collect();
        let used = history
            .all
            .iter()
            .filter(|r| hashes.contains(hash_of(r, POD_LABEL).as_str()))
            .map(ResourceExt::name_any);
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        owner.truncate(&self.ctx, &history, limit, &used.collect()).await?;
        let minimum = set.spec.min_ready_seconds.unwrap_or(0);
        let next: Option<Duration> = pods.iter().filter_map(|p| pods::available_in(p, minimum, now)).min();
        let later = next.map_or(Action::Done, Action::After);
        Ok(waiting.map_or(Action::Done, Action::After).and(later))
    }

    async fn claim(&self, set: &Arc<DaemonSet>) -> Result<Vec<Arc<Pod>>, Error> {
        let namespace = set.namespace().unwrap_or_default();
        let fits = |p: &Pod| selector::matches(&set.spec.selector, p.metadata.labels.as_ref());
        let own = self.ctx.pods.get(&format!("uid:{}", set.uid().unwrap_or_default()));
        let orphans = self.ctx.pods.get(&format!("orphan:{namespace}")).into_iter().filter(|p| fits(p));
        let claimer = Claimer {
            api: self.ctx.api::<Pod>(&namespace),
            kind: "Pod",
            owner: &set.metadata,
            reference: controller_ref("apps/v1", KIND, &set.metadata),
            finalizers: &[],
        };
        let candidates = own.into_iter().chain(orphans).map(|p| (p.clone(), fits(&p))).collect();
        claimer.claim(candidates, || self.is_there(set)).await
    }

    async fn is_there(&self, set: &DaemonSet) -> Result<bool, Error> {
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let live = self.ctx.api::<DaemonSet>(&namespace).get_opt(&name).await;
        let live = live.during("get", KIND, &namespace, &name)?;
        Ok(live
            .is_some_and(|l| l.metadata.uid == set.metadata.uid && l.metadata.deletion_timestamp.is_none()))
    }

    async fn perform(&self, set: &DaemonSet, plan: Plan, current: &str) -> Result<(), Error> {
        let (namespace, uid) = (set.namespace().unwrap_or_default(), set.uid().unwrap_or_default());
        let api = self.ctx.api::<Pod>(&namespace);
        let about = reference("apps/v1", KIND, &set.metadata);
        for pod in plan.failed {
            let node = node_of(&pod).unwrap_or_default();
            let note = format!(
                "Found failed daemon pod {namespace}/{} on node {node}, will try to kill it",
                pod.name_any()
            );
            self.ctx.event(&about, EventType::Warning, "FailedDaemonPod", &note);
        }
        let mut errors = Vec::new();
        for node in plan.create {
            self.expectations.expect_creations(&uid, 1);
            let pod = pod_for(set, &node, current);
            let prefix = pod.metadata.generate_name.clone().unwrap_or_default();
            match api.create(&PostParams::default(), &pod).await.during("create", "Pod", &namespace, &prefix)
            {
                Ok(made) => {
                    let note = format!("Created pod: {}", made.name_any());
                    self.ctx.event(&about, EventType::Normal, "SuccessfulCreate", &note);
                }
                Err(error) => {
                    self.expectations.created(&uid);
                    if error.is_namespace_terminating() {
                        return Ok(());
                    }
                    let note = format!("Error creating: {}", error.message());
                    self.ctx.event(&about, EventType::Warning, "FailedCreate", &note);
                    errors.push(error);
                    // What refuses one will refuse the others.
                    break;
                }
            }
        }
        for pod in plan.delete {
            let (name, pod_uid) = (pod.name_any(), pod.uid().unwrap_or_default());
            self.expectations.expect_deletion(&uid, &pod_uid);
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await.during("delete", "Pod", &namespace, &name) {
                Ok(_) => {
                    let note = format!("Deleted pod: {name}");
                    self.ctx.event(&about, EventType::Normal, "SuccessfulDelete", &note);
                }
                Err(error) => {
                    self.expectations.deleted(&uid, &pod_uid);
                    if !error.is_not_found() {
                        errors.push(error);
                    }
                }
            }
        }
        Error::join(errors)
    }

    async fn write(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let mut next = set.clone();
        next.status = Some(status);
        let api = self.ctx.api::<DaemonSet>(&namespace);
        let result = api.replace_status(&name, &PostParams::default(), &next).await;
        match result.during("update status of", KIND, &namespace, &name) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn pod_for(set: &DaemonSet, node: &str, current: &str) -> Pod {
    let owner = controller_ref("apps/v1", KIND, &set.metadata);
    let namespace = set.namespace().unwrap_or_default();
    let mut pod = pod_from(&set.spec.template, &namespace, &set.name_any(), owner);
    pod.metadata.labels.get_or_insert_default().insert(POD_LABEL.to_owned(), current.to_owned());
    placement::pin(&mut pod, node);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    const HERE: Placement = Placement { run: true, stay: true };

    fn set(strategy: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"selector": {}, "template": {"spec": {"containers": []}}, "updateStrategy": strategy},
        }))
        .unwrap()
    }

    fn daemon(node: &str, revision: &str, ready: bool) -> (String, Arc<Pod>) {
        let pod = pod(json!({
            "metadata": {"name": format!("d-{node}-{revision}"), "uid": format!("{node}{revision}"), "labels": {POD_LABEL: revision}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }));
        (node.to_owned(), Arc::new(pod))
    }

    fn plan(strategy: Value, pods: &[(String, Arc<Pod>)]) -> (Vec<String>, Vec<String>) {
        let nodes: Vec<_> = ["a", "b", "c"].map(|n| (n.to_owned(), HERE)).into();
        let mut by_node = ByNode::new();
        for (node, pod) in pods {
            by_node.entry(node.clone()).or_default().push(pod.clone());
        }
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let plan = decide(&set(strategy), &nodes, &by_node, "2", now);
        (plan.create, plan.delete.iter().map(|p| p.name_any()).collect())
    }

    #[test]
    fn one_pod_a_node() {
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}});
        let list = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(plan(rolling.clone(), &[]), (list(&["a", "b", "c"]), vec![]));
        let old = [daemon("a", "1", true), daemon("b", "1", true), daemon("c", "1", true)];
        assert_eq!(plan(rolling.clone(), &old), (vec![], list(&["d-a-1"])));
        let broken = [daemon("a", "2", false), daemon("b", "1", false), daemon("c", "1", true)];
        assert_eq!(plan(rolling, &broken), (vec![], list(&["d-b-1"])));
        assert_eq!(plan(json!({"type": "OnDelete"}), &old), (vec![], vec![]));
        let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(plan(surge.clone(), &old), (list(&["a"]), vec![]));
        let beside =
            [daemon("a", "1", true), daemon("a", "2", true), daemon("b", "1", true), daemon("c", "1", true)];
        assert_eq!(plan(surge, &beside), (list(&["b"]), list(&["d-a-1"])));
    }
}
