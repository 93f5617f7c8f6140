//! The engine of ReplicaSets and ReplicationControllers: as many pods as asked for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use serde::Serialize;

use crate::claim::{Claimer, controller_ref};
use crate::context::{Action, Cached, Ctx, EventType, work};
use crate::error::{During, Error};
use crate::expectations::Expectations;
use crate::pods::{self, available_in, controller_of, is_active, is_available, is_ready, is_terminating};
use crate::selector;
use crate::template::pod_from;

/// Pods created or deleted in one reconcile at most.
const BURST: usize = 500;

/// A kind that keeps replicas of a pod.
pub trait Replicated:
    Cached + Serialize + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
    /// Kind name.
    const KIND: &'static str;
    /// `apiVersion` of references to it.
    const API_VERSION: &'static str;

    /// `spec.replicas`.
    fn replicas(&self) -> i32;
    /// `spec.minReadySeconds`.
    fn min_ready_seconds(&self) -> i32;
    /// Which pods belong to it.
    fn selector(&self) -> LabelSelector;
    /// What pods are made from.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The status as told now.
    fn status(&self) -> Status;
    /// A copy with this status.
    fn with_status(&self, status: &Status) -> Self;
}

/// The status that both kinds tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// Active pods.
    pub replicas: i32,
    /// Active pods with all labels of the template.
    pub fully_labeled: i32,
    /// Ready pods.
    pub ready: i32,
    /// Pods ready for `minReadySeconds`.
    pub available: i32,
    /// Pods being deleted, where the kind tells it.
    pub terminating: Option<i32>,
    /// Generation that the counts belong to.
    pub observed_generation: i64,
    /// `ReplicaFailure` and foreign ones.
    pub conditions: Vec<Condition>,
}

/// A condition of either kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Type.
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// CamelCase reason.
    pub reason: Option<String>,
    /// For people.
    pub message: Option<String>,
    /// Last change of `status`.
    pub since: Option<Time>,
}

/// What to do about the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pods to create.
    pub create: usize,
    /// Names of pods to delete, with their uids.
    pub delete: Vec<(String, String)>,
}

/// Compares the active pods with the wanted number. `ranks` counts active pods of the same workload per node.
pub fn decide(active: &[Arc<Pod>], wanted: i32, ranks: &HashMap<String, usize>, now: Timestamp) -> Plan {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST), delete: Vec::new() };
    }
    let excess = (active.len() - wanted).min(BURST);
    let rank = |pod: &Pod| pods::node_name(pod).and_then(|n| ranks.get(n)).copied().unwrap_or(0);
    let mut order: Vec<_> = active.iter().map(|pod| (pod.as_ref(), rank(pod))).collect();
    order.sort_by(|a, b| pods::deletion_order(*a, *b, now));
    let delete = order[..excess].iter().map(|(p, _)| (p.name_any(), p.uid().unwrap_or_default())).collect();
    Plan { create: 0, delete }
}

/// Counts the pods. `failure` is what kept pods from being created or deleted in this reconcile.
pub fn status_of<R: Replicated>(
    owner: &R,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> Status {
    let old = owner.status();
    let none = BTreeMap::new();
    let labels =
        owner.template().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref()).unwrap_or(&none);
    let count = |f: &dyn Fn(&Pod) -> bool| number(active.iter().filter(|p| f(p)).count());
    let mut conditions = old.conditions.clone();
    let known = conditions.iter().any(|c| c.kind == "ReplicaFailure");
    match failure {
        Some((reason, message)) if !known => conditions.push(Condition {
            kind: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            since: Some(Time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|c| c.kind != "ReplicaFailure"),
    }
    Status {
        replicas: number(active.len()),
        fully_labeled: count(&|p| selector::has_all(labels, p.metadata.labels.as_ref())),
        ready: count(&is_ready),
        available: count(&|p| is_available(p, owner.min_ready_seconds(), now)),
        terminating: Some(number(terminating)),
        observed_generation: owner.meta().generation.unwrap_or(0),
        conditions,
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

type Key = (String, String);

/// One of the two controllers.
pub struct Engine<R: Replicated> {
    ctx: Arc<Ctx>,
    owners: Arc<knarr_client::Store<R>>,
    expectations: Arc<Expectations>,
}

/// Runs the controller of a kind until shutdown.
///
/// # Errors
/// None at present; the signature is that of all controllers.
pub async fn run<R: Replicated>(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let owners = ctx.store::<R>();
    let expectations = Arc::new(Expectations::default());
    {
        let (queue, expectations) = (queue.clone(), expectations.clone());
        owners.on_event(move |event| {
            let object = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => {
                    expectations.drop_owner(old.meta().uid.as_deref().unwrap_or_default());
                    old
                }
            };
            queue.add((object.namespace().unwrap_or_default(), object.name_any()));
        });
    }
    {
        let feed =
            PodFeed { queue: queue.clone(), owners: owners.clone(), expectations: expectations.clone() };
        ctx.store::<Pod>().on_event(move |event| feed.follow(event));
    }
    owners.synced().await;
    ctx.store::<Pod>().synced().await;
    let engine = Arc::new(Engine { ctx: ctx.clone(), owners, expectations });
    work(ctx, queue, 5, move |key| {
        let engine = engine.clone();
        async move { engine.reconcile(key).await }
    })
    .await;
    Ok(())
}

/// Turns pod events into keys of their owners.
struct PodFeed<R: Replicated> {
    queue: WorkQueue<Key>,
    owners: Arc<knarr_client::Store<R>>,
    expectations: Arc<Expectations>,
}

impl<R: Replicated> PodFeed<R> {
    fn follow(&self, event: &Event<Pod>) {
        match event {
            Event::Applied { new, old: None } => match self.owner(new) {
                Some(owner) if new.metadata.deletion_timestamp.is_some() => self.gone(new, owner),
                Some(owner) => {
                    self.expectations.created(&owner.uid);
                    self.add(new, owner);
                }
                None => self.offer(new),
            },
            Event::Applied { new, old: Some(old) } => self.changed(new, old),
            Event::Deleted(old) => {
                if let Some(owner) = self.owner(old) {
                    self.gone(old, owner);
                }
            }
        }
    }

    fn changed(&self, new: &Pod, old: &Pod) {
        let (now, before) = (controller_of(&new.metadata), controller_of(&old.metadata));
        if now.map(|o| &o.uid) != before.map(|o| &o.uid)
            && let Some(owner) = self.owner(old)
        {
            self.add(old, owner);
        }
        match self.owner(new) {
            Some(owner) if new.metadata.deletion_timestamp.is_some() => self.gone(new, owner),
            Some(owner) => self.add(new, owner),
            None if now.is_none() && (before.is_some() || new.metadata.labels != old.metadata.labels) => {
                self.offer(new);
            }
            None => {}
        }
    }

    fn owner<'a>(&self, pod: &'a Pod) -> Option<&'a OwnerReference> {
        controller_of(&pod.metadata).filter(|o| o.kind == R::KIND && o.api_version == R::API_VERSION)
    }

    fn add(&self, pod: &Pod, owner: &OwnerReference) {
        self.queue.add((pod.namespace().unwrap_or_default(), owner.name.clone()));
    }

    fn gone(&self, pod: &Pod, owner: &OwnerReference) {
        self.expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
        self.add(pod, owner);
    }

    /// A pod without an owner: all that would take it look at it.
    fn offer(&self, pod: &Pod) {
        if controller_of(&pod.metadata).is_some() || pod.metadata.labels.is_none() {
            return;
        }
        for owner in self.owners.list_ns(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let wanted = owner.selector();
            if !selector::is_empty(&wanted) && selector::matches(&wanted, pod.metadata.labels.as_ref()) {
                self.queue.add((owner.namespace().unwrap_or_default(), owner.name_any()));
            }
        }
    }
}

impl<R: Replicated> Engine<R> {
    async fn reconcile(&self, key: Key) -> Result<Action, Error> {
        let Some(owner) = self.owners.get(&key.0, &key.1) else { return Ok(Action::Done) };
        let uid = owner.uid().unwrap_or_default();
        let waiting = self.expectations.wait(&uid);
        let claimed = self.claim(&owner).await?;
        let active: Vec<_> = claimed.iter().filter(|p| is_active(p)).cloned().collect();
        let terminating = claimed.iter().filter(|p| is_terminating(p)).count();
        let now = Timestamp::now();
        let mut failure = None;
        if waiting.is_none() && owner.meta().deletion_timestamp.is_none() {
            let plan = decide(&active, owner.replicas(), &self.ranks(&owner), now);
            let reason = if plan.create > 0 { "FailedCreate" } else { "FailedDelete" };
            if let Err(error) = self.perform(&owner, &uid, plan).await {
                failure = Some((reason, error));
            }
        }
        let told = failure.as_ref().map(|(reason, error)| (*reason, error.message()));
        let status = status_of(owner.as_ref(), &active, terminating, told, now);
        let short = status.ready == owner.replicas() && status.available != owner.replicas();
        self.write_status(&owner, status).await?;
        if let Some((_, error)) = failure {
            return Err(error);
        }
        let mut action = waiting.map_or(Action::Done, Action::After);
        if owner.min_ready_seconds() > 0 && short {
            let next = active.iter().filter_map(|p| available_in(p, owner.min_ready_seconds(), now)).min();
            action = action.and(Action::After(next.unwrap_or(Duration::from_secs(1))));
        }
        Ok(action)
    }

    async fn claim(&self, owner: &Arc<R>) -> Result<Vec<Arc<Pod>>, Error> {
        let (namespace, uid) = (owner.namespace().unwrap_or_default(), owner.uid().unwrap_or_default());
        let wanted = owner.selector();
        let fits = |pod: &Arc<Pod>| selector::matches(&wanted, pod.metadata.labels.as_ref());
        let mut candidates: Vec<_> =
            self.ctx.pods.get(&format!("uid:{uid}")).into_iter().map(|p| (p.clone(), fits(&p))).collect();
        if !selector::is_empty(&wanted) {
            let orphans = self.ctx.pods.get(&format!("orphan:{namespace}"));
            candidates.extend(orphans.into_iter().filter(|p| is_active(p) && fits(p)).map(|p| (p, true)));
        }
        let claimer = Claimer {
            api: self.ctx.api::<Pod>(&namespace),
            kind: "Pod",
            owner: owner.meta(),
            reference: controller_ref(R::API_VERSION, R::KIND, owner.meta()),
            finalizers: &[],
        };
        claimer.claim(candidates, || self.is_there(&namespace, owner)).await
    }

    async fn is_there(&self, namespace: &str, owner: &Arc<R>) -> Result<bool, Error> {
        let name = owner.name_any();
        let live = self.ctx.api::<R>(namespace).get_opt(&name).await;
        let live = live.during("get", R::KIND, namespace, &name)?;
        Ok(live.is_some_and(|l| l.meta().uid == owner.meta().uid && l.meta().deletion_timestamp.is_none()))
    }

    /// Active pods per node of all owners that share this owner's controller.
    fn ranks(&self, owner: &Arc<R>) -> HashMap<String, usize> {
        let mut ranks = HashMap::new();
        let family = match controller_of(owner.meta()) {
            None => vec![owner.clone()],
            Some(parent) => {
                let siblings = self.owners.list_ns(&owner.namespace().unwrap_or_default());
                let ours = |o: &Arc<R>| controller_of(o.meta()).is_some_and(|c| c.uid == parent.uid);
                siblings.into_iter().filter(ours).collect()
            }
        };
        for member in family {
            for pod in self.ctx.pods.get(&format!("uid:{}", member.uid().unwrap_or_default())) {
                if is_active(&pod)
                    && let Some(node) = pods::node_name(&pod)
                {
                    *ranks.entry(node.to_owned()).or_insert(0) += 1;
                }
            }
        }
        ranks
    }

    async fn perform(&self, owner: &Arc<R>, uid: &str, plan: Plan) -> Result<(), Error> {
        if plan.create > 0 {
            self.create(owner, uid, plan.create).await
        } else {
            self.delete(owner, uid, plan.delete).await
        }
    }

    /// Creates in growing batches, so that a refusal (quota, admission) costs one request and not hundreds.
    async fn create(&self, owner: &Arc<R>, uid: &str, count: usize) -> Result<(), Error> {
        let Some(template) = owner.template() else { return Ok(()) };
        let namespace = owner.namespace().unwrap_or_default();
        let reference = controller_ref(R::API_VERSION, R::KIND, owner.meta());
        let pod = pod_from(template, &namespace, &owner.name_any(), reference);
        let api = self.ctx.api::<Pod>(&namespace);
        self.expectations.expect_creations(uid, count);
        let about = about(owner.as_ref());
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let results: Vec<_> = futures::stream::iter(0..size)
                .map(|_| async {
                    let made = api.create(&PostParams::default(), &pod).await;
                    made.during(
                        "create",
                        "Pod",
                        &namespace,
                        pod.metadata.generate_name.as_deref().unwrap_or_default(),
                    )
                })
                .buffer_unordered(32)
                .collect()
                .await;
            left -= size;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(made) => {
                        let note = format!("Created pod: {}", made.name_any());
                        self.ctx.event(&about, EventType::Normal, "SuccessfulCreate", &note);
                    }
                    Err(error) => {
                        self.expectations.created(uid);
                        if !error.is_namespace_terminating() {
                            let note = format!("Error creating: {}", error.message());
                            self.ctx.event(&about, EventType::Warning, "FailedCreate", &note);
                            failure.get_or_insert(error);
                        } else {
                            for _ in 0..left {
                                self.expectations.created(uid);
                            }
                            return Ok(());
                        }
                    }
                }
            }
            if let Some(error) = failure {
                for _ in 0..left {
                    self.expectations.created(uid);
                }
                return Err(error);
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, owner: &Arc<R>, uid: &str, doomed: Vec<(String, String)>) -> Result<(), Error> {
        let namespace = owner.namespace().unwrap_or_default();
        let api = self.ctx.api::<Pod>(&namespace);
        let about = about(owner.as_ref());
        for (_, pod_uid) in &doomed {
            self.expectations.expect_deletion(uid, pod_uid);
        }
        let api = &api;
        let namespace = &namespace;
        let results: Vec<_> = futures::stream::iter(doomed)
            .map(|(name, pod_uid)| async move {
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid: Some(pod_uid.clone()), resource_version: None }),
                    ..DeleteParams::default()
                };
                let result = api.delete(&name, &params).await.during("delete", "Pod", namespace, &name);
                (name, pod_uid, result.map(drop))
            })
            .buffer_unordered(32)
            .collect()
            .await;
        let mut errors = Vec::new();
        for (name, pod_uid, result) in results {
            match result {
                Ok(()) => {
                    let note = format!("Deleted pod: {name}");
                    self.ctx.event(&about, EventType::Normal, "SuccessfulDelete", &note);
                }
                Err(error) => {
                    self.expectations.deleted(uid, &pod_uid);
                    if !error.is_not_found() {
                        let note = format!("Error deleting: {}", error.message());
                        self.ctx.event(&about, EventType::Warning, "FailedDelete", &note);
                        errors.push(error);
                    }
                }
            }
        }
        Error::join(errors)
    }

    async fn write_status(&self, owner: &Arc<R>, status: Status) -> Result<(), Error> {
        let next = owner.with_status(&status);
        if next.status() == owner.status() {
            return Ok(());
        }
        let (namespace, name) = (owner.namespace().unwrap_or_default(), owner.name_any());
        let api = self.ctx.api::<R>(&namespace);
        match api.replace_status(&name, &PostParams::default(), &next).await.during(
            "update status of",
            R::KIND,
            &namespace,
            &name,
        ) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn about<R: Replicated>(owner: &R) -> ObjectReference {
    crate::context::reference(R::API_VERSION, R::KIND, owner.meta())
}
