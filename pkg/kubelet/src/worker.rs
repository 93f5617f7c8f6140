//! One task a pod: observe, report, decide, act, wait. Entry point: [`Worker::run`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod, PodStatus, Service};
use knarr_client::{informer::Store, recorder::Recorder};
use knarr_cri::Runtime;
use knarr_volumes::{SetUp, Source, Volumes};
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    KubeletConfig,
    allocation::Allocations,
    backoff::Backoff,
    cgroup::Tree,
    decide,
    fit::Refusal,
    observed::{Ended, Observed},
    own::Own,
    probes::Probes,
    refs::Refs,
    resize,
    resources::PodLimits,
    spec::{self, Role},
    status::{self, Inputs, Told, Waiting},
    status_writer::StatusWriter,
};

/// What all pods of a node share.
pub struct Node {
    pub(crate) config: KubeletConfig,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) volumes: Volumes,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) refs: Refs,
    pub(crate) recorder: Recorder,
    pub(crate) services: Arc<Store<Service>>,
    pub(crate) status: StatusWriter,
    pub(crate) cgroups: Tree,
    pub(crate) allocatable: BTreeMap<String, String>,
    pub(crate) memory_bytes: i64,
    /// Which pod a sandbox or container belongs to.
    pub(crate) owners: Mutex<HashMap<String, String>>,
    /// The node's own object.
    pub(crate) own: Own,
    /// What it has promised to pods.
    pub(crate) allocations: Allocations,
    pub(crate) shutdown: CancellationToken,
}

impl Node {
    /// Records an event about a pod or one of its containers.
    pub(crate) fn event(&self, pod: &Pod, container: Option<&str>, kind: &str, reason: &str, message: &str) {
        let mut reference = pod.object_ref(&());
        if let Some(name) = container {
            let units = spec::units(pod);
            let list = match units.iter().find(|u| u.container.name == name).map(|u| u.role) {
                Some(Role::Init | Role::Sidecar) => "initContainers",
                Some(Role::Ephemeral) => "ephemeralContainers",
                _ => "containers",
            };
            reference.field_path = Some(format!("spec.{list}{{{name}}}"));
        }
        self.recorder.event(&reference, kind, reason, message);
    }
}

/// What a worker is told.
#[derive(Clone)]
pub struct Update {
    /// The newest pod.
    pub pod: Arc<Pod>,
    /// The object is gone from the API: end everything and say nothing.
    pub gone: bool,
}

impl Update {
    pub(crate) fn ends(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// What others may see of a worker.
#[derive(Default)]
pub struct View {
    /// What was observed last.
    pub observed: Observed,
    /// What was reported last.
    pub status: PodStatus,
}

/// One pod's task.
pub struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) uid: String,
    pub(crate) updates: watch::Receiver<Update>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) view: Arc<Mutex<View>>,
    pub(crate) ended: Ended,
    pub(crate) probes: Probes,
    pub(crate) waiting: Waiting,
    pub(crate) backoff: Backoff,
    pub(crate) pulls: Backoff,
    pub(crate) pull_failures: HashMap<String, (Timestamp, String)>,
    pub(crate) volumes: Option<SetUp>,
    pub(crate) stale: Arc<AtomicBool>,
    /// The pod has run its course, or the node gave it up, with the reason.
    pub(crate) over: bool,
    /// Nothing of it is left but its object, and the last status says all.
    pub(crate) settled: bool,
    pub(crate) failed: Option<(String, String)>,
    /// Why the resources that are asked for are not promised: `Deferred` or `Infeasible`, and the message.
    pub(crate) resize_pending: Option<(&'static str, String)>,
    /// Why what is promised is not in force.
    pub(crate) resize_error: Option<String>,
    /// Held by a call to the runtime that is under way.
    pub(crate) calls: Arc<tokio::sync::Mutex<()>>,
    /// Policies are in force for its sandbox.
    pub(crate) isolated: bool,
    /// Phase, reason and message as they were told last, which a phase that is the last waits behind.
    pub(crate) told: Told,
    /// A resize was promised and its end is to be told.
    pub(crate) resizing: bool,
    /// What the pod's cgroup was given last, if that is known.
    pub(crate) limits: Option<PodLimits>,
    pub(crate) retry: Duration,
}

pub(crate) enum Next {
    /// Until something happens, or at the latest after this.
    Wait(Option<Duration>),
    /// Nothing is left to do, ever.
    Done,
}

const OVERDUE: &str = "Pod was active on the node longer than the specified deadline";
pub(crate) const RETRY: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

impl Worker {
    /// A worker for a pod.
    pub fn new(
        node: Arc<Node>,
        uid: String,
        updates: watch::Receiver<Update>,
        wake: Arc<Notify>,
        view: Arc<Mutex<View>>,
    ) -> Self {
        let status = updates.borrow().pod.status.clone().unwrap_or_default();
        let over = status::is_last(&status);
        let told = Told::of(&status);
        view.lock().status = status;
        Self {
            probes: Probes::new(wake.clone()),
            node,
            uid,
            updates,
            wake,
            view,
            ended: Ended::new(),
            waiting: Waiting::new(),
            backoff: Backoff::default(),
            pulls: Backoff::default(),
            pull_failures: HashMap::new(),
            volumes: None,
            stale: Arc::default(),
            settled: over,
            over,
            failed: None,
            resize_pending: None,
            resize_error: None,
            resizing: false,
            calls: Arc::default(),
            isolated: false,
            told,
            limits: None,
            retry: RETRY,
        }
    }

    /// Works until the pod is gone.
    pub async fn run(mut self) {
        loop {
            let update = self.updates.borrow_and_update().clone();
            let next = if update.ends() || self.over {
                self.end(&update).await
            } else {
                let mut updates = self.updates.clone();
                // What is under way (a pull, a hook) is given up as soon as the pod is to end.
                tokio::select! {
                    next = self.sync(&update.pod) => next,
                    _ = updates.wait_for(Update::ends) => continue,
                }
            };
            let Next::Wait(limit) = next else { return };
            let timer = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.updates.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Labels and annotations may be in a volume.
                    self.stale.store(true, Ordering::Release);
                }
                () = self.wake.notified() => {}
                () = timer => {}
                () = self.node.shutdown.cancelled() => return,
            }
        }
    }

    pub(crate) async fn observe(&mut self) -> Result<Observed, knarr_cri::Error> {
        let observed = Observed::of(&*self.node.runtime, &self.uid, &mut self.ended).await?;
        let ids = observed.sandboxes.iter().map(|s| &s.id).chain(observed.instances.iter().map(|i| &i.id));
        self.node.owners.lock().extend(ids.map(|id| (id.clone(), self.uid.clone())));
        self.view.lock().observed = observed.clone();
        Ok(observed)
    }

    /// Computes and reports the status; gives it.
    pub(crate) fn report(
        &mut self,
        pod: &Pod,
        observed: &Observed,
        terminating: bool,
        terminated: bool,
    ) -> PodStatus {
        let (health, ready) = self.probes.health(pod, observed);
        let inputs = Inputs {
            waiting: Some(&self.waiting),
            started: health.started,
            ready,
            host_ips: self.node.config.host_ips(),
            terminating,
            terminated,
            failed: self.failed.clone(),
            actuated: self.node.allocations.actuated(&self.uid),
            resize_pending: self.resize_pending.clone(),
            resize_error: self.resize_error.clone(),
        };
        let before = self.view.lock().status.clone();
        let status = status::compute(pod, observed, &inputs, &before, Timestamp::now());
        self.view.lock().status = status.clone();
        let told = self.told.held_back(&status, observed);
        self.told = Told::of(&told);
        if status::is_last(&told) {
            // Before anybody reads it: the scheduler gives its room away at once.
            self.node.allocations.release(&self.uid);
        }
        self.node.status.set(pod, told);
        status
    }

    pub(crate) fn failed_sync(&mut self, pod: &Pod, what: &str, error: &dyn std::fmt::Display) -> Next {
        tracing::warn!(pod = spec::title(pod), %error, "{what}");
        let wait = self.retry;
        self.retry = (self.retry * 2).min(RETRY_LONGEST);
        Next::Wait(Some(wait))
    }

    async fn sync(&mut self, pod: &Arc<Pod>) -> Next {
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => return self.failed_sync(pod, "observing", &error),
        };
        let node = self.node.clone();
        self.probes.keep(&node, pod, &observed);
        self.admit(pod, &observed).await;
        let pod = &self.resized(pod).await;
        if let Some(left) = self.deadline(pod)
            && left.is_zero()
        {
            self.failed = Some(("DeadlineExceeded".into(), OVERDUE.into()));
            node.event(pod, None, "Normal", "DeadlineExceeded", OVERDUE);
        }
        let status = self.report(pod, &observed, false, false);
        if status::is_last(&status) {
            self.over = true;
            self.wake.notify_one();
            return Next::Wait(None);
        }
        let (health, _) = self.probes.health(pod, &observed);
        let plan = decide::decide(pod, &observed, &health);
        let waited = match self.act(pod, &observed, plan).await {
            Ok(waited) => waited,
            Err((what, error)) => {
                self.report(pod, &observed, false, false);
                return self.failed_sync(pod, what, &error);
            }
        };
        self.retry = RETRY;
        match self.observe().await {
            Ok(now) => {
                self.probes.keep(&node, pod, &now);
                let status = self.report(pod, &now, false, false);
                if status::is_last(&status) {
                    self.over = true;
                    self.wake.notify_one();
                } else if waited.is_none() && now != observed {
                    // A container may have ended, or an init container come up, while we acted.
                    let (health, _) = self.probes.health(pod, &now);
                    if decide::decide(pod, &now, &health) != decide::Plan::default() {
                        self.wake.notify_one();
                    }
                }
            }
            Err(error) => return self.failed_sync(pod, "observing", &error),
        }
        let refresh = self
            .volumes
            .as_ref()
            .and_then(|v| v.refresh_at)
            .map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        let deferred = self.resize_pending.as_ref().map(|_| resize::DEFERRED);
        Next::Wait([waited, refresh, deferred, self.deadline(pod)].into_iter().flatten().min())
    }

    /// Takes the pod on, or refuses for good what this node does not allow or has no room for.
    async fn admit(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let node = self.node.clone();
        if self.failed.is_some() || node.allocations.has(&self.uid) {
            return;
        }
        if !observed.sandboxes.is_empty() {
            node.allocations.take(pod);
            return;
        }
        let refusal = match spec::forbidden_sysctl(pod) {
            Some(name) => Some(Refusal {
                reason: "SysctlForbidden".to_owned(),
                message: format!("forbidden sysctl: {name:?} not allowlisted"),
            }),
            None => self.fit(pod).await.err(),
        };
        if let Some(Refusal { reason, message }) = refusal {
            node.event(pod, None, "Warning", &reason, &message);
            self.failed = Some((reason, format!("Pod was rejected: {message}")));
        }
    }

    async fn fit(&self, pod: &Arc<Pod>) -> Result<(), Refusal> {
        let node = &self.node;
        node.allocations.ready().await;
        match node.allocations.admit(pod, &*node.own.get().await) {
            // The pod may have come faster than the label that it selects.
            Err(refusal) if refusal.is_affinity() => {
                let api: kube::Api<NodeObject> = kube::Api::all(node.client.clone());
                match api.get(&node.config.node_name).await {
                    Ok(fresh) => node.allocations.admit(pod, &fresh),
                    Err(_) => Err(refusal),
                }
            }
            judged => judged,
        }
    }

    /// What is left of the pod's active deadline.
    fn deadline(&self, pod: &Pod) -> Option<Duration> {
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let start = self.view.lock().status.start_time.clone()?;
        let end = start.0.as_second().saturating_add(seconds);
        let left = end.saturating_sub(Timestamp::now().as_second());
        Some(Duration::from_secs(u64::try_from(left).unwrap_or_default()))
    }

    /// Carries out the plan. Gives how long to wait before the next attempt, if something is held back.
    async fn act(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        mut plan: decide::Plan,
    ) -> Result<Option<Duration>, (&'static str, String)> {
        if plan.kill_pod && plan.create_sandbox.is_none() {
            return Ok(None);
        }
        let mut held = if plan.kill_pod { None } else { self.actuate(pod, observed, &mut plan).await };
        if plan.kill_pod {
            self.kill_all(pod, observed, None).await.map_err(|e| ("ending the pod's old containers", e))?;
        }
        for kill in &plan.kill {
            let unit = spec::units(pod).into_iter().find(|u| u.container.name == kill.name);
            let grace = self.grace_of(pod, unit.as_ref().map(|u| &u.container), &kill.message);
            self.kill(pod, unit.map(|u| u.container), &kill.id, &kill.name, grace, &kill.message)
                .await
                .map_err(|e| ("ending a container", e))?;
        }
        let refresh_due =
            self.volumes.as_ref().and_then(|v| v.refresh_at).is_some_and(|at| at <= Timestamp::now());
        if !plan.start.is_empty()
            || plan.create_sandbox.is_some()
            || self.volumes.is_none()
            || refresh_due
            || self.stale.swap(false, Ordering::AcqRel)
        {
            self.set_up_volumes(pod).await?;
        }
        let sandbox = match plan.create_sandbox {
            Some(attempt) => self.create_sandbox(pod, attempt).await?,
            None => match observed.sandboxes.first() {
                Some(sandbox) => sandbox.id.clone(),
                None => return Ok(held),
            },
        };
        let fresh = if plan.create_sandbox.is_some() || !plan.kill.is_empty() {
            let fresh = self.observe().await.map_err(|e| ("observing", e.to_string()))?;
            self.report(pod, &fresh, false, false);
            fresh
        } else {
            observed.clone()
        };
        // Once at least for a pod that was taken over from the run before.
        if !plan.start.is_empty() || !self.isolated {
            self.isolate(pod, &fresh).await?;
        }
        for name in &plan.start {
            if let Some(wait) = self.start(pod, &fresh, &sandbox, name).await {
                held = Some(held.map_or(wait, |h| h.min(wait)));
            }
        }
        Ok(held)
    }

    async fn set_up_volumes(&mut self, pod: &Arc<Pod>) -> Result<(), (&'static str, String)> {
        let node = self.node.clone();
        if self.volumes.is_none() {
            // Before the first attempt, so that what is missing is noticed when it comes.
            node.refs.add(pod, &self.stale, &self.wake);
        }
        match node.volumes.set_up(pod, &node.allocatable).await {
            Ok(set_up) => {
                self.volumes = Some(set_up);
                Ok(())
            }
            Err(errors) => {
                for error in &errors {
                    node.event(pod, None, "Warning", "FailedMount", &error.to_string());
                }
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(("setting up volumes", all.join("; ")))
            }
        }
    }
}
