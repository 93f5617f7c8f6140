//! StatefulSet: pods with a stable name, volume claims of their own and an order.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::claim::{Claimer, controller_ref};
use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::{During, Error};
use crate::pods::{self, controller_of, is_available, is_finished, is_ready};
use crate::revisions::{self, History, Owner, POD_LABEL};
use crate::selector;
use crate::template::pod_from;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "statefulset-controller",
    account: "statefulset-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const KIND: &str = "StatefulSet";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
const HASH: &str = "controller.kubernetes.io/hash";

type Key = (String, String);

fn ordinal(set: &str, pod: &str) -> Option<i32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() == Some("Parallel")
}

fn first_ordinal(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn partition(set: &StatefulSet) -> i32 {
    let rolling = set.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    rolling.and_then(|r| r.partition).unwrap_or(0)
}

/// The next thing to do; one at a time unless the set is parallel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Make the pod of this ordinal, from the newest template or the one before.
    Create { ordinal: i32, newest: bool },
    /// Delete a pod: it has ended, is too many, or is of an old revision.
    Delete { name: String },
}

/// What to do about these pods. `updated` tells whether a pod is of the newest revision.
fn decide(set: &StatefulSet, pods: &[Arc<Pod>], newest: &str, now: Timestamp) -> Vec<Step> {
    let name = set.name_any();
    let (first, count, parallel) = (first_ordinal(set), replicas(set), is_parallel(set));
    let of = |i: i32| pods.iter().find(|p| ordinal(&name, &p.name_any()) == Some(i));
    let healthy = |p: &Pod| {
        p.metadata.deletion_timestamp.is_none()
            && is_available(p, set.spec.min_ready_seconds.unwrap_or(0), now)
    };
    let mut steps = Vec::new();
    for i in first..first + count {
        let newest =
            i >= partition(set) || set.status.as_ref().and_then(|s| s.current_revision.as_ref()).is_none();
        match of(i) {
            None => steps.push(Step::Create { ordinal: i, newest }),
            Some(p) if is_finished(p) && p.metadata.deletion_timestamp.is_none() => {
                steps.push(Step::Delete { name: p.name_any() });
            }
            Some(p) if healthy(p) => continue,
            Some(_) => {}
        }
        if !parallel {
            // The next pod waits for this one.
            return steps;
        }
    }
    if !parallel && !steps.is_empty() {
        return steps;
    }
    let mut excess: Vec<_> = pods
        .iter()
        .filter_map(|p| Some((ordinal(&name, &p.name_any())?, p)))
        .filter(|(i, _)| *i < first || *i >= first + count)
        .collect();
    excess.sort_by_key(|(i, _)| std::cmp::Reverse(*i));
    let lowest_ill = excess.iter().rev().find(|(_, p)| !healthy(p)).map(|(i, _)| *i);
    for (i, pod) in excess {
        if !parallel && !healthy(pod) && lowest_ill != Some(i) {
            // An ill pod among those too many holds the others back, but not itself.
            return steps;
        }
        if pod.metadata.deletion_timestamp.is_none() {
            steps.push(Step::Delete { name: pod.name_any() });
        }
        if !parallel {
            return steps;
        }
    }
    let on_delete = set.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("OnDelete");
    if on_delete || !steps.is_empty() {
        return steps;
    }
    roll(set, &of, newest, &healthy)
}

/// Replaces pods of old revisions, the highest ordinal first, as many as may be unavailable.
fn roll<'a>(
    set: &StatefulSet,
    of: &dyn Fn(i32) -> Option<&'a Arc<Pod>>,
    newest: &str,
    healthy: &dyn Fn(&Pod) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let (first, count) = (first_ordinal(set), replicas(set));
    for i in (first.max(partition(set))..first + count).rev() {
        let Some(pod) = of(i) else { break };
        if pod.metadata.deletion_timestamp.is_some() {
            break;
        }
        if revision_of(pod) != newest {
            steps.push(Step::Delete { name: pod.name_any() });
            break;
        }
        if !healthy(pod) {
            break;
        }
    }
    steps
}

fn revision_of(pod: &Pod) -> String {
    pod.metadata.labels.as_ref().and_then(|l| l.get(POD_LABEL)).cloned().unwrap_or_default()
}

fn status_of(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    current: &str,
    newest: &str,
    now: Timestamp,
) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let number =
        |f: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
    let live = |p: &Pod| p.metadata.deletion_timestamp.is_none();
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: number(&|p| !is_finished(p)),
        ready_replicas: Some(number(&|p| is_ready(p))),
        available_replicas: Some(number(&|p| is_available(p, set.spec.min_ready_seconds.unwrap_or(0), now))),
        current_replicas: Some(number(&|p| live(p) && revision_of(p) == current)),
        updated_replicas: Some(number(&|p| live(p) && revision_of(p) == newest)),
        current_revision: Some(current.to_owned()),
        update_revision: Some(newest.to_owned()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    // The rollout has ended: what was new is current.
    if status.updated_replicas == Some(replicas(set))
        && status.replicas == replicas(set)
        && status.ready_replicas == Some(replicas(set))
        && status.current_revision != status.update_revision
    {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

fn claim_name(template: &PersistentVolumeClaim, set: &str, ordinal: i32) -> String {
    format!("{}-{set}-{ordinal}", template.name_any())
}

/// The pod of an ordinal.
fn pod_of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
    let owner = controller_ref("apps/v1", KIND, &set.metadata);
    let mut pod = pod_from(template, &namespace, &name, owner);
    let pod_name = format!("{name}-{ordinal}");
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(pod_name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), pod_name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(POD_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(pod_name);
    spec.subdomain = set.spec.service_name.clone().filter(|s| !s.is_empty());
    let claims: BTreeMap<String, String> = set
        .spec
        .volume_claim_templates
        .iter()
        .flatten()
        .map(|t| (t.name_any(), claim_name(t, &name, ordinal)))
        .collect();
    let volumes = spec.volumes.get_or_insert_default();
    volumes.retain(|v| !claims.contains_key(&v.name));
    volumes.extend(claims.into_iter().map(|(name, claim_name)| Volume {
        name,
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name,
            read_only: Some(false),
        }),
        ..Volume::default()
    }));
    pod
}

struct Sets {
    ctx: Arc<Ctx>,
    sets: Arc<Store<StatefulSet>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let sets = ctx.store::<StatefulSet>();
    {
        let queue = queue.clone();
        sets.on_event(move |event| {
            if let Event::Applied { new, .. } = event {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    {
        let queue = queue.clone();
        revisions::follow(&ctx, KIND, move |namespace, name| queue.add((namespace, name)));
    }
    {
        let queue = queue.clone();
        ctx.store::<Pod>().on_event(move |event| {
            let pod = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            if let Some(owner) = controller_of(&pod.metadata).filter(|o| o.kind == KIND) {
                queue.add((pod.namespace().unwrap_or_default(), owner.name.clone()));
            }
        });
    }
    sets.synced().await;
    ctx.store::<ControllerRevision>().synced().await;
    ctx.store::<Pod>().synced().await;
    let this = Arc::new(Sets { ctx: ctx.clone(), sets });
    work(ctx, queue, 5, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    })
    .await;
    Ok(())
}

impl Sets {
    async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let Some(set) = self.sets.get(&namespace, &name) else { return Ok(Action::Done) };
        let pods = self.claim(&set).await?;
        let owner = Owner {
            meta: &set.metadata,
            kind: KIND,
            selector: &set.spec.selector,
            template: &set.spec.template,
            collisions: set.status.as_ref().and_then(|s| s.collision_count),
            hash_label: HASH,
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let history = owner.history(&self.ctx, || self.is_there(&set)).await?;
        let newest = history.current.name_any();
        let known = set.status.as_ref().and_then(|s| s.current_revision.clone()).filter(|r| !r.is_empty());
        let current = known.unwrap_or_else(|| newest.clone());
        if history.collided {
            let mut status = status_of(&set, &pods, &current, &newest, Timestamp::now());
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.write(&set, status).await?;
            return Ok(Action::Backoff);
        }
        let now = Timestamp::now();
        let steps = decide(&set, &pods, &newest, now);
        let outcome = self.perform(&set, steps, &history, &current).await;
        self.write(&set, status_of(&set, &pods, &current, &newest, now)).await?;
        outcome?;
        let mut used: HashSet<String> = pods.iter().map(|p| revision_of(p)).collect();
        used.insert(current);
        owner.truncate(&self.ctx, &history, set.spec.revision_history_limit.unwrap_or(10), &used).await?;
        let minimum = set.spec.min_ready_seconds.unwrap_or(0);
        let next: Option<Duration> = pods.iter().filter_map(|p| pods::available_in(p, minimum, now)).min();
        Ok(next.map_or(Action::Done, Action::After))
    }

    async fn claim(&self, set: &Arc<StatefulSet>) -> Result<Vec<Arc<Pod>>, Error> {
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let fits = |p: &Pod| {
            ordinal(&name, &p.name_any()).is_some()
                && selector::matches(&set.spec.selector, p.metadata.labels.as_ref())
        };
        let own = self.ctx.pods.get(&format!("uid:{}", set.uid().unwrap_or_default()));
        let orphans = self.ctx.pods.get(&format!("orphan:{namespace}"));
        let orphans = orphans.into_iter().filter(|p| fits(p));
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

    async fn is_there(&self, set: &StatefulSet) -> Result<bool, Error> {
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let live = self.ctx.api::<StatefulSet>(&namespace).get_opt(&name).await;
        let live = live.during("get", KIND, &namespace, &name)?;
        Ok(live
            .is_some_and(|l| l.metadata.uid == set.metadata.uid && l.metadata.deletion_timestamp.is_none()))
    }

    async fn perform(
        &self,
        set: &StatefulSet,
        steps: Vec<Step>,
        history: &History,
        current: &str,
    ) -> Result<(), Error> {
        let mut errors = Vec::new();
        for step in steps {
            let result = match step {
                Step::Create { ordinal, newest } => self.create(set, ordinal, newest, history, current).await,
                Step::Delete { name } => self.delete(set, &name).await,
            };
            errors.extend(result.err());
        }
        Error::join(errors)
    }

    async fn create(
        &self,
        set: &StatefulSet,
        ordinal: i32,
        newest: bool,
        history: &History,
        current: &str,
    ) -> Result<(), Error> {
        let namespace = set.namespace().unwrap_or_default();
        let old = history.all.iter().find(|r| !newest && r.name_any() == current);
        let (template, revision) = match old {
            Some(revision) => (template_of(revision)?, current.to_owned()),
            None => (set.spec.template.clone(), history.current.name_any()),
        };
        let pod = pod_of(set, &template, &revision, ordinal);
        let name = pod.name_any();
        let about = reference("apps/v1", KIND, &set.metadata);
        let made = async {
            self.create_claims(set, ordinal).await?;
            let result = self.ctx.api::<Pod>(&namespace).create(&PostParams::default(), &pod).await;
            result.during("create", "Pod", &namespace, &name)
        };
        match made.await {
            Ok(_) => {
                let note = format!("create Pod {name} in StatefulSet {} successful", set.name_any());
                self.ctx.event(&about, EventType::Normal, "SuccessfulCreate", &note);
                Ok(())
            }
            // The cache lags behind; the event of the pod brings us back.
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let note = format!(
                    "create Pod {name} in StatefulSet {} failed error: {}",
                    set.name_any(),
                    error.message()
                );
                self.ctx.event(&about, EventType::Warning, "FailedCreate", &note);
                Err(error)
            }
        }
    }

    async fn create_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), Error> {
        let (namespace, set_name) = (set.namespace().unwrap_or_default(), set.name_any());
        let api = self.ctx.api::<PersistentVolumeClaim>(&namespace);
        for template in set.spec.volume_claim_templates.iter().flatten() {
            let name = claim_name(template, &set_name, ordinal);
            let mut claim = template.clone();
            claim.metadata.name = Some(name.clone());
            claim.metadata.namespace = Some(namespace.clone());
            claim.status = None;
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            let result = api.create(&PostParams::default(), &claim).await;
            match result.during("create", "PersistentVolumeClaim", &namespace, &name) {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &StatefulSet, name: &str) -> Result<(), Error> {
        let namespace = set.namespace().unwrap_or_default();
        let uid = self.ctx.store::<Pod>().get(&namespace, name).and_then(|p| p.uid());
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match self
            .ctx
            .api::<Pod>(&namespace)
            .delete(name, &params)
            .await
            .during("delete", "Pod", &namespace, name)
        {
            Ok(_) => {
                let about = reference("apps/v1", KIND, &set.metadata);
                let note = format!("delete Pod {name} in StatefulSet {} successful", set.name_any());
                self.ctx.event(&about, EventType::Normal, "SuccessfulDelete", &note);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        let mut next = set.clone();
        next.status = Some(status);
        let api = self.ctx.api::<StatefulSet>(&namespace);
        let result = api.replace_status(&name, &PostParams::default(), &next).await;
        match result.during("update status of", KIND, &namespace, &name) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// The template that a revision holds.
fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, Error> {
    let template = revision.data.0.get("spec").and_then(|s| s.get("template")).cloned().unwrap_or_default();
    serde_json::from_value(template).map_err(|e| Error::Object {
        kind: "ControllerRevision",
        name: revision.name_any(),
        reason: format!("data.spec.template: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    fn set(spec: Value) -> StatefulSet {
        let mut spec = spec;
        spec["selector"] = json!({});
        spec["template"] = json!({"spec": {"containers": []}});
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec, "status": {"replicas": 0, "currentRevision": "db-1"}})).unwrap()
    }

    fn member(i: i32, revision: &str, ready: bool) -> Arc<Pod> {
        let name = format!("db-{i}");
        Arc::new(pod(json!({
            "metadata": {"name": name, "labels": {POD_LABEL: revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })))
    }

    #[test]
    fn order() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let create = |i: i32| Step::Create { ordinal: i, newest: true };
        let delete = |i: i32| Step::Delete { name: format!("db-{i}") };
        let check = |spec: Value, pods: &[Arc<Pod>], expected: &[Step]| {
            assert_eq!(decide(&set(spec.clone()), pods, "db-1", now), expected, "{spec}");
        };
        check(json!({"replicas": 3}), &[], &[create(0)]);
        check(json!({"replicas": 3}), &[member(0, "db-1", false)], &[]);
        check(json!({"replicas": 3}), &[member(0, "db-1", true)], &[create(1)]);
        check(
            json!({"replicas": 3, "podManagementPolicy": "Parallel"}),
            &[member(1, "db-1", false)],
            &[create(0), create(2)],
        );
        check(
            json!({"replicas": 1}),
            &[member(0, "db-1", true), member(1, "db-1", true), member(2, "db-1", true)],
            &[delete(2)],
        );
        let ill: Vec<_> = (0..3).map(|i| member(i, "db-1", false)).collect();
        check(json!({"replicas": 0}), &ill, &[]);
        check(json!({"replicas": 0}), &ill[..1], &[delete(0)]);
        check(json!({"replicas": 0}), &[member(0, "db-1", false), member(1, "db-1", true)], &[delete(1)]);
        check(
            json!({"replicas": 0, "podManagementPolicy": "Parallel"}),
            &ill,
            &[delete(2), delete(1), delete(0)],
        );
        check(json!({"replicas": 2, "ordinals": {"start": 5}}), &[], &[create(5)]);
    }

    #[test]
    fn updates() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let delete = |i: i32| Step::Delete { name: format!("db-{i}") };
        let old: Vec<_> = (0..3).map(|i| member(i, "db-0", true)).collect();
        let plan = |spec: Value, pods: &[Arc<Pod>]| decide(&set(spec), pods, "db-1", now);
        assert_eq!(plan(json!({"replicas": 3}), &old), [delete(2)]);
        assert_eq!(plan(json!({"replicas": 3, "updateStrategy": {"type": "OnDelete"}}), &old), []);
        let half = [member(0, "db-0", true), member(1, "db-0", true), member(2, "db-1", true)];
        assert_eq!(plan(json!({"replicas": 3}), &half), [delete(1)]);
        let held = json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        assert_eq!(plan(held, &half), []);
    }

    #[test]
    fn names_and_claims() {
        assert_eq!(ordinal("db", "db-12"), Some(12));
        assert_eq!(ordinal("db", "db-x-1"), None);
        let s = set(
            json!({"serviceName": "db", "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
        );
        let p = pod_of(&s, &s.spec.template, "db-1", 2);
        assert_eq!(p.metadata.name.as_deref(), Some("db-2"));
        let volume = &p.spec.unwrap().volumes.unwrap()[0];
        assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-2");
    }
}
