//! `/metrics` in the Prometheus text form: request counts and times.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use knarr_registry::Registry;
use parking_lot::Mutex;

use crate::info::RequestInfo;

/// Names of one series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

#[derive(Debug, Default)]
struct Times {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

const BUCKETS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0, 10.0, 60.0];

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    inflight: AtomicI64,
    requests: Mutex<BTreeMap<(Label, u16), u64>>,
    times: Mutex<BTreeMap<Label, Times>>,
}

impl Metrics {
    /// A request begins.
    pub fn begin(&self, info: &RequestInfo) -> Label {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        Label {
            verb: info.verb.to_ascii_uppercase(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        }
    }

    /// Its response is ready.
    pub fn end(&self, label: Label, code: u16, took: Duration) {
        self.inflight.fetch_sub(1, Ordering::Relaxed);
        // Unknown paths must not grow the table without bound.
        let label = if code == 404 && label.resource.is_empty() {
            Label { verb: "GET".into(), ..label }
        } else {
            label
        };
        if code == 404 && self.requests.lock().len() > 4096 {
            return;
        }
        let seconds = took.as_secs_f64();
        let mut times = self.times.lock();
        let entry = times.entry(label.clone()).or_default();
        entry.count += 1;
        entry.seconds += seconds;
        for (bucket, limit) in entry.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= limit);
        }
        drop(times);
        *self.requests.lock().entry((label, code)).or_default() += 1;
    }

    /// The text form.
    pub fn render(&self, registry: &Registry) -> String {
        let mut out = String::new();
        out.push_str("# HELP apiserver_request_total Number of requests by verb, resource and code.\n# TYPE apiserver_request_total counter\n");
        for ((label, code), count) in self.requests.lock().iter() {
            let _ = writeln!(out, "apiserver_request_total{{{},code=\"{code}\"}} {count}", label.text());
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time to the response's head.\n# TYPE apiserver_request_duration_seconds histogram\n");
        for (label, times) in self.times.lock().iter() {
            let text = label.text();
            for (limit, count) in BUCKETS.iter().zip(times.buckets) {
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{text},le=\"{limit}\"}} {count}"
                );
            }
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_bucket{{{text},le=\"+Inf\"}} {}",
                times.count
            );
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{text}}} {}", times.seconds);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{text}}} {}", times.count);
        }
        let inflight = self.inflight.load(Ordering::Relaxed);
        let _ = write!(
            out,
            "# HELP apiserver_current_inflight_requests Requests whose response is not ready.\n# TYPE apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {inflight}\n\
             # HELP apiserver_storage_revision Newest revision of the datastore.\n# TYPE apiserver_storage_revision gauge\napiserver_storage_revision {}\n",
            registry.store().revision()
        );
        out.push('\n');
        out.push_str(&knarr_admission::metrics::render());
        out
    }
}

impl Label {
    fn text(&self) -> String {
        let clean = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!(
            "verb=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\"",
            clean(&self.verb),
            clean(&self.group),
            clean(&self.version),
            clean(&self.resource),
            clean(&self.subresource)
        )
    }
}
