//! Counters of webhooks and policies in the Prometheus text form, under upstream's names.
//!
//! Entry points: [`METRICS`] and [`render`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

/// The counters of this process.
pub(crate) static METRICS: Metrics = Metrics {
    requests: Mutex::new(BTreeMap::new()),
    rejections: Mutex::new(BTreeMap::new()),
    opened: Mutex::new(BTreeMap::new()),
    times: Mutex::new(BTreeMap::new()),
    policies: Mutex::new(BTreeMap::new()),
};

const BUCKETS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
/// Names of webhooks are the users': more than these are not counted apart.
const SERIES_MAX: usize = 2_000;

type Labels = Vec<(&'static str, String)>;
type Counter = Mutex<BTreeMap<Labels, u64>>;

#[derive(Default)]
struct Times {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// The counters.
pub(crate) struct Metrics {
    requests: Counter,
    rejections: Counter,
    opened: Counter,
    times: Mutex<BTreeMap<Labels, Times>>,
    policies: Counter,
}

/// How the call of a webhook ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Allowed,
    Refused { code: u16 },
    Unreachable { code: u16, ignored: bool },
}

fn count(counter: &Counter, labels: Labels) {
    let mut counts = counter.lock();
    if counts.len() < SERIES_MAX || counts.contains_key(&labels) {
        *counts.entry(labels).or_default() += 1;
    }
}

impl Metrics {
    /// A webhook was called.
    pub(crate) fn webhook(&self, name: &str, step: &str, operation: &str, outcome: Outcome, took: Duration) {
        let named = || -> Labels {
            vec![("name", name.to_string()), ("type", step.to_string()), ("operation", operation.to_string())]
        };
        let (code, rejected, error) = match outcome {
            Outcome::Allowed => (200, false, ""),
            Outcome::Refused { code } => (code, true, "no_error"),
            Outcome::Unreachable { code, ignored } => (code, !ignored, "calling_webhook_error"),
        };
        let with = |more: &[(&'static str, String)]| [named(), more.to_vec()].concat();
        let rejected_label = ("rejected", rejected.to_string());
        count(&self.requests, with(&[("code", code.to_string()), rejected_label.clone()]));
        if rejected {
            let told = if code < 600 { code } else { 600 };
            let more = [("error_type", error.to_string()), ("rejection_code", told.to_string())];
            count(&self.rejections, with(&more));
        } else if matches!(outcome, Outcome::Unreachable { .. }) {
            count(&self.opened, vec![("name", name.to_string()), ("type", step.to_string())]);
        }
        let mut times = self.times.lock();
        let labels = with(&[rejected_label]);
        if times.len() < SERIES_MAX || times.contains_key(&labels) {
            let entry = times.entry(labels).or_default();
            let seconds = took.as_secs_f64();
            entry.count += 1;
            entry.seconds += seconds;
            for (bucket, limit) in entry.buckets.iter_mut().zip(BUCKETS) {
                *bucket += u64::from(seconds <= limit);
            }
        }
    }

    /// A policy with a binding acted: `deny`, `warn`, `audit`.
    pub(crate) fn policy(&self, policy: &str, binding: &str, action: &str) {
        let labels = vec![
            ("policy", policy.to_string()),
            ("policy_binding", binding.to_string()),
            ("enforcement_action", action.to_string()),
        ];
        count(&self.policies, labels);
    }
}

fn text(labels: &Labels) -> String {
    let clean = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", clean(v))).collect();
    pairs.join(",")
}

/// The text form; "" where nothing was counted.
pub fn render() -> String {
    let mut out = String::new();
    for (name, help, counter) in [
        ("apiserver_admission_webhook_request_total", "Calls of admission webhooks.", &METRICS.requests),
        ("apiserver_admission_webhook_rejection_count", "Refusals by webhooks.", &METRICS.rejections),
        ("apiserver_admission_webhook_fail_open_count", "Failures that were ignored.", &METRICS.opened),
        ("apiserver_validating_admission_policy_check_total", "Policies that acted.", &METRICS.policies),
    ] {
        let counts = counter.lock();
        if counts.is_empty() {
            continue;
        }
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (labels, n) in counts.iter() {
            let _ = writeln!(out, "{name}{{{}}} {n}", text(labels));
        }
    }
    let times = METRICS.times.lock();
    if times.is_empty() {
        return out;
    }
    let name = "apiserver_admission_webhook_admission_duration_seconds";
    let _ = writeln!(out, "# HELP {name} Time of webhook calls.\n# TYPE {name} histogram");
    for (labels, times) in times.iter() {
        let text = text(labels);
        for (limit, n) in BUCKETS.iter().zip(times.buckets) {
            let _ = writeln!(out, "{name}_bucket{{{text},le=\"{limit}\"}} {n}");
        }
        let _ = writeln!(out, "{name}_bucket{{{text},le=\"+Inf\"}} {}", times.count);
        let _ = writeln!(out, "{name}_sum{{{text}}} {}", times.seconds);
        let _ = writeln!(out, "{name}_count{{{text}}} {}", times.count);
    }
    out
}
