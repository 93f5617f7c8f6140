//! One look at one job.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, ObjectReference, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use knarr_client::Store;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;

use super::account::{Account, account, is_indexed, is_tracked};
use super::plan::{self, End, Plan, is_finished, is_true, set_condition};
use super::{FINALIZER, INDEX, Key};
use crate::claim::{Claimer, controller_ref};
use crate::context::{Action, Ctx, EventType, reference};
use crate::error::{During, Error};
use crate::expectations::Expectations;
use crate::pods::{self, controller_of};
use crate::selector;
use crate::template::pod_from;

const KIND: &str = "Job";
const API_VERSION: &str = "batch/v1";

/// Caches and client of the controller.
pub struct Runner {
    ctx: Arc<Ctx>,
    jobs: Arc<Store<Job>>,
    expectations: Arc<Expectations>,
    /// The version of each job (by uid) that our last write made.
    written: Mutex<HashMap<String, u64>>,
}

impl Runner {
    /// On these caches.
    pub fn new(ctx: Arc<Ctx>, jobs: Arc<Store<Job>>, expectations: Arc<Expectations>) -> Self {
        Self { ctx, jobs, expectations, written: Mutex::new(HashMap::new()) }
    }

    /// Whether the cached job is older than our last write. Its counters would then miss pods that have already
    /// lost their finalizer, and these would be run again.
    fn is_stale(&self, job: &Job) -> bool {
        let uid = job.uid().unwrap_or_default();
        let mut written = self.written.lock();
        match (written.get(&uid).copied(), version(job)) {
            (Some(ours), Some(cached)) if cached < ours => true,
            (Some(_), _) => {
                written.remove(&uid);
                false
            }
            _ => false,
        }
    }

    /// One look at one job.
    pub async fn reconcile(&self, (namespace, name): Key) -> Result<Action, Error> {
        let job = self.jobs.get(&namespace, &name);
        self.release_left(&namespace, &name, job.as_deref()).await?;
        let Some(job) = job else {
            return Ok(Action::Done);
        };
        let Some(spec) = job.spec.as_ref() else { return Ok(Action::Done) };
        if spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
            return Ok(Action::Done);
        }
        if self.is_stale(&job) {
            return Ok(Action::Backoff);
        }
        let uid = job.uid().unwrap_or_default();
        let pods = self.claim(&job).await?;
        if is_finished(&job) || job.metadata.deletion_timestamp.is_some() {
            // Nothing is counted any more: pods must not be held back by us.
            let held: Vec<_> = pods.into_iter().filter(|p| is_tracked(p) && !pods::is_active(p)).collect();
            self.release(&namespace, &held).await?;
            return Ok(Action::Done);
        }
        let waiting = self.expectations.wait(&uid);
        let mut job = Job::clone(&job);
        let now = Timestamp::now();
        self.start(&mut job, now);
        let ending = is_true(job.status.as_ref(), "FailureTarget")
            || is_true(job.status.as_ref(), "SuccessCriteriaMet");
        let sums = account(&job, &pods, ending);
        let mut status = JobStatus {
            conditions: job.status.as_ref().and_then(|s| s.conditions.clone()),
            ..sums.noted.clone()
        };
        status.start_time = job.status.as_ref().and_then(|s| s.start_time.clone());
        let end = self.told_end(&job).or_else(|| plan::end(&job, &pods, sums.succeeded, sums.failed, now));
        let mut action = Action::Done;
        let mut failure = None;
        match &end {
            Some(end) => {
                announce(&mut status, end, now);
                failure = self.delete_active(&job, &pods).await.err();
            }
            None if waiting.is_none() => match self.adjust(&job, &pods, &sums, now).await {
                Ok(next) => action = next,
                Err(error) => failure = Some(error),
            },
            None => action = waiting.map_or(Action::Done, Action::After),
        }
        self.suspend(&mut job, &mut status, end.is_some(), now);
        count(&mut status, &pods);
        let open = pods.iter().any(|p| !pods::is_finished(p));
        if let Some(end) = &end
            && !open
            && sums.release.is_empty()
            && !sums.more
            && is_settled(&status)
        {
            self.finish(&job, &mut status, end, now);
        }
        let changed = self.write(&mut job, status).await?;
        self.release(&namespace, &sums.release).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        if let Some(left) = plan::deadline_in(&job, now).filter(|_| end.is_none()) {
            action = action.and(Action::After(left));
        }
        // The events of our own writes bring us back; only what fitted nowhere needs another look at once.
        Ok(if sums.more && changed { Action::Backoff } else { action })
    }

    /// Pods of a job that is gone, or of another one of that name, are held by nobody.
    async fn release_left(&self, namespace: &str, name: &str, job: Option<&Job>) -> Result<(), Error> {
        let uid = job.and_then(|j| j.metadata.uid.as_deref());
        let mut left = self.ctx.pods.get(&format!("tracked:{namespace}/{name}"));
        left.retain(|p| controller_of(&p.metadata).map(|o| o.uid.as_str()) != uid);
        self.release(namespace, &left).await
    }

    /// The start time is set when the job first runs.
    fn start(&self, job: &mut Job, now: Timestamp) {
        let suspended = job.spec.as_ref().and_then(|s| s.suspend) == Some(true);
        let status = job.status.get_or_insert_default();
        if status.start_time.is_none() && !suspended {
            status.start_time = Some(Time(now));
        }
    }

    /// The end that was announced earlier.
    fn told_end(&self, job: &Job) -> Option<End> {
        let conditions = job.status.as_ref()?.conditions.as_ref()?;
        let told = |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        if told("SuccessCriteriaMet").is_some() {
            return Some(End::Complete);
        }
        match told("FailureTarget")?.reason.as_deref() {
            Some("DeadlineExceeded") => {
                Some(End::Failed("DeadlineExceeded", "Job was active longer than specified deadline"))
            }
            _ => Some(End::Failed("BackoffLimitExceeded", "Job has reached the specified backoff limit")),
        }
    }

    async fn claim(&self, job: &Arc<Job>) -> Result<Vec<Arc<Pod>>, Error> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let wanted = job.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let own = self.ctx.pods.get(&format!("uid:{}", job.uid().unwrap_or_default()));
        let mut candidates: Vec<_> = own.into_iter().map(|p| (p.clone(), fits(&wanted, &p))).collect();
        if !selector::is_empty(&wanted) {
            let orphans = self.ctx.pods.get(&format!("orphan:{namespace}"));
            candidates.extend(orphans.into_iter().filter(|p| fits(&wanted, p)).map(|p| (p, true)));
        }
        let claimer = Claimer {
            api: self.ctx.api::<Pod>(&namespace),
            kind: "Pod",
            owner: &job.metadata,
            reference: controller_ref(API_VERSION, KIND, &job.metadata),
            finalizers: &[FINALIZER],
        };
        claimer
            .claim(candidates, || async {
                let live = self.ctx.api::<Job>(&namespace).get_opt(&name).await;
                let live = live.during("get", KIND, &namespace, &name)?;
                Ok(live.is_some_and(|l| {
                    l.metadata.uid == job.metadata.uid && l.metadata.deletion_timestamp.is_none()
                }))
            })
            .await
    }

    async fn adjust(
        &self,
        job: &Job,
        pods: &[Arc<Pod>],
        sums: &Account,
        now: Timestamp,
    ) -> Result<Action, Error> {
        let plan = plan::decide(job, pods, sums.succeeded, &sums.completed);
        let Plan { mut create, delete } = plan;
        let mut action = Action::Done;
        if !create.is_empty()
            && let Some(wait) = plan::backoff_in(job, pods, now)
        {
            create.clear();
            action = Action::After(wait);
        }
        self.delete(job, &delete).await?;
        self.create(job, create).await?;
        Ok(action)
    }

    /// Events and condition of suspension.
    fn suspend(&self, job: &mut Job, status: &mut JobStatus, ended: bool, now: Timestamp) {
        if ended {
            return;
        }
        let suspended = job.spec.as_ref().and_then(|s| s.suspend) == Some(true);
        let about = reference(API_VERSION, KIND, &job.metadata);
        if suspended {
            if set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
                self.ctx.event(&about, EventType::Normal, "Suspended", "Job suspended");
            }
            status.start_time = None;
        } else if set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now) {
            self.ctx.event(&about, EventType::Normal, "Resumed", "Job resumed");
            status.start_time = Some(Time(now));
        }
    }

    fn finish(&self, job: &Job, status: &mut JobStatus, end: &End, now: Timestamp) {
        let about = reference(API_VERSION, KIND, &job.metadata);
        match end {
            End::Complete => {
                set_condition(status, "Complete", "True", REACHED.0, REACHED.1, now);
                status.completion_time = Some(Time(now));
                self.ctx.event(&about, EventType::Normal, "Completed", "Job completed");
            }
            End::Failed(reason, message) => {
                set_condition(status, "Failed", "True", reason, message, now);
                self.ctx.event(&about, EventType::Warning, reason, message);
            }
        }
    }

    async fn write(&self, job: &mut Job, status: JobStatus) -> Result<bool, Error> {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let known = self.jobs.get(&namespace, &name).and_then(|j| j.status.clone()).unwrap_or_default();
        if normal(&known) == normal(&status) {
            return Ok(false);
        }
        job.status = Some(status);
        let result = self.ctx.api::<Job>(&namespace).replace_status(&name, &PostParams::default(), job).await;
        match result.during("update status of", KIND, &namespace, &name) {
            Ok(written) => {
                if let Some(version) = version(&written) {
                    self.written.lock().insert(written.uid().unwrap_or_default(), version);
                }
                *job = written;
                Ok(true)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the finalizer off pods that are noted in the written status.
    async fn release(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let api = self.ctx.api::<Pod>(namespace);
        let results: Vec<_> = futures::stream::iter(pods.to_vec())
            .map(|pod| {
                let api = api.clone();
                async move { drop_finalizer(&api, namespace, &pod).await }
            })
            .buffer_unordered(16)
            .collect()
            .await;
        Error::join(results.into_iter().filter_map(Result::err).collect())
    }

    async fn delete_active(&self, job: &Job, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let namespace = job.namespace().unwrap_or_default();
        let api = self.ctx.api::<Pod>(&namespace);
        let mut errors = Vec::new();
        for pod in pods.iter().filter(|p| pods::is_active(p)) {
            errors.extend(delete_pod(&api, &namespace, pod).await.err());
        }
        Error::join(errors)
    }

    /// Pods too many: they count neither as succeeded nor as failed, so the finalizer goes first.
    async fn delete(&self, job: &Job, doomed: &[Arc<Pod>]) -> Result<(), Error> {
        let namespace = job.namespace().unwrap_or_default();
        let api = self.ctx.api::<Pod>(&namespace);
        let (about, uid) = (reference(API_VERSION, KIND, &job.metadata), job.uid().unwrap_or_default());
        let mut errors = Vec::new();
        for pod in doomed {
            let pod_uid = pod.uid().unwrap_or_default();
            self.expectations.expect_deletion(&uid, &pod_uid);
            let done = async {
                drop_finalizer(&api, &namespace, pod).await?;
                delete_pod(&api, &namespace, pod).await
            };
            match done.await {
                Ok(()) => {
                    let note = format!("Deleted pod: {}", pod.name_any());
                    self.ctx.event(&about, EventType::Normal, "SuccessfulDelete", &note);
                }
                Err(error) => {
                    self.expectations.deleted(&uid, &pod_uid);
                    let note = format!("Error deleting: {}", error.message());
                    self.ctx.event(&about, EventType::Warning, "FailedDelete", &note);
                    errors.push(error);
                }
            }
        }
        Error::join(errors)
    }

    async fn create(&self, job: &Job, wanted: Vec<Option<i32>>) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (namespace, uid) = (job.namespace().unwrap_or_default(), job.uid().unwrap_or_default());
        let about = reference(API_VERSION, KIND, &job.metadata);
        let api = self.ctx.api::<Pod>(&namespace);
        self.expectations.expect_creations(&uid, wanted.len());
        let (mut rest, mut batch) = (wanted.as_slice(), 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            rest = later;
            let results: Vec<_> = futures::stream::iter(now.to_vec())
                .map(|index| {
                    let (api, pod) = (api.clone(), pod_of(job, &namespace, index));
                    async move { create_pod(&api, pod).await }
                })
                .buffer_unordered(16)
                .collect()
                .await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(name) => {
                        let note = format!("Created pod: {name}");
                        self.ctx.event(&about, EventType::Normal, "SuccessfulCreate", &note);
                    }
                    Err(error) => {
                        self.expectations.created(&uid);
                        self.tell_failure(&about, &error);
                        failure.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failure {
                for _ in rest {
                    self.expectations.created(&uid);
                }
                return if error.is_namespace_terminating() { Ok(()) } else { Err(error) };
            }
            batch *= 2;
        }
        Ok(())
    }

    fn tell_failure(&self, about: &ObjectReference, error: &Error) {
        if !error.is_namespace_terminating() {
            let note = format!("Error creating: {}", error.message());
            self.ctx.event(about, EventType::Warning, "FailedCreate", &note);
        }
    }
}

const REACHED: (&str, &str) = ("CompletionsReached", "Reached expected number of succeeded pods");

fn fits(wanted: &LabelSelector, pod: &Pod) -> bool {
    selector::matches(wanted, pod.metadata.labels.as_ref())
}

/// Tells how the job will end before its last pods are gone.
fn announce(status: &mut JobStatus, end: &End, now: Timestamp) {
    match end {
        End::Complete => set_condition(status, "SuccessCriteriaMet", "True", REACHED.0, REACHED.1, now),
        End::Failed(reason, message) => set_condition(status, "FailureTarget", "True", reason, message, now),
    };
}

fn count(status: &mut JobStatus, pods: &[Arc<Pod>]) {
    let number =
        |f: &dyn Fn(&Pod) -> bool| i32::try_from(pods.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX);
    status.active = Some(number(&pods::is_active)).filter(|n| *n != 0);
    status.ready = Some(number(&|p| pods::is_active(p) && pods::is_ready(p)));
    status.terminating = Some(number(&pods::is_terminating));
}

/// Whether every terminated pod is in the counters.
fn is_settled(status: &JobStatus) -> bool {
    status.uncounted_terminated_pods.as_ref().is_none_or(|u| u.succeeded.is_none() && u.failed.is_none())
}

/// The object's version as a number, as it can be compared since Kubernetes 1.35.
fn version(job: &Job) -> Option<u64> {
    job.metadata.resource_version.as_deref()?.parse().ok()
}

/// Forms that mean the same, made equal.
fn normal(status: &JobStatus) -> JobStatus {
    let mut status = status.clone();
    for number in [&mut status.active, &mut status.failed, &mut status.succeeded] {
        *number = number.filter(|n| *n != 0);
    }
    status.ready = Some(status.ready.unwrap_or(0));
    status.terminating = Some(status.terminating.unwrap_or(0));
    status.conditions = status.conditions.filter(|c| !c.is_empty());
    status.completed_indexes = status.completed_indexes.filter(|t| !t.is_empty());
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    uncounted.succeeded = uncounted.succeeded.take().filter(|u| !u.is_empty());
    uncounted.failed = uncounted.failed.take().filter(|u| !u.is_empty());
    status
}

async fn drop_finalizer(api: &Api<Pod>, namespace: &str, pod: &Pod) -> Result<(), Error> {
    if !is_tracked(pod) {
        return Ok(());
    }
    let name = pod.name_any();
    let patch = json!({"metadata": {
        "uid": pod.metadata.uid,
        "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    }});
    let result = api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    match result.during("patch", "Pod", namespace, &name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn delete_pod(api: &Api<Pod>, namespace: &str, pod: &Pod) -> Result<(), Error> {
    let name = pod.name_any();
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &params).await.during("delete", "Pod", namespace, &name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn create_pod(api: &Api<Pod>, pod: Pod) -> Result<String, Error> {
    let name = pod.metadata.generate_name.clone().unwrap_or_default();
    let namespace = pod.namespace().unwrap_or_default();
    let made = api.create(&PostParams::default(), &pod).await.during("create", "Pod", &namespace, &name)?;
    Ok(made.name_any())
}

fn pod_of(job: &Job, namespace: &str, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let owner = controller_ref(API_VERSION, KIND, &job.metadata);
    let mut pod = pod_from(&template, namespace, &job.name_any(), owner);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    if let Some(index) = index.filter(|_| is_indexed(job)) {
        let text = index.to_string();
        pod.metadata.generate_name = Some(format!("{}-{index}-", job.name_any()));
        pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
        pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
        if let Some(spec) = pod.spec.as_mut() {
            spec.hostname = Some(format!("{}-{index}", job.name_any()));
            let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            containers.for_each(add_index_variable);
        }
    }
    pod
}

fn add_index_variable(container: &mut Container) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|e| e.name == NAME) {
        return;
    }
    env.push(EnvVar {
        name: NAME.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}
