//! The heart of the kubelet: from the wanted pod and what is observed to what is to be done. Pure.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    observed::{Instance, Observed, State},
    spec::{self, Role, Unit},
};

/// What the probes say of running instances, by container id.
#[derive(Debug, Default, Clone)]
pub struct Health {
    /// Instances whose startup probe succeeded, or that have none.
    pub started: HashSet<String>,
    /// Instances to be killed, with the probe that failed.
    pub failed: HashMap<String, &'static str>,
}

/// A container to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The instance.
    pub id: String,
    /// Its container.
    pub name: String,
    /// For the event.
    pub message: String,
}

/// What is to be done for a pod now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Everything has run its course, or must go before a new sandbox: end what runs.
    pub kill_pod: bool,
    /// Create a sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    /// End these.
    pub kill: Vec<Kill>,
    /// Start these, in order.
    pub start: Vec<String>,
}

/// Decides for a pod that is not terminating.
pub fn decide(pod: &Pod, observed: &Observed, health: &Health) -> Plan {
    let units = spec::units(pod);
    let current = observed.sandboxes.first().filter(|s| {
        let sound =
            s.ready && s.host_network == spec::host_network(pod) && (s.host_network || !s.ips.is_empty());
        sound && observed.sandboxes.iter().filter(|other| other.ready).count() == 1
    });
    let Some(sandbox) = current else {
        return without_sandbox(pod, observed, &units);
    };
    let mut plan = Plan::default();
    let apps_began = units
        .iter()
        .any(|u| u.role == Role::App && observed.newest_in(&u.container.name, &sandbox.id).is_some());
    if !inits(pod, observed, health, &units, &sandbox.id, apps_began, &mut plan) {
        return plan;
    }
    let mut remaining = 0;
    for unit in units.iter().filter(|u| u.role == Role::App) {
        match observed.newest(&unit.container.name) {
            Some(instance) if instance.state == State::Running => {
                remaining += 1;
                if let Some(mut message) = unfit(unit, instance, health) {
                    let again = spec::restarts(pod, unit, 137) || message.ends_with("will be restarted");
                    if again && message.ends_with(" probe") {
                        message.push_str(", will be restarted");
                    }
                    plan.kill.push(Kill {
                        id: instance.id.clone(),
                        name: unit.container.name.clone(),
                        message,
                    });
                    if again {
                        plan.start.push(unit.container.name.clone());
                    }
                }
            }
            instance if wanted(pod, unit, instance) => {
                remaining += 1;
                plan.start.push(unit.container.name.clone());
            }
            _ => {}
        }
    }
    for unit in units.iter().filter(|u| u.role == Role::Ephemeral) {
        if observed.newest(&unit.container.name).is_none() {
            plan.start.push(unit.container.name.clone());
        }
    }
    if remaining == 0 {
        return Plan { kill_pod: true, ..Plan::default() };
    }
    plan
}

/// Whether a container without a running instance is to be started.
fn wanted(pod: &Pod, unit: &Unit, instance: Option<&Instance>) -> bool {
    match instance {
        None => true,
        Some(instance) if instance.state == State::Exited => spec::restarts(pod, unit, instance.exit_code),
        Some(instance) => instance.state != State::Running,
    }
}

/// Why a running instance must end, if it must.
fn unfit(unit: &Unit, instance: &Instance, health: &Health) -> Option<String> {
    let name = &unit.container.name;
    if let Some(probe) = health.failed.get(&instance.id) {
        return Some(format!("Container {name} failed {probe} probe"));
    }
    // Only a changed image may replace a running container, and never after our own restart alone.
    let changed = !instance.hash.is_empty() && instance.hash != spec::hash(&unit.container);
    changed.then(|| format!("Container {name} definition changed, will be restarted"))
}

fn without_sandbox(pod: &Pod, observed: &Observed, units: &[Unit]) -> Plan {
    let kill_pod = observed.alive();
    let attempt = observed.sandboxes.iter().map(|s| s.attempt + 1).max().unwrap_or(0);
    let began = units.iter().any(|u| observed.newest(&u.container.name).is_some());
    // What must not run twice needs no second sandbox.
    if attempt > 0 && spec::policy(pod) == "Never" && began {
        return Plan { kill_pod: true, ..Plan::default() };
    }
    let start: Vec<String> = units
        .iter()
        .filter(|u| u.role == Role::App)
        .filter(|u| match observed.newest(&u.container.name) {
            Some(instance) if instance.state == State::Exited => spec::restarts(pod, u, instance.exit_code),
            _ => true,
        })
        .map(|u| u.container.name.clone())
        .collect();
    if start.is_empty() {
        return Plan { kill_pod: true, ..Plan::default() };
    }
    let first = units.iter().find(|u| matches!(u.role, Role::Init | Role::Sidecar));
    let start = first.map_or(start, |unit| vec![unit.container.name.clone()]);
    Plan { kill_pod, create_sandbox: Some(attempt), kill: Vec::new(), start }
}

/// Plans init containers; whether app containers may be looked at.
fn inits(
    pod: &Pod,
    observed: &Observed,
    health: &Health,
    units: &[Unit],
    sandbox: &str,
    apps_began: bool,
    plan: &mut Plan,
) -> bool {
    for unit in units.iter().filter(|u| matches!(u.role, Role::Init | Role::Sidecar)) {
        let name = &unit.container.name;
        let instance = observed.newest_in(name, sandbox);
        if unit.role == Role::Init {
            if apps_began {
                continue;
            }
            match instance {
                Some(i) if i.state == State::Exited && i.exit_code == 0 => continue,
                Some(i) if i.state == State::Running => return false,
                Some(i) if i.state == State::Exited && !spec::restarts(pod, unit, i.exit_code) => {
                    *plan = Plan { kill_pod: true, ..Plan::default() };
                    return false;
                }
                _ => {
                    plan.start.push(name.clone());
                    return false;
                }
            }
        }
        match instance {
            Some(i) if i.state == State::Running => {
                if let Some(message) = unfit(unit, i, health) {
                    plan.kill.push(Kill { id: i.id.clone(), name: name.clone(), message });
                    plan.start.push(name.clone());
                }
                if !apps_began && !health.started.contains(&i.id) {
                    return false;
                }
            }
            _ => {
                plan.start.push(name.clone());
                if !apps_began {
                    return false;
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Sandbox;
    use serde_json::json;

    fn pod(policy: &str, init: &[(&str, bool)], apps: &[&str]) -> Pod {
        let init: Vec<_> = init
            .iter()
            .map(
                |(n, sidecar)| json!({"name": n, "image": "i", "restartPolicy": sidecar.then_some("Always")}),
            )
            .collect();
        let apps: Vec<_> = apps.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        serde_json::from_value(
            json!({"spec": {"restartPolicy": policy, "initContainers": init, "containers": apps}}),
        )
        .unwrap()
    }

    /// `name:running` or `name:<exit code>`, all in sandbox `s`; `ready` tells whether that is ready.
    fn observed(ready: Option<bool>, instances: &[&str]) -> Observed {
        let sandboxes = ready
            .map(|ready| Sandbox {
                id: "s".into(),
                attempt: 0,
                ready,
                created_at: 1,
                ips: vec!["10.0.0.1".into()],
                host_network: false,
            })
            .into_iter()
            .collect();
        let instances = instances
            .iter()
            .map(|text| {
                let (name, state) = text.split_once(':').unwrap();
                let running = state == "running";
                Instance {
                    id: format!("id-{name}"),
                    name: name.into(),
                    sandbox: "s".into(),
                    restart_count: 0,
                    state: if running { State::Running } else { State::Exited },
                    created_at: 1,
                    started_at: 1,
                    finished_at: 2,
                    exit_code: if running { 0 } else { state.parse().unwrap() },
                    reason: String::new(),
                    message: String::new(),
                    image: "i".into(),
                    image_id: String::new(),
                    hash: String::new(),
                    log_path: String::new(),
                    termination_message: String::new(),
                }
            })
            .collect();
        Observed { sandboxes, instances }
    }

    /// The plan in one line.
    fn line(plan: &Plan) -> String {
        let mut parts = Vec::new();
        if plan.kill_pod {
            parts.push("killpod".to_owned());
        }
        parts.extend(plan.create_sandbox.map(|n| format!("sandbox {n}")));
        parts.extend(plan.kill.iter().map(|k| format!("kill {}", k.name)));
        parts.extend(plan.start.iter().map(|n| format!("start {n}")));
        parts.join(", ")
    }

    fn check(pod: &Pod, ready: Option<bool>, instances: &[&str], want: &str) {
        let seen = observed(ready, instances);
        let started = seen.instances.iter().map(|i| i.id.clone()).collect();
        assert_eq!(
            line(&decide(pod, &seen, &Health { started, ..Health::default() })),
            want,
            "{instances:?}"
        );
    }

    #[test]
    fn plain_pods() {
        let always = pod("Always", &[], &["a", "b"]);
        check(&always, None, &[], "sandbox 0, start a, start b");
        check(&always, Some(true), &["a:running"], "start b");
        check(&always, Some(true), &["a:running", "b:0"], "start b");
        check(&always, Some(true), &["a:running", "b:running"], "");
        check(&always, Some(false), &["a:137"], "sandbox 1, start a, start b");
        check(&always, Some(false), &["a:running"], "killpod, sandbox 1, start a, start b");
        let failing = pod("OnFailure", &[], &["a", "b"]);
        check(&failing, Some(true), &["a:0", "b:1"], "start b");
        check(&failing, Some(true), &["a:0", "b:0"], "killpod");
        check(&failing, Some(false), &["a:0", "b:0"], "killpod");
        check(&failing, Some(false), &["a:0", "b:3"], "sandbox 1, start b");
        let never = pod("Never", &[], &["a"]);
        check(&never, Some(true), &["a:1"], "killpod");
        check(&never, Some(false), &["a:1"], "killpod");
        check(&never, Some(false), &[], "sandbox 1, start a");
    }

    #[test]
    fn init_containers_run_one_after_another() {
        let p = pod("Always", &[("i", false), ("j", false)], &["a"]);
        check(&p, None, &[], "sandbox 0, start i");
        check(&p, Some(true), &["i:running"], "");
        check(&p, Some(true), &["i:1"], "start i");
        check(&p, Some(true), &["i:0"], "start j");
        check(&p, Some(true), &["i:0", "j:0"], "start a");
        check(&p, Some(true), &["a:1"], "start a");
        let never = pod("Never", &[("i", false)], &["a"]);
        check(&never, Some(true), &["i:1"], "killpod");
    }

    #[test]
    fn sidecars_stay_and_end_with_the_pod() {
        let p = pod("OnFailure", &[("s", true), ("i", false)], &["a"]);
        check(&p, Some(true), &[], "start s");
        check(&p, Some(true), &["s:running"], "start i");
        check(&p, Some(true), &["s:1", "i:running"], "start s");
        check(&p, Some(true), &["s:running", "i:0"], "start a");
        check(&p, Some(true), &["s:0", "i:0", "a:running"], "start s");
        check(&p, Some(true), &["s:running", "i:0", "a:0"], "killpod");
        let seen = observed(Some(true), &["s:running"]);
        assert_eq!(line(&decide(&p, &seen, &Health::default())), "", "waits until the sidecar has started");
    }

    #[test]
    fn unhealthy_and_changed_containers_are_replaced() {
        let p = pod("Always", &[], &["a"]);
        let mut seen = observed(Some(true), &["a:running"]);
        let failed = HashMap::from([("id-a".to_owned(), "liveness")]);
        let plan = decide(&p, &seen, &Health { failed, ..Health::default() });
        assert_eq!(
            (line(&plan).as_str(), plan.kill[0].message.as_str()),
            ("kill a, start a", "Container a failed liveness probe, will be restarted")
        );
        seen.instances[0].hash = "other".into();
        assert_eq!(line(&decide(&p, &seen, &Health::default())), "kill a, start a");
        seen.instances[0].hash = spec::hash(&p.spec.as_ref().unwrap().containers[0]);
        assert_eq!(line(&decide(&p, &seen, &Health::default())), "");
    }
}
