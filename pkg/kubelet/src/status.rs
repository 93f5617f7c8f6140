//! The status of a pod from what is observed. Pure. Entry point: [`compute`].

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    allocation::ByContainer,
    observed::{Instance, Observed, State},
    resize, resources,
    spec::{self, Role, Unit},
};

/// Why a container waits: reason and message.
pub type Waiting = HashMap<String, (String, String)>;

/// What the computation knows besides pod and runtime.
#[derive(Debug, Default, Clone)]
pub struct Inputs<'a> {
    /// Containers that could not be started, with reason and message.
    pub waiting: Option<&'a Waiting>,
    /// Ids of instances whose startup probe has passed.
    pub started: std::collections::HashSet<String>,
    /// Ids of instances that are ready.
    pub ready: std::collections::HashSet<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod is being taken down, or has run its course.
    pub terminating: bool,
    /// Everything of it has ended for good.
    pub terminated: bool,
    /// Why the node itself failed the pod (`DeadlineExceeded`, `Evicted`, ...), with the message.
    pub failed: Option<(String, String)>,
    /// What running containers were given.
    pub actuated: ByContainer,
    /// Why the resources asked for are not promised.
    pub resize_pending: Option<(&'static str, String)>,
    /// Why what is promised is not in force.
    pub resize_error: Option<String>,
}

fn time(nanos: i64) -> Option<Time> {
    if nanos <= 0 {
        return None;
    }
    // The API keeps whole seconds.
    Timestamp::from_second(nanos / 1_000_000_000).ok().map(Time)
}

fn now(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Whether a pod of this status has run its course.
pub fn is_last(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// What the API was told of how a pod is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
}

impl Told {
    /// From a status.
    pub fn of(status: &PodStatus) -> Self {
        let (phase, reason, message) = (&status.phase, &status.reason, &status.message);
        Self { phase: phase.clone(), reason: reason.clone(), message: message.clone() }
    }

    /// The status as it is to be told: that a pod has run its course only when nothing runs in it any more. Until
    /// then it is as it was, but not ready.
    pub fn held_back(&self, status: &PodStatus, observed: &Observed) -> PodStatus {
        let over = matches!(self.phase.as_deref(), None | Some("Succeeded" | "Failed"));
        let runs = observed.instances.iter().any(|i| i.state == State::Running);
        if over || !runs || !is_last(status) {
            return status.clone();
        }
        let Self { phase, reason, message } = self.clone();
        PodStatus { phase, reason, message, ..status.clone() }
    }
}

/// The status to report, given the one reported before.
pub fn compute(
    pod: &Pod,
    observed: &Observed,
    inputs: &Inputs<'_>,
    before: &PodStatus,
    at: Timestamp,
) -> PodStatus {
    let units = spec::units(pod);
    let container = |role: &dyn Fn(Role) -> bool| -> Vec<ContainerStatus> {
        units
            .iter()
            .filter(|u| role(u.role))
            .map(|u| container_status(pod, u, observed, inputs, before))
            .collect()
    };
    let init = container(&|r| matches!(r, Role::Init | Role::Sidecar));
    let apps = container(&|r| r == Role::App);
    let ephemeral = container(&|r| r == Role::Ephemeral);
    let mut phase = phase(pod, &units, &init, &apps, inputs).to_owned();
    // What has ended stays ended.
    if let Some(old @ ("Succeeded" | "Failed")) = before.phase.as_deref() {
        phase = old.to_owned();
    }
    let (reason, message) = match &inputs.failed {
        Some((reason, message)) => (Some(reason.clone()), Some(message.clone())),
        None => (
            before.reason.clone().filter(|_| phase == "Failed"),
            before.message.clone().filter(|_| phase == "Failed"),
        ),
    };
    let mut status = PodStatus {
        host_ip: inputs.host_ips.first().cloned(),
        host_ips: (!inputs.host_ips.is_empty())
            .then(|| inputs.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        qos_class: Some(resources::qos(pod).to_owned()),
        start_time: before.start_time.clone().or_else(|| Some(now(at))),
        observed_generation: pod.metadata.generation.or(before.observed_generation),
        reason,
        message,
        ..before.clone()
    };
    let ips = pod_ips(pod, observed, inputs, before);
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
    status.conditions = Some(conditions(pod, observed, &units, &init, &apps, &phase, inputs, before, at));
    status.phase = Some(phase);
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(apps);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

fn pod_ips(pod: &Pod, observed: &Observed, inputs: &Inputs<'_>, before: &PodStatus) -> Vec<String> {
    if spec::host_network(pod) {
        return inputs.host_ips.clone();
    }
    match observed.sandboxes.first() {
        Some(sandbox) if sandbox.ready => sandbox.ips.clone(),
        // A pod that ended keeps the address it had.
        _ if inputs.terminating => before.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
        _ => Vec::new(),
    }
}

fn terminated(instance: &Instance) -> ContainerStateTerminated {
    let fallback = if instance.exit_code == 0 { "Completed" } else { "Error" };
    let message = if instance.termination_message.is_empty() {
        instance.message.clone()
    } else {
        instance.termination_message.clone()
    };
    ContainerStateTerminated {
        container_id: Some(full_id(&instance.id)),
        exit_code: instance.exit_code,
        finished_at: time(instance.finished_at),
        message: Some(message).filter(|m| !m.is_empty()),
        reason: Some(if instance.reason.is_empty() { fallback.to_owned() } else { instance.reason.clone() }),
        signal: None,
        started_at: time(instance.started_at),
    }
}

/// Ids carry the runtime's name.
fn full_id(id: &str) -> String {
    format!("containerd://{id}")
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_owned()).filter(|m| !m.is_empty());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

fn container_status(
    pod: &Pod,
    unit: &Unit,
    observed: &Observed,
    inputs: &Inputs<'_>,
    before: &PodStatus,
) -> ContainerStatus {
    let name = &unit.container.name;
    let image = unit.container.image.clone().unwrap_or_default();
    let newest = observed.newest(name);
    let previous = observed.previous(name).filter(|i| i.state == State::Exited);
    let reported =
        [&before.init_container_statuses, &before.container_statuses, &before.ephemeral_container_statuses]
            .into_iter()
            .flat_map(|list| list.iter().flatten())
            .find(|s| s.name == *name);
    let mut status = ContainerStatus { name: name.clone(), image: image.clone(), ..Default::default() };
    let reason = inputs.waiting.and_then(|w| w.get(name));
    let ended =
        |instance: &Instance| ContainerState { terminated: Some(terminated(instance)), ..Default::default() };
    status.last_state = previous.map(ended);
    match newest {
        None => {
            return without_instance(pod, status, reported, reason, inputs.terminated);
        }
        Some(instance) => {
            status.container_id = Some(full_id(&instance.id));
            status.image = if instance.image.is_empty() || instance.image.starts_with("sha256:") {
                image
            } else {
                instance.image.clone()
            };
            status.image_id = instance.image_id.clone();
            let resources = unit.container.resources.clone();
            status.allocated_resources = resources.as_ref().and_then(|r| r.requests.clone());
            let actuated = inputs.actuated.get(name).filter(|_| instance.state == State::Running);
            status.resources = actuated.cloned().or(resources);
            status.restart_count = i32::try_from(instance.restart_count).unwrap_or(i32::MAX);
            let running = instance.state == State::Running;
            status.started = Some(running && inputs.started.contains(&instance.id));
            status.ready = running
                && inputs.ready.contains(&instance.id)
                && !(inputs.terminating && unit.role == Role::Init);
            status.state = Some(match (instance.state, reason) {
                (State::Running, _) => ContainerState {
                    running: Some(ContainerStateRunning { started_at: time(instance.started_at) }),
                    ..Default::default()
                },
                (State::Exited, Some((reason, message))) if !inputs.terminating => {
                    status.last_state = Some(ended(instance));
                    waiting(reason, message)
                }
                (State::Exited, _) => ended(instance),
                (_, Some((reason, message))) => waiting(reason, message),
                _ => waiting(default_reason(pod), ""),
            });
            if unit.role == Role::Init && instance.state == State::Exited && instance.exit_code == 0 {
                status.ready = true;
            }
        }
    }
    status
}

/// An instance that was reported but is gone from the runtime is not forgotten.
fn without_instance(
    pod: &Pod,
    mut status: ContainerStatus,
    reported: Option<&ContainerStatus>,
    reason: Option<&(String, String)>,
    over: bool,
) -> ContainerStatus {
    let gone = reported.filter(|s| s.container_id.is_some());
    status.restart_count = gone.map_or(0, |s| s.restart_count);
    status.started = Some(false);
    status.state = Some(match (gone, over) {
        (Some(old), _) if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) => {
            return ContainerStatus { ready: false, started: Some(false), ..old.clone() };
        }
        (Some(_), true) => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        _ => match reason {
            Some((reason, message)) => waiting(reason, message),
            None => waiting(default_reason(pod), ""),
        },
    });
    status
}

fn default_reason(pod: &Pod) -> &'static str {
    let inits = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).is_some_and(|i| !i.is_empty());
    if inits { "PodInitializing" } else { "ContainerCreating" }
}

fn phase(
    pod: &Pod,
    units: &[Unit],
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    inputs: &Inputs<'_>,
) -> &'static str {
    if inputs.failed.is_some() {
        return "Failed";
    }
    let state = |s: &ContainerStatus| s.state.clone().unwrap_or_default();
    let exit = |s: &ContainerStatus| state(s).terminated.map(|t| t.exit_code);
    if inputs.terminated {
        let bad = init.iter().chain(apps).any(|s| exit(s).is_some_and(|code| code != 0));
        let ran = apps.iter().all(|s| exit(s).is_some());
        return if bad || !ran { "Failed" } else { "Succeeded" };
    }
    let (mut pending_init, mut failed_init) = (false, false);
    for (unit, status) in units.iter().zip(init) {
        match (unit.role, exit(status)) {
            (Role::Init, Some(0)) => {}
            (Role::Init, Some(code)) if !spec::restarts(pod, unit, code) => failed_init = true,
            (Role::Sidecar, _) if status.started == Some(true) => {}
            (Role::Sidecar, Some(_)) if status.restart_count > 0 => {}
            _ => pending_init = true,
        }
    }
    let (mut waits, mut runs, mut stopped, mut failed) = (0, 0, 0, 0);
    for status in apps {
        let s = state(status);
        if s.running.is_some() {
            runs += 1;
        } else if let Some(code) =
            exit(status).or_else(|| status.last_state.clone().and_then(|l| l.terminated).map(|t| t.exit_code))
        {
            stopped += 1;
            failed += i32::from(code != 0);
        } else {
            waits += 1;
        }
    }
    if failed_init {
        return "Failed";
    }
    if (pending_init && runs + stopped == 0) || waits > 0 {
        return "Pending";
    }
    if runs > 0 {
        return "Running";
    }
    let app = units.iter().filter(|u| u.role == Role::App).zip(apps);
    let again =
        app.into_iter().any(|(unit, status)| exit(status).is_none_or(|code| spec::restarts(pod, unit, code)));
    match (again, failed) {
        (true, _) => "Running",
        (false, 0) => "Succeeded",
        (false, _) => "Failed",
    }
}

/// Status, reason and message of a condition.
type Verdict = (&'static str, Option<String>, Option<String>);

fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(units: &[Unit], init: &[ContainerStatus], apps: &[ContainerStatus], phase: &str) -> Verdict {
    let open: Vec<&str> = units
        .iter()
        .zip(init)
        .filter(|(unit, status)| match unit.role {
            Role::Sidecar => status.started != Some(true) && phase != "Succeeded",
            _ => status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_none_or(|t| t.exit_code != 0),
        })
        .map(|(_, status)| status.name.as_str())
        .collect();
    let began = apps.iter().any(|s| s.container_id.is_some());
    if phase == "Succeeded" {
        return ("True", Some("PodCompleted".to_owned()), None);
    }
    if open.is_empty() || began {
        return ("True", None, None);
    }
    let message = format!("containers with incomplete status: {}", listed(&open));
    ("False", Some("ContainersNotInitialized".to_owned()), Some(message))
}

fn containers_ready(
    units: &[Unit],
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    phase: &str,
) -> Verdict {
    let sidecars = units.iter().zip(init).filter(|(u, _)| u.role == Role::Sidecar).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(apps).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    match phase {
        "Succeeded" => ("False", Some("PodCompleted".to_owned()), None),
        "Failed" => ("False", Some("PodFailed".to_owned()), None),
        _ if unready.is_empty() => ("True", None, None),
        _ => {
            let message = format!("containers with unready status: {}", listed(&unready));
            ("False", Some("ContainersNotReady".to_owned()), Some(message))
        }
    }
}

/// Ready containers do not make a ready pod while one of its gates is closed.
fn gated(pod: &Pod, ready: &Verdict, old: &dyn Fn(&str) -> Option<PodCondition>) -> Verdict {
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let closed: Vec<String> = gates
        .filter(|g| old(&g.condition_type).is_none_or(|c| c.status != "True"))
        .map(|g| {
            let kind = &g.condition_type;
            format!("corresponding condition of pod readiness gate {kind:?} does not exist or is not True.")
        })
        .collect();
    if ready.0 != "True" || closed.is_empty() {
        return ready.clone();
    }
    ("False", Some("ReadinessGatesNotReady".to_owned()), Some(closed.join(", ")))
}

#[allow(clippy::too_many_arguments, reason = "all are parts of one status")]
fn conditions(
    pod: &Pod,
    observed: &Observed,
    units: &[Unit],
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    phase: &str,
    inputs: &Inputs<'_>,
    before: &PodStatus,
    at: Timestamp,
) -> Vec<PodCondition> {
    // Others' conditions are read from the API's copy, our own from what we reported last.
    let lists = [&before.conditions, pod.status.as_ref().map_or(&None, |s| &s.conditions)];
    let find = |list: &Option<Vec<PodCondition>>, kind: &str| {
        list.iter().flatten().find(|c| c.type_ == kind).cloned()
    };
    let old = |kind: &str| lists.iter().find_map(|list| find(list, kind));
    let theirs = |kind: &str| lists.iter().rev().find_map(|list| find(list, kind));
    let network =
        observed.sandboxes.first().is_some_and(|s| s.ready && (s.host_network || !s.ips.is_empty()));
    let ready = containers_ready(units, init, apps, phase);
    let own = [
        (
            "PodReadyToStartContainers",
            (if network && !inputs.terminated { "True" } else { "False" }, None, None),
        ),
        ("Initialized", initialized(units, init, apps, phase)),
        ("Ready", gated(pod, &ready, &theirs)),
        ("ContainersReady", ready),
        ("PodScheduled", ("True", None, None)),
    ];
    let pending = inputs
        .resize_pending
        .clone()
        .map(|(reason, message)| ("PodResizePending", ("True", Some(reason.to_owned()), Some(message))));
    let resizing = !inputs.terminating
        && (inputs.resize_error.is_some() || !resize::changes(pod, observed, &inputs.actuated).is_empty());
    let in_progress = resizing.then(|| {
        let reason = inputs.resize_error.as_ref().map(|_| "Error".to_owned());
        ("PodResizeInProgress", ("True", reason, inputs.resize_error.clone()))
    });
    own.into_iter()
        .chain(pending)
        .chain(in_progress)
        .map(|(kind, (status, reason, message))| {
            let since = old(kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time);
            PodCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason,
                message,
                last_transition_time: since.or_else(|| Some(now(at))),
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Sandbox;
    use serde_json::json;

    #[test]
    fn the_last_phase_is_told_when_nothing_runs_any_more() {
        let status = |phase: &str, reason: Option<&str>| PodStatus {
            phase: Some(phase.into()),
            reason: reason.map(Into::into),
            ..PodStatus::default()
        };
        let check = |before: &str, now: &PodStatus, observed: &Observed, expected: (&str, Option<&str>)| {
            let told = Told::of(&status(before, None)).held_back(now, observed);
            assert_eq!((told.phase.as_deref(), told.reason.as_deref()), (Some(expected.0), expected.1));
        };
        let (running, exited) = (seen(State::Running, 0), seen(State::Exited, 1));
        let late = status("Failed", Some("DeadlineExceeded"));
        check("Running", &late, &running, ("Running", None));
        check("Running", &late, &exited, ("Failed", Some("DeadlineExceeded")));
        check("Running", &status("Succeeded", None), &running, ("Running", None));
        check("Failed", &late, &running, ("Failed", Some("DeadlineExceeded")));
        check("Pending", &status("Running", None), &running, ("Running", None));
    }

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}})).unwrap()
    }

    fn seen(state: State, code: i32) -> Observed {
        let instance = Instance {
            id: "x".into(),
            name: "a".into(),
            sandbox: "s".into(),
            restart_count: 2,
            state,
            created_at: 1,
            started_at: 2_000_000_000,
            finished_at: 3_000_000_000,
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            image: "i".into(),
            image_id: "sha256:1".into(),
            hash: String::new(),
            log_path: String::new(),
            termination_message: "bye".into(),
        };
        let sandbox = Sandbox {
            id: "s".into(),
            attempt: 0,
            ready: true,
            created_at: 1,
            ips: vec!["10.0.0.2".into()],
            host_network: false,
        };
        Observed { sandboxes: vec![sandbox], instances: vec![instance] }
    }

    fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a str {
        &status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap().status
    }

    #[test]
    fn phases() {
        let ready = std::collections::HashSet::from(["x".to_owned()]);
        let inputs = Inputs { started: ready.clone(), ready, ..Default::default() };
        let at = Timestamp::from_second(10).unwrap();
        for (policy, observed, phase, is_ready) in [
            ("Always", Observed::default(), "Pending", "False"),
            ("Always", seen(State::Running, 0), "Running", "True"),
            ("Always", seen(State::Exited, 0), "Running", "False"),
            ("OnFailure", seen(State::Exited, 1), "Running", "False"),
            ("OnFailure", seen(State::Exited, 0), "Succeeded", "False"),
            ("Never", seen(State::Exited, 3), "Failed", "False"),
            ("Never", seen(State::Created, 0), "Pending", "False"),
        ] {
            let status = compute(&pod(policy), &observed, &inputs, &PodStatus::default(), at);
            assert_eq!(
                (status.phase.as_deref(), condition(&status, "Ready")),
                (Some(phase), is_ready),
                "{policy} {observed:?}"
            );
        }
    }

    #[test]
    fn a_crash_loop_shows_the_wait_and_the_last_end() {
        let reasons =
            Waiting::from([("a".to_owned(), ("CrashLoopBackOff".to_owned(), "back-off 10s".to_owned()))]);
        let inputs = Inputs { waiting: Some(&reasons), ..Default::default() };
        let status = compute(
            &pod("Always"),
            &seen(State::Exited, 1),
            &inputs,
            &PodStatus::default(),
            Timestamp::UNIX_EPOCH,
        );
        let container = &status.container_statuses.unwrap()[0];
        assert_eq!(
            container.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
            Some("CrashLoopBackOff")
        );
        let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((last.exit_code, last.message.as_deref(), container.restart_count), (1, Some("bye"), 2));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn transition_times_stay_while_nothing_changes() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = compute(
            &pod("Always"),
            &seen(State::Running, 0),
            &Inputs::default(),
            &PodStatus::default(),
            at(10),
        );
        let second = compute(&pod("Always"), &seen(State::Running, 0), &Inputs::default(), &first, at(20));
        assert_eq!(first, second);
    }
}
