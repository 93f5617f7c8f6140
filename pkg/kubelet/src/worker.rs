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
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Service};
use knarr_client::{informer::Store, recorder::Recorder};
use knarr_cri::Runtime;
use knarr_volumes::{SetUp, Source, Volumes};
use kube::Resource;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    KubeletConfig,
    backoff::Backoff,
    cgroup::Tree,
    container, decide, hooks,
    observed::{Ended, Observed, State},
    probes::Probes,
    refs::Refs,
    resources,
    spec::{self, Role},
    status::{self, Inputs, Waiting},
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
    fn ends(&self) -> bool {
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
    pub(crate) failed: Option<(String, String)>,
    pub(crate) retry: Duration,
}

pub(crate) enum Next {
    /// Until something happens, or at the latest after this.
    Wait(Option<Duration>),
    /// Nothing is left to do, ever.
    Done,
}

const RETRY: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

impl Worker {
    /// A worker for a pod.
    pub fn new(node: Arc<Node>, uid: String, updates: watch::Receiver<Update>, wake: Arc<Notify>, view: Arc<Mutex<View>>) -> Self {
        let status = updates.borrow().pod.status.clone().unwrap_or_default();
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
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
            over,
            failed: None,
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
                changed = self.updates.changed() => if changed.is_err() { return },
                () = self.wake.notified() => {}
                () = timer => {}
                () = self.node.shutdown.cancelled() => return,
            }
        }
    }

    async fn observe(&mut self) -> Result<Observed, knarr_cri::Error> {
        let observed = Observed::of(&*self.node.runtime, &self.uid, &mut self.ended).await?;
        let ids = observed.sandboxes.iter().map(|s| &s.id).chain(observed.instances.iter().map(|i| &i.id));
        self.node.owners.lock().extend(ids.map(|id| (id.clone(), self.uid.clone())));
        self.view.lock().observed = observed.clone();
        Ok(observed)
    }

    /// Computes and reports the status; gives it.
    pub(crate) fn report(&self, pod: &Pod, observed: &Observed, terminating: bool, terminated: bool) -> PodStatus {
        let (health, ready) = self.probes.health(pod, observed);
        let inputs = Inputs {
            waiting: Some(&self.waiting),
            started: health.started,
            ready,
            host_ips: self.node.config.host_ips(),
            terminating,
            terminated,
            failed: self.failed.clone(),
        };
        let before = self.view.lock().status.clone();
        let status = status::compute(pod, observed, &inputs, &before, Timestamp::now());
        self.view.lock().status = status.clone();
        self.node.status.set(pod, status.clone());
        status
    }

    fn failed_sync(&mut self, pod: &Pod, what: &str, error: &dyn std::fmt::Display) -> Next {
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
        if let Some(left) = self.deadline(pod) {
            if left.is_zero() {
                self.failed = Some(("DeadlineExceeded".into(), "Pod was active on the node longer than the specified deadline".into()));
                node.event(pod, None, "Normal", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
            }
        }
        let status = self.report(pod, &observed, false, false);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
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
                if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
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
        let refresh = self.volumes.as_ref().and_then(|v| v.refresh_at).map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        Next::Wait([waited, refresh, self.deadline(pod)].into_iter().flatten().min())
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
    async fn act(&mut self, pod: &Arc<Pod>, observed: &Observed, plan: decide::Plan) -> Result<Option<Duration>, (&'static str, String)> {
        if plan.kill_pod && plan.create_sandbox.is_none() {
            return Ok(None);
        }
        if plan.kill_pod {
            self.kill_all(pod, observed, None).await.map_err(|e| ("ending the pod's old containers", e))?;
        }
        for kill in &plan.kill {
            let unit = spec::units(pod).into_iter().find(|u| u.container.name == kill.name);
            let grace = self.grace_of(pod, unit.as_ref().map(|u| &u.container), &kill.message);
            self.kill(pod, unit.map(|u| u.container), &kill.id, &kill.name, grace, &kill.message).await.map_err(|e| ("ending a container", e))?;
        }
        let refresh_due = self.volumes.as_ref().and_then(|v| v.refresh_at).is_some_and(|at| at <= Timestamp::now());
        if !plan.start.is_empty() || plan.create_sandbox.is_some() || self.volumes.is_none() || refresh_due || self.stale.swap(false, Ordering::AcqRel) {
            self.set_up_volumes(pod).await?;
        }
        let sandbox = match plan.create_sandbox {
            Some(attempt) => self.create_sandbox(pod, attempt).await?,
            None => match observed.sandboxes.first() {
                Some(sandbox) => sandbox.id.clone(),
                None => return Ok(None),
            },
        };
        let mut held: Option<Duration> = None;
        let fresh = if plan.create_sandbox.is_some() || !plan.kill.is_empty() {
            let fresh = self.observe().await.map_err(|e| ("observing", e.to_string()))?;
            self.report(pod, &fresh, false, false);
            fresh
        } else {
            observed.clone()
        };
        for name in &plan.start {
            if let Some(wait) = self.start(pod, &fresh, &sandbox, name).await {
                held = Some(held.map_or(wait, |h| h.min(wait)));
            }
        }
        Ok(held)
    }

    async fn set_up_volumes(&mut self, pod: &Arc<Pod>) -> Result<(), (&'static str, String)> {
        let node = self.node.clone();
        match node.volumes.set_up(pod, &node.allocatable).await {
            Ok(set_up) => {
                if self.volumes.is_none() {
                    node.refs.add(pod, &self.stale, &self.wake);
                }
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

    async fn create_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32) -> Result<String, (&'static str, String)> {
        let node = self.node.clone();
        let failed = |message: String| {
            let text = format!("Failed to create pod sandbox: {message}");
            node.event(pod, None, "Warning", "FailedCreatePodSandBox", &text);
            ("creating the sandbox", message)
        };
        let path = resources::cgroup(pod, &node.config.cgroup_root);
        node.cgroups.ensure(&path, &resources::of_pod(pod)).map_err(|e| failed(format!("cgroup {path}: {e}")))?;
        let logs = container::log_dir(&node.config, pod);
        std::fs::create_dir_all(&logs).map_err(|e| failed(format!("{}: {e}", logs.display())))?;
        let config = container::sandbox(pod, attempt, &node.config);
        let handler = "";
        if let Some(class) = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|c| !c.is_empty()) {
            return Err(failed(format!("runtimeClassName {class:?} is not supported by this node yet")));
        }
        let id = node.runtime.run_pod_sandbox(config, handler).await.map_err(|e| failed(e.to_string()))?;
        node.owners.lock().insert(id.clone(), self.uid.clone());
        Ok(id)
    }

    /// How long a container may take to end.
    fn grace_of(&self, pod: &Pod, container: Option<&Container>, message: &str) -> i64 {
        let own = container.and_then(|c| {
            let probe = if message.contains(" startup probe") { &c.startup_probe } else { &c.liveness_probe };
            probe.as_ref().filter(|_| message.contains(" probe")).and_then(|p| p.termination_grace_period_seconds)
        });
        own.or(pod.metadata.deletion_grace_period_seconds).or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds)).unwrap_or(30)
    }

    /// Hook, then signal, then force.
    async fn kill(&self, pod: &Pod, container: Option<Container>, id: &str, name: &str, grace: i64, message: &str) -> Result<(), String> {
        let mut left = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        self.node.event(pod, Some(name), "Normal", "Killing", message);
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
        if let (Some(handler), Some(container)) = (hook, container.as_ref()) {
            if !left.is_zero() {
                let began = tokio::time::Instant::now();
                let ip = self.view.lock().status.pod_ip.clone().unwrap_or_default();
                let run = hooks::run(handler, &*self.node.runtime, container, id, &ip, left);
                match tokio::time::timeout(left, run).await {
                    Ok(Err(error)) => self.node.event(pod, Some(name), "Warning", "FailedPreStopHook", &format!("PreStopHook failed: {error}")),
                    Ok(Ok(())) | Err(_) => {}
                }
                // However long the hook took, the process gets a moment after its signal.
                left = left.saturating_sub(began.elapsed()).max(Duration::from_secs(2));
            }
        }
        self.node.runtime.stop_container(id, left).await.map_err(|e| e.to_string())
    }

    /// Ends everything that runs: ordinary containers together, then sidecars backwards, then the sandboxes.
    async fn kill_all(&self, pod: &Pod, observed: &Observed, grace: Option<i64>) -> Result<(), String> {
        let units = spec::units(pod);
        let began = tokio::time::Instant::now();
        let find = |name: &str| units.iter().find(|u| u.container.name == name);
        let sidecar = |name: &str| find(name).is_some_and(|u| u.role == Role::Sidecar);
        let total = grace.unwrap_or_else(|| self.grace_of(pod, None, ""));
        let running: Vec<_> = observed.instances.iter().filter(|i| matches!(i.state, State::Running | State::Unknown)).collect();
        let ordinary = running.iter().filter(|i| !sidecar(&i.name)).map(|instance| {
            let container = find(&instance.name).map(|u| u.container.clone());
            async move { self.kill(pod, container, &instance.id, &instance.name, total, &format!("Stopping container {}", instance.name)).await }
        });
        let mut errors: Vec<String> = futures::future::join_all(ordinary).await.into_iter().filter_map(Result::err).collect();
        for unit in units.iter().rev().filter(|u| u.role == Role::Sidecar) {
            for instance in running.iter().filter(|i| i.name == unit.container.name) {
                let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
                let left = if total == 0 { 0 } else { (total - spent).max(2) };
                let message = format!("Stopping container {}", instance.name);
                errors.extend(self.kill(pod, Some(unit.container.clone()), &instance.id, &instance.name, left, &message).await.err());
            }
        }
        for sandbox in observed.sandboxes.iter().filter(|s| s.ready) {
            errors.extend(self.node.runtime.stop_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// The pod is to end, or has: stop, report, clean up, and remove the object.
    async fn end(&mut self, update: &Update) -> Next {
        let pod = &update.pod;
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => return self.failed_sync(pod, "observing", &error),
        };
        if observed.alive() {
            self.keep_readiness(pod, &observed);
            if !update.gone {
                self.report(pod, &observed, true, false);
            }
            let grace = pod.metadata.deletion_grace_period_seconds;
            let mut updates = self.updates.clone();
            let shorter = updates.wait_for(|u| u.pod.metadata.deletion_grace_period_seconds.unwrap_or(i64::MAX) < grace.unwrap_or(i64::MAX));
            let killed = tokio::select! {
                killed = self.kill_all(pod, &observed, None) => killed,
                // The user has lost patience: begin anew with the shorter time.
                Ok(_) = shorter => Ok(()),
            };
            if let Err(error) = killed {
                return self.failed_sync(pod, "ending the pod", &error);
            }
            self.wake.notify_one();
            return Next::Wait(None);
        }
        self.probes.clear();
        if !update.gone {
            self.report(pod, &observed, true, true);
        }
        if let Err(error) = self.clean_up(pod, &observed, update).await {
            return self.failed_sync(pod, "cleaning up after the pod", &error);
        }
        self.retry = RETRY;
        if update.gone {
            self.node.status.forget(&self.uid);
            return Next::Done;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.node.status.delete(pod);
        }
        Next::Wait(None)
    }

    /// While a pod ends only readiness still matters.
    fn keep_readiness(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let mut quiet = (**pod).clone();
        for container in quiet.spec.iter_mut().flat_map(|s| s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten())) {
            container.liveness_probe = None;
        }
        let node = self.node.clone();
        self.probes.keep(&node, &Arc::new(quiet), observed);
    }

    /// Gives back what the pod had. Containers stay for their logs until the object goes.
    async fn clean_up(&mut self, pod: &Pod, observed: &Observed, update: &Update) -> Result<(), String> {
        let node = self.node.clone();
        node.refs.remove(&self.uid);
        self.volumes = None;
        let mut errors = Vec::new();
        for sandbox in &observed.sandboxes {
            errors.extend(node.runtime.stop_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
            if update.ends() {
                errors.extend(node.runtime.remove_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
            }
        }
        if let Err(failures) = node.volumes.tear_down(&self.uid) {
            errors.extend(failures.iter().map(ToString::to_string));
        }
        // Of a pod that only the runtime knew the class is not known.
        for path in resources::all_cgroups(&self.uid, &node.config.cgroup_root) {
            errors.extend(node.cgroups.remove(&path).err().map(|e| format!("cgroup {path}: {e}")));
        }
        if update.ends() {
            let logs = container::log_dir(&node.config, pod);
            match std::fs::remove_dir_all(&logs) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => errors.push(format!("{}: {e}", logs.display())),
                _ => {}
            }
            node.owners.lock().retain(|_, uid| *uid != self.uid);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}
