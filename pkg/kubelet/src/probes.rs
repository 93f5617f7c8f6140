//! Probes: one task for each probe of each running instance. Entry point: [`Probes::keep`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    decide::Health,
    hooks,
    observed::{Observed, State},
    spec,
    worker::Node,
};

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Holds the others back until it succeeds.
    Startup,
    /// Decides over life.
    Liveness,
    /// Decides over traffic.
    Readiness,
}

impl Kind {
    fn lower(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The state of one probe: the verdict, and how often in a row the newest outcome came. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What counts now.
    pub good: bool,
    row: (bool, i32),
}

impl Verdict {
    /// Before the first probe: liveness is assumed, the rest is not.
    pub fn initial(kind: Kind) -> Self {
        Self { good: kind == Kind::Liveness, row: (true, 0) }
    }

    /// After another outcome. Also says whether the threshold of failures was reached just now or before.
    pub fn after(self, good: bool, probe: &Probe) -> (Self, bool) {
        let count = if self.row.0 == good { self.row.1.saturating_add(1) } else { 1 };
        let needed =
            if good { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        let reached = count >= needed.max(1);
        (Self { good: if reached { good } else { self.good }, row: (good, count) }, reached && !good)
    }
}

type Results = Arc<Mutex<HashMap<(String, Kind), (bool, bool)>>>;

/// The probes of one pod.
pub struct Probes {
    /// By instance and kind: verdict, and whether the failure threshold was reached.
    results: Results,
    tasks: HashMap<(String, Kind), AbortOnDropHandle<()>>,
    wake: Arc<Notify>,
}

impl Probes {
    /// No probes yet; changed verdicts call `wake`.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { results: Results::default(), tasks: HashMap::new(), wake }
    }

    /// Ends all probes.
    pub fn clear(&mut self) {
        self.tasks.clear();
    }

    /// Has exactly the probes of the running instances run.
    pub fn keep(&mut self, node: &Arc<Node>, pod: &Arc<Pod>, observed: &Observed) {
        let mut wanted = HashSet::new();
        let ip = match observed.sandbox() {
            Some(s) if s.host_network => node.config.host_ips().first().cloned().unwrap_or_default(),
            Some(s) => s.ips.first().cloned().unwrap_or_default(),
            None => String::new(),
        };
        for unit in spec::units(pod) {
            let Some(instance) = observed.newest(&unit.container.name).filter(|i| i.state == State::Running)
            else {
                continue;
            };
            self.adopt(pod, &instance.id);
            let started = unit.container.startup_probe.is_none()
                || self.verdict(&instance.id, Kind::Startup) == Some(true);
            let all = [
                (Kind::Startup, &unit.container.startup_probe),
                (Kind::Liveness, &unit.container.liveness_probe),
                (Kind::Readiness, &unit.container.readiness_probe),
            ];
            for (kind, probe) in all {
                // A passed startup probe has said all it will; the others wait for it.
                let Some(probe) = probe.as_ref().filter(|_| (kind == Kind::Startup) != started) else {
                    continue;
                };
                let key = (instance.id.clone(), kind);
                wanted.insert(key.clone());
                self.tasks.entry(key).or_insert_with(|| {
                    let task = Task {
                        node: node.clone(),
                        pod: pod.clone(),
                        container: unit.container.clone(),
                        id: instance.id.clone(),
                        started_at: instance.started_at,
                        ip: ip.clone(),
                        kind,
                        probe: probe.clone(),
                        results: self.results.clone(),
                        wake: self.wake.clone(),
                    };
                    AbortOnDropHandle::new(tokio::spawn(task.run()))
                });
            }
        }
        self.tasks.retain(|key, _| wanted.contains(key));
        let alive: HashSet<&String> =
            observed.instances.iter().filter(|i| i.state == State::Running).map(|i| &i.id).collect();
        self.results.lock().retain(|(id, _), _| alive.contains(id));
    }

    /// What an earlier run of ours found of an instance counts until its probes say otherwise: a restart takes no
    /// pod out of its services.
    fn adopt(&self, pod: &Pod, id: &str) {
        let mut results = self.results.lock();
        for kind in earlier(pod, id) {
            results.entry((id.to_owned(), kind)).or_insert((true, false));
        }
    }

    fn verdict(&self, id: &str, kind: Kind) -> Option<bool> {
        self.results.lock().get(&(id.to_owned(), kind)).map(|(good, _)| *good)
    }

    /// What the probes say, for decisions, and which instances are ready.
    pub fn health(&self, pod: &Pod, observed: &Observed) -> (Health, HashSet<String>) {
        let (mut health, mut ready) = (Health::default(), HashSet::new());
        for unit in spec::units(pod) {
            let Some(instance) = observed.newest(&unit.container.name).filter(|i| i.state == State::Running)
            else {
                continue;
            };
            let started = unit.container.startup_probe.is_none()
                || self.verdict(&instance.id, Kind::Startup) == Some(true);
            if started {
                health.started.insert(instance.id.clone());
            }
            if started
                && (unit.container.readiness_probe.is_none()
                    || self.verdict(&instance.id, Kind::Readiness) == Some(true))
            {
                ready.insert(instance.id.clone());
            }
            for kind in [Kind::Startup, Kind::Liveness] {
                if self.results.lock().get(&(instance.id.clone(), kind)).is_some_and(|(_, failed)| *failed) {
                    health.failed.insert(instance.id.clone(), kind.lower());
                }
            }
        }
        (health, ready)
    }
}

/// Probes that the pod's status says the instance has passed.
fn earlier(pod: &Pod, id: &str) -> Vec<Kind> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = [&status.container_statuses, &status.init_container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    let is = |s: &&ContainerStatus| s.container_id.as_ref().is_some_and(|c| c.rsplit('/').next() == Some(id));
    let Some(status) = all.find(is) else { return Vec::new() };
    let started = status.started.unwrap_or(false).then_some(Kind::Startup);
    started.into_iter().chain(status.ready.then_some(Kind::Readiness)).collect()
}

struct Task {
    node: Arc<Node>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    started_at: i64,
    ip: String,
    kind: Kind,
    probe: Probe,
    results: Results,
    wake: Arc<Notify>,
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or_default())
}

impl Task {
    async fn run(self) {
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = jiff::Timestamp::now().as_nanosecond() - i128::from(self.started_at);
        let age = Duration::from_nanos(u64::try_from(age).unwrap_or_default());
        if let Some(left) = delay.checked_sub(age) {
            tokio::time::sleep(left).await;
        }
        let mut verdict = Verdict::initial(self.kind);
        verdict.good |= matches!(self.results.lock().get(&(self.id.clone(), self.kind)), Some((true, _)));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.probe_once().await;
            if let Err(message) = &outcome {
                let text = format!("{} probe failed: {message}", self.kind.title());
                self.node.event(&self.pod, Some(&self.container.name), "Warning", "Unhealthy", &text);
            }
            let (next, failed) = verdict.after(outcome.is_ok(), &self.probe);
            verdict = next;
            let state = (verdict.good, failed && self.kind != Kind::Readiness);
            let old = self.results.lock().insert((self.id.clone(), self.kind), state);
            if old != Some(state) {
                self.wake.notify_one();
            }
            // Whoever is to be killed needs no more probes; one verdict is enough.
            if state.1 {
                return;
            }
        }
    }

    async fn probe_once(&self) -> Result<(), String> {
        let limit = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        if let Some(exec) = &self.probe.exec {
            let answer = self
                .node
                .runtime
                .exec_sync(&self.id, exec.command.clone().unwrap_or_default(), limit)
                .await
                .map_err(|e| match e.failure {
                    knarr_cri::Failure::Timeout => format!(
                        "command timed out: {:?} timed out after {limit:?}",
                        exec.command.clone().unwrap_or_default().join(" ")
                    ),
                    _ => e.to_string(),
                })?;
            let output = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
            return if answer.exit_code == 0 { Ok(()) } else { Err(output) };
        }
        if let Some(get) = &self.probe.http_get {
            return match hooks::http(get, &self.container, &self.ip, "kube-probe/1.37", limit).await? {
                (code, _) if (200..400).contains(&code) => Ok(()),
                (code, _) => Err(format!("HTTP probe failed with statuscode: {code}")),
            };
        }
        if let Some(socket) = &self.probe.tcp_socket {
            let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.ip);
            return hooks::tcp(host, hooks::port(&socket.port, &self.container)?, limit).await;
        }
        if let Some(grpc) = &self.probe.grpc {
            let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port: {}", grpc.port))?;
            return hooks::grpc(&self.ip, port, grpc.service.as_deref().unwrap_or_default(), limit).await;
        }
        Err("the probe has no action".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_found_is_taken_over_for_the_same_instance_only() {
        let of = |started: bool, ready: bool| -> Pod {
            serde_json::from_value(serde_json::json!({"status": {"containerStatuses": [
                {"name": "c", "image": "i", "imageID": "", "restartCount": 0, "containerID": "containerd://abc",
                 "started": started, "ready": ready}]}}))
            .unwrap()
        };
        assert_eq!(earlier(&of(true, true), "abc"), [Kind::Startup, Kind::Readiness]);
        assert_eq!(earlier(&of(true, false), "abc"), [Kind::Startup]);
        assert_eq!(earlier(&of(true, true), "abd"), []);
        assert_eq!(earlier(&Pod::default(), "abc"), []);
        let probe = Probe { failure_threshold: Some(2), ..Default::default() };
        let adopted = Verdict { good: true, ..Verdict::initial(Kind::Readiness) };
        let (once, _) = adopted.after(false, &probe);
        let (twice, _) = once.after(false, &probe);
        assert_eq!((once.good, twice.good), (true, false), "a single failure is forgiven as before");
    }

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Default::default() };
        let mut verdict = Verdict::initial(Kind::Readiness);
        let mut seen = Vec::new();
        for good in [true, true, false, true, false, false, true] {
            let (next, failed) = verdict.after(good, &probe);
            verdict = next;
            seen.push((verdict.good, failed));
        }
        let want = [
            (false, false),
            (true, false),
            (true, false),
            (true, false),
            (true, false),
            (false, true),
            (false, false),
        ];
        assert_eq!(seen, want);
    }
}
