//! The Table row of a pod.

use serde_json::Value;

use crate::value::{age, condition, flag, int, list, name, or_none, since, text};

/// What is counted over the containers.
#[derive(Default)]
struct Tally<'a> {
    restarts: i64,
    /// Finish of the newest restart.
    last: &'a str,
    ready: usize,
    total: usize,
}

impl<'a> Tally<'a> {
    fn restart(&mut self, status: &'a Value) {
        self.restarts += int(status, "/restartCount").unwrap_or(0);
        self.last = self.last.max(text(status, "/lastState/terminated/finishedAt"));
    }
}

/// Cells in the order of the columns.
pub(super) fn row(obj: &Value, now: &str) -> Vec<Value> {
    let mut tally = Tally { total: list(obj, "/spec/containers").len(), ..Tally::default() };
    let phase = text(obj, "/status/phase");
    let mut reason = match text(obj, "/status/reason") {
        "" => phase.to_string(),
        r => r.to_string(),
    };
    if condition(obj, "PodScheduled").is_some_and(|c| text(c, "/reason") == "SchedulingGated") {
        reason = "SchedulingGated".to_string();
    }
    let initializing = init_reason(obj, &mut tally);
    let sidecar = tally.restarts;
    let initialized = condition(obj, "Initialized").is_some_and(|c| text(c, "/status") == "True");
    if let Some(r) = &initializing {
        reason.clone_from(r);
    }
    if initializing.is_none() || initialized {
        app_reason(obj, &mut tally, &mut reason, sidecar);
    }
    if obj.pointer("/metadata/deletionTimestamp").is_some_and(|d| !d.is_null()) {
        if text(obj, "/status/reason") == "NodeLost" {
            reason = "Unknown".to_string();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            reason = "Terminating".to_string();
        }
    }
    let restarts = if tally.restarts != 0 && !tally.last.is_empty() {
        format!("{} ({} ago)", tally.restarts, since(tally.last, now))
    } else {
        tally.restarts.to_string()
    };
    let ip =
        list(obj, "/status/podIPs").first().map_or_else(|| text(obj, "/status/podIP"), |p| text(p, "/ip"));
    vec![
        name(obj),
        format!("{}/{}", tally.ready, tally.total).into(),
        reason.into(),
        restarts.into(),
        age(obj, now),
        or_none(ip),
        or_none(text(obj, "/spec/nodeName")),
        or_none(text(obj, "/status/nominatedNodeName")),
        gates(obj),
    ]
}

fn gates(obj: &Value) -> Value {
    let all = list(obj, "/spec/readinessGates");
    if all.is_empty() {
        return "<none>".into();
    }
    let met = all
        .iter()
        .filter(|g| condition(obj, text(g, "/conditionType")).is_some_and(|c| text(c, "/status") == "True"))
        .count();
    format!("{met}/{}", all.len()).into()
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, "/reason"), int(terminated, "/signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "/exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

/// `Init:...` while init containers have not finished. Sidecars are counted like containers.
fn init_reason<'a>(obj: &'a Value, tally: &mut Tally<'a>) -> Option<String> {
    let specs = list(obj, "/spec/initContainers");
    let is_sidecar =
        |n: &str| specs.iter().any(|c| text(c, "/name") == n && text(c, "/restartPolicy") == "Always");
    tally.total += specs.iter().filter(|c| text(c, "/restartPolicy") == "Always").count();
    let mut sidecars = Tally::default();
    for (i, status) in list(obj, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(text(status, "/name"));
        tally.restart(status);
        if sidecar {
            sidecars.restart(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        let waiting = text(status, "/state/waiting/reason");
        match terminated {
            Some(t) if int(t, "/exitCode").unwrap_or(0) == 0 => continue,
            None if sidecar && flag(status, "/started") => {
                if flag(status, "/ready") {
                    tally.ready += 1;
                }
                continue;
            }
            Some(t) => return Some(format!("Init:{}", ended(t))),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                return Some(format!("Init:{waiting}"));
            }
            None => return Some(format!("Init:{i}/{}", specs.len())),
        }
    }
    // Init containers are done: only sidecars count from here on.
    tally.restarts = sidecars.restarts;
    tally.last = sidecars.last;
    None
}

fn app_reason<'a>(obj: &'a Value, tally: &mut Tally<'a>, reason: &mut String, sidecar_restarts: i64) {
    tally.restarts = sidecar_restarts;
    let mut running = false;
    for status in list(obj, "/status/containerStatuses").iter().rev() {
        tally.restart(status);
        let waiting = text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            *reason = waiting.to_string();
        } else if let Some(t) = status.pointer("/state/terminated").filter(|t| !t.is_null()) {
            *reason = ended(t);
        } else if flag(status, "/ready") && status.pointer("/state/running").is_some() {
            running = true;
            tally.ready += 1;
        }
    }
    if reason == "Completed" && running {
        let ready = condition(obj, "Ready").is_some_and(|c| text(c, "/status") == "True");
        *reason = if ready { "Running" } else { "NotReady" }.to_string();
    }
}
