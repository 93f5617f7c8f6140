//! Documents of the metrics API (metrics.k8s.io/v1beta1), made from the kubelets' summaries.
//!
//! Entry points: [`Source`] (fetches and remembers), [`node_metrics`] and [`pod_metrics`] (pure). Nothing is
//! fetched while nobody asks. Where a kubelet gives no rate of its own, the rate is taken between two summaries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use parking_lot::Mutex;
use serde_json::{Value, json};

const API_VERSION: &str = "metrics.k8s.io/v1beta1";
/// The window reported for a rate that the kubelet took itself.
const KUBELET_WINDOW: Duration = Duration::from_secs(10);
/// Time between the two summaries of a node that was not asked about before.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// A summary serves as the start of a rate up to this age.
const OLDEST_START: Duration = Duration::from_secs(120);
/// A start is replaced by a newer summary from this age on.
const RENEW_START: Duration = Duration::from_secs(15);
/// Nodes asked at one time.
const AT_ONCE: usize = 16;
/// How long one kubelet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// Usage of one node or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    nano_cores: u64,
    bytes: u64,
    at: Timestamp,
    window: Duration,
}

fn time(v: Option<&Value>) -> Option<Timestamp> {
    v?.as_str()?.parse().ok()
}

/// Usage from a node's or container's part of a summary, with the same part of an older summary.
fn usage(now: &Value, before: Option<&Value>) -> Option<Usage> {
    let bytes = now.pointer("/memory/workingSetBytes")?.as_u64()?;
    let at = time(now.pointer("/cpu/time"))?;
    if let Some(nano_cores) = now.pointer("/cpu/usageNanoCores").and_then(Value::as_u64) {
        return Some(Usage { nano_cores, bytes, at, window: KUBELET_WINDOW });
    }
    let total = |v: &Value| v.pointer("/cpu/usageCoreNanoSeconds").and_then(Value::as_u64);
    let before = before?;
    let used = total(now)?.checked_sub(total(before)?)?;
    let elapsed = at.as_nanosecond().checked_sub(time(before.pointer("/cpu/time"))?.as_nanosecond())?;
    let elapsed = u64::try_from(elapsed).ok().filter(|n| *n > 0)?;
    let nano_cores = u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).ok()?;
    Some(Usage { nano_cores, bytes, at, window: Duration::from_nanos(elapsed) })
}

fn quantities(u: &Usage) -> Value {
    json!({"cpu": format!("{}n", u.nano_cores), "memory": format!("{}Ki", u.bytes / 1024)})
}

/// As Go writes durations of whole milliseconds.
fn window(d: Duration) -> String {
    let ms = d.as_millis().max(1);
    if ms.is_multiple_of(1000) {
        let (minutes, seconds) = (ms / 60_000, ms / 1000 % 60);
        return if minutes > 0 { format!("{minutes}m{seconds}s") } else { format!("{seconds}s") };
    }
    let seconds = format!("{}.{:03}", ms / 1000 % 60, ms % 1000);
    let seconds = seconds.trim_end_matches('0');
    if ms >= 60_000 { format!("{}m{seconds}s", ms / 60_000) } else { format!("{seconds}s") }
}

fn rfc3339(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The NodeMetrics document of a node; `None` when the summaries do not tell its usage (yet).
pub fn node_metrics(name: &str, labels: &Labels, summary: &Value, before: Option<&Value>) -> Option<Value> {
    let u = usage(summary.get("node")?, before.and_then(|b| b.get("node")))?;
    Some(json!({
        "kind": "NodeMetrics",
        "apiVersion": API_VERSION,
        "metadata": {"name": name, "creationTimestamp": rfc3339(Timestamp::now()), "labels": labels},
        "timestamp": rfc3339(u.at),
        "window": window(u.window),
        "usage": quantities(&u),
    }))
}

fn pod_key(pod: &Value) -> Option<(&str, &str, &str)> {
    let part = |name: &str| pod.pointer(&format!("/podRef/{name}")).and_then(Value::as_str);
    Some((part("namespace")?, part("name")?, part("uid").unwrap_or_default()))
}

fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod.get("containers")?.as_array()?.iter().find(|c| c.get("name").and_then(Value::as_str) == Some(name))
}

/// The PodMetrics documents of a node's pods for which `labels` knows a pod. A pod of which a container's usage
/// is not told is left out: half a pod would be taken for the whole.
pub fn pod_metrics(
    summary: &Value,
    before: Option<&Value>,
    labels: impl Fn(&str, &str) -> Option<Labels>,
) -> Vec<Value> {
    let pods = |s: &'_ Value| s.get("pods").and_then(Value::as_array).cloned().unwrap_or_default();
    let earlier = before.map(pods).unwrap_or_default();
    let earlier: HashMap<_, _> = earlier.iter().filter_map(|p| Some((pod_key(p)?, p))).collect();
    let mut out = Vec::new();
    for pod in summary.get("pods").and_then(Value::as_array).into_iter().flatten() {
        let Some(key) = pod_key(pod) else { continue };
        let Some(labels) = labels(key.0, key.1) else { continue };
        let before = earlier.get(&key);
        let containers = pod.get("containers").and_then(Value::as_array).into_iter().flatten();
        let used: Option<Vec<(String, Usage)>> = containers
            .map(|c| {
                let name = c.get("name")?.as_str()?;
                Some((name.to_owned(), usage(c, before.and_then(|b| container(b, name)))?))
            })
            .collect();
        let Some(used) = used.filter(|u| !u.is_empty()) else { continue };
        // The oldest of the times holds for all.
        let Some(oldest) = used.iter().map(|(_, u)| u).min_by_key(|u| u.at) else { continue };
        let containers: Vec<Value> =
            used.iter().map(|(n, u)| json!({"name": n, "usage": quantities(u)})).collect();
        out.push(json!({
            "kind": "PodMetrics",
            "apiVersion": API_VERSION,
            "metadata": {"name": key.1, "namespace": key.0, "creationTimestamp": rfc3339(Timestamp::now()), "labels": labels},
            "timestamp": rfc3339(oldest.at),
            "window": window(oldest.window),
            "containers": containers,
        }));
    }
    out
}

/// Gets `/stats/summary` of the kubelet of the named node.
pub type Fetch = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Value, String>> + Send + Sync>;

#[derive(Debug, Clone)]
struct Sample {
    taken: Instant,
    summary: Arc<Value>,
}

/// Fetches summaries and makes documents of them.
pub struct Source {
    client: Client,
    fetch: Fetch,
    starts: Mutex<HashMap<String, Sample>>,
}

/// True if some part of the summary tells no rate itself.
fn needs_start(summary: &Value) -> bool {
    let lacks = |v: &Value| v.get("cpu").is_some() && v.pointer("/cpu/usageNanoCores").is_none();
    let containers = summary.get("pods").and_then(Value::as_array).into_iter().flatten();
    let mut containers = containers.filter_map(|p| p.get("containers")?.as_array()).flatten();
    summary.get("node").is_some_and(lacks) || containers.any(lacks)
}

impl Source {
    /// Nodes and pods are looked up with `client`, summaries with `fetch`.
    pub fn new(client: Client, fetch: Fetch) -> Self {
        Self { client, fetch, starts: Mutex::new(HashMap::new()) }
    }

    /// NodeMetrics of all nodes that answer, or of the named one, ordered by name.
    pub async fn node_metrics(&self, name: Option<&str>) -> Result<Vec<Value>, kube::Error> {
        let nodes = self.nodes(name).await?;
        let mut out = Vec::new();
        for (node, now, start) in self.summaries(nodes).await {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let labels = node.metadata.labels.clone().unwrap_or_default();
            out.extend(node_metrics(name, &labels, &now, start.as_deref()));
        }
        Ok(out)
    }

    /// PodMetrics of all pods, of one namespace's or of one pod, ordered by namespace and name.
    pub async fn pod_metrics(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<Value>, kube::Error> {
        let api: Api<Pod> = match namespace {
            Some(ns) => Api::namespaced(self.client.clone(), ns),
            None => Api::all(self.client.clone()),
        };
        let mut params = ListParams::default();
        if let Some(name) = name {
            params = params.fields(&format!("metadata.name={name}"));
        }
        let pods = api.list(&params).await?.items;
        let mut labels: HashMap<(String, String), Labels> = HashMap::new();
        let mut on_nodes: Vec<String> = Vec::new();
        for p in pods {
            let Some(node) = p.spec.as_ref().and_then(|s| s.node_name.clone()) else { continue };
            on_nodes.push(node);
            let key = (p.metadata.namespace.unwrap_or_default(), p.metadata.name.unwrap_or_default());
            labels.insert(key, p.metadata.labels.unwrap_or_default());
        }
        let mut nodes = self.nodes(None).await?;
        nodes.retain(|n| n.metadata.name.as_ref().is_some_and(|n| on_nodes.contains(n)));
        let mut out = Vec::new();
        for (_, now, start) in self.summaries(nodes).await {
            let known = |ns: &str, name: &str| labels.get(&(ns.to_owned(), name.to_owned())).cloned();
            out.extend(pod_metrics(&now, start.as_deref(), known));
        }
        let text = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        out.sort_by_key(|v| (text(v, "/metadata/namespace"), text(v, "/metadata/name")));
        Ok(out)
    }

    async fn nodes(&self, name: Option<&str>) -> Result<Vec<Node>, kube::Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        match name {
            Some(name) => Ok(api.get_opt(name).await?.into_iter().collect()),
            None => Ok(api.list(&ListParams::default()).await?.items),
        }
    }

    /// Current summaries and their starts, of those nodes that answer, in the given order.
    async fn summaries(&self, nodes: Vec<Node>) -> Vec<(Node, Arc<Value>, Option<Arc<Value>>)> {
        let each = nodes.into_iter().map(|node| async move {
            let name = node.metadata.name.clone().unwrap_or_default();
            match self.summary(&name).await {
                Ok((now, start)) => Some((node, now, start)),
                Err(e) => {
                    tracing::warn!(node = name, error = e, "no metrics of this node");
                    None
                }
            }
        });
        futures::stream::iter(each).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn fetch(&self, node: &str) -> Result<Sample, String> {
        let fetched = tokio::time::timeout(PATIENCE, (self.fetch)(node.to_owned())).await;
        let summary = fetched.map_err(|_| format!("kubelet did not answer within {PATIENCE:?}"))??;
        Ok(Sample { taken: Instant::now(), summary: Arc::new(summary) })
    }

    async fn summary(&self, node: &str) -> Result<(Arc<Value>, Option<Arc<Value>>), String> {
        let mut now = self.fetch(node).await?;
        if !needs_start(&now.summary) {
            return Ok((now.summary, None));
        }
        let known = self.starts.lock().get(node).cloned();
        let usable = |s: &Sample| (FIRST_INTERVAL..=OLDEST_START).contains(&s.taken.elapsed());
        let start = match known.filter(usable) {
            Some(start) => start,
            None => {
                tokio::time::sleep(FIRST_INTERVAL).await;
                std::mem::replace(&mut now, self.fetch(node).await?)
            }
        };
        let keep = if start.taken.elapsed() >= RENEW_START { &now } else { &start };
        self.starts.lock().insert(node.to_owned(), keep.clone());
        Ok((now.summary, Some(start.summary)))
    }
}

/// The list document of NodeMetrics or PodMetrics.
pub fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": format!("{kind}List"), "apiVersion": API_VERSION, "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(seconds: u32, used: u64, bytes: u64) -> Value {
        json!({"cpu": {"time": format!("2026-01-01T00:00:{seconds:02}Z"), "usageCoreNanoSeconds": used},
            "memory": {"workingSetBytes": bytes}})
    }

    fn summary(seconds: u32, used: u64) -> Value {
        let mut c = part(seconds, used, 4096);
        c["name"] = json!("web");
        json!({"node": part(seconds, used, 2048), "pods": [
            {"podRef": {"name": "p", "namespace": "d", "uid": "1"}, "containers": [c]},
            {"podRef": {"name": "unknown", "namespace": "d", "uid": "2"}, "containers": []}]})
    }

    #[test]
    fn rates_come_from_the_kubelet_or_from_two_summaries() {
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let (before, now) = (summary(0, 1_000_000_000), summary(10, 3_000_000_000));
        assert_eq!(node_metrics("n", &labels, &now, None), None);
        let m = node_metrics("n", &labels, &now, Some(&before)).unwrap();
        assert_eq!(m["usage"], json!({"cpu": "200000000n", "memory": "2Ki"}));
        assert_eq!((&m["window"], &m["timestamp"]), (&json!("10s"), &json!("2026-01-01T00:00:10Z")));
        assert_eq!(m["metadata"]["labels"]["a"], "b");
        let mut own = now.clone();
        own["node"]["cpu"]["usageNanoCores"] = json!(7);
        assert_eq!(node_metrics("n", &labels, &own, None).unwrap()["usage"]["cpu"], "7n");
        assert!(needs_start(&own));

        let known = |_: &str, name: &str| (name == "p").then(Labels::new);
        let pods = pod_metrics(&now, Some(&before), known);
        assert_eq!(pods.len(), 1);
        assert_eq!(
            pods[0]["containers"],
            json!([{"name": "web", "usage": {"cpu": "200000000n", "memory": "4Ki"}}])
        );
        assert!(pod_metrics(&now, None, known).is_empty());
        // A container that was restarted counts from zero again.
        assert!(pod_metrics(&before, Some(&now), known).is_empty());
    }

    #[test]
    fn windows_read_as_durations() {
        for (ms, want) in
            [(10_000, "10s"), (1_500, "1.5s"), (60_000, "1m0s"), (75_250, "1m15.25s"), (0, "0.001s")]
        {
            assert_eq!(window(Duration::from_millis(ms)), want);
        }
    }
}
