//! Brings one deployment forward by one step per call.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use knarr_client::Store;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions, PropagationPolicy};

use super::Key;
use super::revision::{self, REVISION};
use super::rollout::{self, Resize, is_recreate, size, wanted};
use super::status;
use crate::claim::{Claimer, controller_ref};
use crate::context::{Action, Ctx, EventType, reference};
use crate::error::{During, Error};
use crate::pods::{is_active, is_finished};
use crate::selector;
use crate::template::{POD_TEMPLATE_HASH, hash, same, with_label};

const KIND: &str = "Deployment";
const API_VERSION: &str = "apps/v1";

/// Caches and client of the controller.
pub struct Rollouts {
    ctx: Arc<Ctx>,
    deployments: Arc<Store<Deployment>>,
    sets: Arc<Store<ReplicaSet>>,
}

/// The sets of one deployment.
struct Family {
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
}

impl Family {
    fn old(&self) -> Vec<&ReplicaSet> {
        self.old.iter().collect()
    }

    fn all(&self) -> Vec<&ReplicaSet> {
        self.old.iter().chain(&self.new).collect()
    }
}

/// Whether the step that was taken ends this reconcile: the change comes back as an event.
type Ended = bool;

impl Rollouts {
    /// On these caches.
    pub fn new(ctx: Arc<Ctx>, deployments: Arc<Store<Deployment>>, sets: Arc<Store<ReplicaSet>>) -> Self {
        Self { ctx, deployments, sets }
    }

    /// One look at one deployment.
    pub async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let Some(cached) = self.deployments.get(&namespace, &name) else { return Ok(Action::Done) };
        let mut d = Deployment::clone(&cached);
        let spec = d.spec.clone();
        if selector::is_empty(&spec.selector) {
            return self.refuse_everything(&d).await;
        }
        let sets = self.claim(&d).await?;
        let now = Timestamp::now();
        if d.metadata.deletion_timestamp.is_some() {
            let family = split(&d, sets);
            let next = status::counts(&d, &family.all(), family.new.as_ref(), now);
            return self.write_status(&mut d, next).await.map(|()| Action::Done);
        }
        if let Some(condition) = status::pause(&d, now) {
            let mut next = d.status.clone().unwrap_or_default();
            status::set_condition(&mut next, condition);
            self.write_status(&mut d, next).await?;
        }
        let mut family = split(&d, sets);
        if spec.paused == Some(true) || revision::is_scaled(&d, &family.all()) {
            return self.scale(&mut d, &mut family, spec.paused == Some(true)).await;
        }
        if is_recreate(&d) {
            self.recreate(&mut d, &mut family).await?;
        } else {
            self.roll(&mut d, &mut family).await?;
        }
        let now = Timestamp::now();
        let next = status::rollout(&d, &family.all(), family.new.as_ref(), now);
        self.write_status(&mut d, next.clone()).await?;
        Ok(status::look_again(&d, &next, now).map_or(Action::Done, Action::After))
    }

    async fn refuse_everything(&self, d: &Deployment) -> Result<Action, Error> {
        let note = "This deployment is selecting all pods. A non-empty selector is required.";
        let about = reference(API_VERSION, KIND, &d.metadata);
        self.ctx.event(&about, EventType::Warning, "SelectingAll", note);
        let mut d = d.clone();
        let mut next = d.status.clone().unwrap_or_default();
        next.observed_generation = d.metadata.generation;
        self.write_status(&mut d, next).await?;
        Ok(Action::Done)
    }

    async fn claim(&self, d: &Deployment) -> Result<Vec<ReplicaSet>, Error> {
        let (namespace, name) = (d.namespace().unwrap_or_default(), d.name_any());
        let spec = &d.spec;
        let candidates = self.sets.list_ns(&namespace).into_iter().map(|s| {
            let fits = selector::matches(&spec.selector, s.metadata.labels.as_ref());
            (s, fits)
        });
        let claimer = Claimer {
            api: self.ctx.api::<ReplicaSet>(&namespace),
            kind: "ReplicaSet",
            owner: &d.metadata,
            reference: controller_ref(API_VERSION, KIND, &d.metadata),
            finalizers: &[],
        };
        let owned = claimer
            .claim(candidates.collect(), || async {
                let live = self.ctx.api::<Deployment>(&namespace).get_opt(&name).await;
                let live = live.during("get", KIND, &namespace, &name)?;
                Ok(live.is_some_and(|l| {
                    l.metadata.uid == d.metadata.uid && l.metadata.deletion_timestamp.is_none()
                }))
            })
            .await?;
        Ok(owned.into_iter().map(|s| ReplicaSet::clone(&s)).collect())
    }

    /// After the deployment was scaled, or while it is paused.
    async fn scale(&self, d: &mut Deployment, family: &mut Family, paused: bool) -> Result<Action, Error> {
        self.sync_new(d, family, false).await?;
        let plan = rollout::scale(d, family.new.as_ref(), &family.old());
        self.apply(d, family, plan).await?;
        if paused {
            self.clean_up(d, family).await?;
        }
        let now = Timestamp::now();
        let next = status::counts(d, &family.all(), family.new.as_ref(), now);
        self.write_status(d, next.clone()).await?;
        Ok(status::look_again(d, &next, now).map_or(Action::Done, Action::After))
    }

    async fn roll(&self, d: &mut Deployment, family: &mut Family) -> Result<Ended, Error> {
        self.sync_new(d, family, true).await?;
        if let Some(new) = &family.new
            && let Some(step) = rollout::step_new(d, new, &family.all())
        {
            return self.apply(d, family, vec![step]).await;
        }
        let steps = rollout::step_old(d, family.new.as_ref(), &family.old());
        if !steps.is_empty() {
            return self.apply(d, family, steps).await;
        }
        self.clean_up_when_complete(d, family).await
    }

    async fn recreate(&self, d: &mut Deployment, family: &mut Family) -> Result<Ended, Error> {
        self.sync_new(d, family, false).await?;
        let active = family.old.iter().filter(|s| size(s) > 0);
        let steps: Vec<_> = active.map(|s| Resize { name: s.name_any(), to: 0 }).collect();
        if !steps.is_empty() {
            return self.apply(d, family, steps).await;
        }
        if self.old_pods_run(family) {
            return Ok(true);
        }
        if family.new.is_none() {
            self.sync_new(d, family, true).await?;
        }
        if let Some(new) = &family.new {
            let step = Resize { name: new.name_any(), to: wanted(d) };
            if self.apply(d, family, vec![step]).await? {
                return Ok(true);
            }
        }
        self.clean_up_when_complete(d, family).await
    }

    fn old_pods_run(&self, family: &Family) -> bool {
        let runs = |set: &ReplicaSet| {
            let pods = self.ctx.pods.get(&format!("uid:{}", set.uid().unwrap_or_default()));
            set.status.as_ref().is_some_and(|s| s.replicas > 0)
                || pods.iter().any(|p| is_active(p) || !is_finished(p))
        };
        family.old.iter().any(runs)
    }

    async fn clean_up_when_complete(&self, d: &Deployment, family: &Family) -> Result<Ended, Error> {
        let next = status::counts(d, &family.all(), family.new.as_ref(), Timestamp::now());
        if status::is_complete(d, &next) {
            self.clean_up(d, family).await?;
        }
        Ok(false)
    }

    async fn clean_up(&self, d: &Deployment, family: &Family) -> Result<(), Error> {
        let namespace = d.namespace().unwrap_or_default();
        let mut errors = Vec::new();
        for set in revision::outdated(d, &family.old()) {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                preconditions: Some(Preconditions { uid: set.uid(), resource_version: None }),
                ..DeleteParams::default()
            };
            let name = set.name_any();
            let result = self.ctx.api::<ReplicaSet>(&namespace).delete(&name, &params).await;
            match result.during("delete", "ReplicaSet", &namespace, &name) {
                Err(error) if !error.is_not_found() => errors.push(error),
                _ => {}
            }
        }
        Error::join(errors)
    }

    /// Finds the set of the present template and keeps its annotations; makes it if asked to.
    async fn sync_new(&self, d: &mut Deployment, family: &mut Family, create: bool) -> Result<(), Error> {
        let revision = revision::next_revision(&family.old());
        let (condition, number) = match &family.new {
            Some(set) => {
                let set = self.sync_existing(d, set.clone(), revision).await?;
                let message = format!("Found new replica set \"{}\"", set.name_any());
                let number = revision::revision_of(&set).to_string();
                family.new = Some(set);
                let known = d.status.as_ref().is_some_and(|s| status::condition(s, "Progressing").is_some());
                ((!known).then_some(("FoundNewReplicaSet", message)), number)
            }
            None if !create => return Ok(()),
            None => {
                let Some(set) = self.create_new(d, family, revision).await? else { return Ok(()) };
                let message = format!("Created new replica set \"{}\"", set.name_any());
                family.new = Some(set);
                (Some(("NewReplicaSetCreated", message)), revision.to_string())
            }
        };
        let mut next = d.status.clone().unwrap_or_default();
        if let (Some((reason, message)), Some(_)) = (condition, status::deadline(d)) {
            let condition = status::new_condition("Progressing", "True", reason, &message, Timestamp::now());
            status::set_condition(&mut next, condition);
        }
        let annotations = d.metadata.annotations.get_or_insert_with(BTreeMap::new);
        let renumbered = annotations.get(REVISION) != Some(&number);
        annotations.insert(REVISION.to_owned(), number);
        if renumbered || Some(&next) != d.status.as_ref() {
            self.replace_status(d, next).await?;
        }
        Ok(())
    }

    async fn sync_existing(
        &self,
        d: &Deployment,
        set: ReplicaSet,
        revision: i64,
    ) -> Result<ReplicaSet, Error> {
        let mut next = set.clone();
        let none = BTreeMap::new();
        let present = set.metadata.annotations.as_ref().unwrap_or(&none);
        next.metadata.annotations = Some(revision::annotations(d, Some(present), revision));
        let wanted = d.spec.min_ready_seconds.unwrap_or(0);
        if next.spec.min_ready_seconds.unwrap_or(0) != wanted {
            next.spec.min_ready_seconds = Some(wanted);
        }
        if next == set { Ok(set) } else { self.replace_set(&next).await }
    }

    async fn replace_set(&self, set: &ReplicaSet) -> Result<ReplicaSet, Error> {
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let result = self.ctx.api::<ReplicaSet>(&namespace).replace(&name, &PostParams::default(), set).await;
        result.during("update", "ReplicaSet", &namespace, &name)
    }

    async fn create_new(
        &self,
        d: &mut Deployment,
        family: &Family,
        revision: i64,
    ) -> Result<Option<ReplicaSet>, Error> {
        let total = family.old.iter().map(size).sum();
        let replicas = rollout::new_set_size(d, 0, total);
        let set = new_set(d, replicas, revision)?;
        let (namespace, name) = (d.namespace().unwrap_or_default(), set.name_any());
        let api = self.ctx.api::<ReplicaSet>(&namespace);
        let result =
            api.create(&PostParams::default(), &set).await.during("create", "ReplicaSet", &namespace, &name);
        match result {
            Ok(made) => {
                if replicas > 0 {
                    let note = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.note_scaling(d, &note);
                }
                Ok(Some(made))
            }
            Err(error) if error.is_already_exists() => self.resolve_collision(d, &set, error).await.map(Some),
            Err(error) if error.is_namespace_terminating() => Ok(None),
            Err(error) => {
                let note = format!("Failed to create new replica set \"{name}\": {}", error.message());
                let about = reference(API_VERSION, KIND, &d.metadata);
                self.ctx.event(&about, EventType::Warning, "ReplicaSetCreateError", &note);
                if status::deadline(d).is_some() {
                    let mut next = d.status.clone().unwrap_or_default();
                    let now = Timestamp::now();
                    let told =
                        status::new_condition("Progressing", "False", "ReplicaSetCreateError", &note, now);
                    status::set_condition(&mut next, told);
                    self.write_status(d, next).await?;
                }
                Err(error)
            }
        }
    }

    /// A set of that name is there: ours by a cache that lags, or a foreign one, so that another hash is needed.
    async fn resolve_collision(
        &self,
        d: &mut Deployment,
        set: &ReplicaSet,
        error: Error,
    ) -> Result<ReplicaSet, Error> {
        let (namespace, name) = (d.namespace().unwrap_or_default(), set.name_any());
        let live = self.ctx.api::<ReplicaSet>(&namespace).get(&name).await;
        let live = live.during("get", "ReplicaSet", &namespace, &name)?;
        let template = |s: &ReplicaSet| s.spec.template.clone().unwrap_or_default();
        let ours = crate::pods::controller_of(&live.metadata)
            .is_some_and(|o| Some(&o.uid) == d.metadata.uid.as_ref());
        if ours && same(&template(&live), &d.spec.template) {
            return Ok(live);
        }
        let mut next = d.status.clone().unwrap_or_default();
        next.collision_count = Some(next.collision_count.unwrap_or(0) + 1);
        self.write_status(d, next).await?;
        Err(error)
    }

    fn note_scaling(&self, d: &Deployment, note: &str) {
        let about = reference(API_VERSION, KIND, &d.metadata);
        self.ctx.event(&about, EventType::Normal, "ScalingReplicaSet", note);
    }

    /// Writes new sizes, with the annotations that tell what they were computed for. True when a size changed.
    async fn apply(&self, d: &Deployment, family: &mut Family, steps: Vec<Resize>) -> Result<Ended, Error> {
        let mut changed = false;
        for step in steps {
            let set = family.old.iter_mut().chain(family.new.as_mut()).find(|s| s.name_any() == step.name);
            let Some(set) = set else { continue };
            let (from, to) = (size(set), step.to);
            let mut next = set.clone();
            revision::set_sizes(d, next.metadata.annotations.get_or_insert_with(BTreeMap::new));
            next.spec.replicas = Some(to);
            if next == *set {
                continue;
            }
            *set = self.replace_set(&next).await?;
            if from != to {
                changed = true;
                let way = if to > from { "up" } else { "down" };
                self.note_scaling(d, &format!("Scaled {way} replica set {} from {from} to {to}", step.name));
            }
        }
        Ok(changed)
    }

    async fn write_status(&self, d: &mut Deployment, next: DeploymentStatus) -> Result<(), Error> {
        if normal(&next) == normal(&d.status.clone().unwrap_or_default()) {
            return Ok(());
        }
        self.replace_status(d, next).await
    }

    async fn replace_status(&self, d: &mut Deployment, next: DeploymentStatus) -> Result<(), Error> {
        let (namespace, name) = (d.namespace().unwrap_or_default(), d.name_any());
        d.status = Some(next);
        let api = self.ctx.api::<Deployment>(&namespace);
        let result = api.replace_status(&name, &PostParams::default(), d).await;
        match result.during("update status of", KIND, &namespace, &name) {
            Ok(written) => {
                *d = written;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Forms that mean the same, made equal.
fn normal(status: &DeploymentStatus) -> DeploymentStatus {
    let some = |n: Option<i32>| n.filter(|n| *n != 0);
    DeploymentStatus {
        replicas: some(status.replicas),
        updated_replicas: some(status.updated_replicas),
        ready_replicas: some(status.ready_replicas),
        available_replicas: some(status.available_replicas),
        unavailable_replicas: some(status.unavailable_replicas),
        terminating_replicas: some(status.terminating_replicas),
        conditions: status.conditions.clone().filter(|c| !c.is_empty()),
        ..status.clone()
    }
}

fn split(d: &Deployment, sets: Vec<ReplicaSet>) -> Family {
    let name = revision::find_new(d, &sets.iter().collect::<Vec<_>>()).map(ResourceExt::name_any);
    let (new, old): (Vec<_>, Vec<_>) = sets.into_iter().partition(|s| Some(s.name_any()) == name);
    Family { new: new.into_iter().next(), old }
}

fn new_set(d: &Deployment, replicas: i32, revision: i64) -> Result<ReplicaSet, Error> {
    let spec = &d.spec;
    let hash = hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count))?;
    let template = with_label(&spec.template, POD_TEMPLATE_HASH, &hash);
    let mut selector = spec.selector.clone();
    selector
        .match_labels
        .get_or_insert_with(BTreeMap::new)
        .insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    Ok(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", d.name_any())),
            namespace: d.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|m| m.labels.clone()),
            annotations: Some(revision::annotations(d, None, revision)),
            owner_references: Some(vec![controller_ref(API_VERSION, KIND, &d.metadata)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    })
}
