//! Resource use: `/stats/summary` and `/metrics/resource`.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use knarr_cri::{Error, v1};
use serde_json::{Value, json};

use crate::{observed::label, pods::Pods, worker::Node};

fn value(field: Option<&v1::UInt64Value>) -> Option<u64> {
    field.map(|v| v.value)
}

fn at(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default().to_string()
}

struct Use {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    stats: v1::ContainerStats,
}

async fn uses(node: &Arc<Node>) -> Result<Vec<Use>, Error> {
    let all = node.runtime.list_container_stats(v1::ContainerStatsFilter::default()).await?;
    let named = all.into_iter().filter_map(|stats| {
        let labels = stats.attributes.as_ref()?.labels.clone();
        let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
        Some(Use {
            namespace: text(label::POD_NAMESPACE),
            pod: text(label::POD_NAME),
            uid: text(label::POD_UID),
            container: text(label::CONTAINER_NAME),
            stats,
        })
    });
    // Ended containers are listed without use.
    Ok(named.filter(|u| !u.uid.is_empty() && u.stats.cpu.is_some()).collect())
}

/// Cumulated CPU time of the whole machine in nanoseconds, and its memory in use in bytes.
fn machine() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // All but idle and waiting for disks; guest time is counted in user time already.
    let busy: u64 =
        ticks.iter().enumerate().filter(|(n, _)| !matches!(n, 3 | 4 | 8 | 9)).map(|(_, t)| t).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        info.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or_default()
    };
    (busy * (1_000_000_000 / per_second), (kib("MemTotal:").saturating_sub(kib("MemAvailable:"))) * 1024)
}

fn cpu(usage: Option<&v1::CpuUsage>) -> Value {
    usage.map_or(Value::Null, |c| {
        json!({"time": at(c.timestamp), "usageNanoCores": value(c.usage_nano_cores.as_ref()), "usageCoreNanoSeconds": value(c.usage_core_nano_seconds.as_ref())})
    })
}

fn memory(usage: Option<&v1::MemoryUsage>) -> Value {
    usage.map_or(Value::Null, |m| {
        json!({
            "time": at(m.timestamp), "workingSetBytes": value(m.working_set_bytes.as_ref()), "usageBytes": value(m.usage_bytes.as_ref()),
            "rssBytes": value(m.rss_bytes.as_ref()), "availableBytes": value(m.available_bytes.as_ref()), "pageFaults": value(m.page_faults.as_ref()),
            "majorPageFaults": value(m.major_page_faults.as_ref()),
        })
    })
}

/// The summary document.
pub(crate) async fn summary(node: &Arc<Node>, pods: &Pods) -> Result<Value, Error> {
    let mut by_pod: HashMap<String, Vec<Use>> = HashMap::new();
    for usage in uses(node).await? {
        by_pod.entry(usage.uid.clone()).or_default().push(usage);
    }
    let starts: HashMap<String, Option<jiff::Timestamp>> = pods
        .list()
        .into_iter()
        .map(|p| {
            (p.metadata.uid.clone().unwrap_or_default(), p.status.and_then(|s| s.start_time).map(|t| t.0))
        })
        .collect();
    let now = jiff::Timestamp::now().to_string();
    let documents: Vec<Value> = by_pod
        .iter()
        .map(|(uid, uses)| pod_document(uid, uses, starts.get(uid).copied().flatten(), &now))
        .collect();
    let (cpu, memory) = machine();
    Ok(json!({
        "node": {
            "nodeName": node.config.node_name,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
            "memory": {"time": now, "workingSetBytes": memory, "usageBytes": memory, "availableBytes": u64::try_from(node.memory_bytes).unwrap_or_default().saturating_sub(memory)},
        },
        "pods": documents,
    }))
}

fn pod_document(uid: &str, uses: &[Use], start: Option<jiff::Timestamp>, now: &str) -> Value {
    let sum = |field: &dyn Fn(&v1::ContainerStats) -> Option<u64>| {
        uses.iter().filter_map(|u| field(&u.stats)).sum::<u64>()
    };
    let core = sum(&|s| value(s.cpu.as_ref()?.usage_core_nano_seconds.as_ref()));
    let set = sum(&|s| value(s.memory.as_ref()?.working_set_bytes.as_ref()));
    let containers: Vec<Value> = uses
        .iter()
        .map(|u| {
            let root = u.stats.writable_layer.as_ref().map(|w| json!({"time": at(w.timestamp), "usedBytes": value(w.used_bytes.as_ref()), "inodesUsed": value(w.inodes_used.as_ref())}));
            json!({"name": u.container, "cpu": cpu(u.stats.cpu.as_ref()), "memory": memory(u.stats.memory.as_ref()), "rootfs": root})
        })
        .collect();
    let (name, namespace) = uses.first().map(|u| (u.pod.clone(), u.namespace.clone())).unwrap_or_default();
    json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": start.map(|t| t.to_string()),
        "containers": containers,
        "cpu": {"time": now, "usageCoreNanoSeconds": core},
        "memory": {"time": now, "workingSetBytes": set},
    })
}

/// Prometheus text, as a metrics server reads it.
pub(crate) async fn resource_metrics(node: &Arc<Node>, _: &Pods) -> Result<String, Error> {
    let uses = uses(node).await?;
    let mut text = String::new();
    let (cpu, memory) = machine();
    let seconds = |nanos: u64| format!("{:.9}", std::time::Duration::from_nanos(nanos).as_secs_f64());
    let millis = |nanos: i64| nanos / 1_000_000;
    let now = jiff::Timestamp::now().as_millisecond();
    // Writing into a String cannot fail.
    let mut put = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    put("# TYPE node_cpu_usage_seconds_total counter".into());
    put(format!("node_cpu_usage_seconds_total {} {now}", seconds(cpu)));
    put("# TYPE node_memory_working_set_bytes gauge".into());
    put(format!("node_memory_working_set_bytes {memory} {now}"));
    let labels =
        |u: &Use| format!("{{container={:?},namespace={:?},pod={:?}}}", u.container, u.namespace, u.pod);
    put("# TYPE container_cpu_usage_seconds_total counter".into());
    for u in &uses {
        if let Some((c, used)) =
            u.stats.cpu.as_ref().and_then(|c| Some((c, value(c.usage_core_nano_seconds.as_ref())?)))
        {
            put(format!(
                "container_cpu_usage_seconds_total{} {} {}",
                labels(u),
                seconds(used),
                millis(c.timestamp)
            ));
        }
    }
    put("# TYPE container_memory_working_set_bytes gauge".into());
    for u in &uses {
        if let Some((m, used)) =
            u.stats.memory.as_ref().and_then(|m| Some((m, value(m.working_set_bytes.as_ref())?)))
        {
            put(format!("container_memory_working_set_bytes{} {used} {}", labels(u), millis(m.timestamp)));
        }
    }
    put("# TYPE resource_scrape_error gauge\nresource_scrape_error 0".into());
    Ok(text)
}
