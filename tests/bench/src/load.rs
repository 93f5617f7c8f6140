//! Load on one side: the same requests for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;

use crate::process::{Usage, children, resident_mb, usage};
use crate::side::{Recipe, Side};
use crate::wire::{Connection, Target};

/// Body of an object.
pub const JSON: (&str, &str) = ("content-type", "application/json");
/// Body of a merge patch.
pub const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// How much.
pub struct Plan {
    /// Length of each closed-loop measurement.
    pub each: Duration,
    /// Parallel clients.
    pub clients: &'static [usize],
    /// Pods in the lists.
    pub pods: usize,
    /// Config maps for the memory figure.
    pub objects: usize,
    /// Watchers of one event.
    pub watchers: usize,
    /// Events for the fan-out.
    pub events: usize,
    /// Length of idleness.
    pub idle: Duration,
}

impl Plan {
    /// For results.
    pub fn whole() -> Self {
        Self {
            each: Duration::from_secs(4),
            clients: &[1, 16, 64, 256],
            pods: 10_000,
            objects: 100_000,
            watchers: 1000,
            events: 100,
            idle: Duration::from_secs(30),
        }
    }

    /// For a look.
    pub fn quick() -> Self {
        Self {
            each: Duration::from_secs(1),
            clients: &[1, 64],
            pods: 2_000,
            objects: 5_000,
            watchers: 200,
            events: 20,
            idle: Duration::from_secs(5),
        }
    }
}

/// One figure: what, its unit, its value, and whether less is better.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Row of the table.
    pub what: String,
    /// Unit of the value.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
    /// Less is better.
    pub less: bool,
}

/// The figures of one side, in order.
pub struct Sheet(Vec<Figure>);

impl Sheet {
    /// Adds a figure and prints it.
    pub fn put(&mut self, what: impl Into<String>, unit: &'static str, value: f64, less: bool) {
        let what = what.into();
        println!("  {what}: {value:.3} {unit}");
        self.0.push(Figure { what, unit, value, less });
    }
}

/// Everything, in order.
///
/// # Errors
/// A request fails, or the side ends.
pub async fn all(recipe: &Recipe, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut sheet = Sheet(Vec::new());
    let mut side = recipe.start(None).await?;
    sheet.put("start, empty store -> ready", "ms", side.started_ms, true);
    let mut outcome = loads(&side, plan, &mut sheet).await;
    if outcome.is_ok() {
        outcome = crate::custom::all(&mut side, recipe, plan, &mut sheet).await;
    }
    let side = match outcome {
        Ok(()) => side.restart(recipe).await?,
        Err(error) => {
            side.stop();
            return Err(error);
        }
    };
    sheet.put("start, full store -> ready", "ms", side.started_ms, true);
    side.stop();
    Ok(sheet.0)
}

async fn loads(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    let one = side.target.connect().await?;
    settle(&one).await?;
    idle(side, plan, sheet).await?;
    for clients in plan.clients {
        writes(side, plan, *clients, sheet).await?;
    }
    mixed(side, plan, sheet).await?;
    fan_out(side, plan, sheet).await?;
    lists(side, plan, sheet).await?;
    memory(side, plan, sheet).await
}

/// Ours has a default namespace and a service account a moment after it is ready.
async fn settle(one: &Connection) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, body) = one.raw(Method::POST, PODS, &[JSON], pod("settle", 0)).await?;
        if (200..300).contains(&status) {
            one.done(Method::DELETE, &format!("{PODS}/settle?gracePeriodSeconds=0"), &[], Bytes::new())
                .await?;
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "a pod is still refused: {}", String::from_utf8_lossy(&body));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn idle(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    tokio::time::sleep(plan.idle.min(Duration::from_secs(10))).await;
    let before = usage(&side.pids)?;
    tokio::time::sleep(plan.idle).await;
    let used = usage(&side.pids)?.since(before);
    let seconds = plan.idle.as_secs_f64();
    sheet.put("idle, resident memory", "MB", resident_mb(&side.pids)?.iter().sum(), true);
    let below = children(&side.pids)?;
    if !below.is_empty() {
        sheet.put("idle, containerd that the node runs", "MB", resident_mb(&below)?.iter().sum(), true);
    }
    sheet.put("idle, CPU of one core", "%", used.cpu_ms / seconds / 10.0, true);
    sheet.put("idle, wake-ups", "/s", used.wakeups as f64 / seconds, true);
    sheet.put("idle, written", "KB/s", used.written as f64 / seconds / 1e3, true);
    Ok(())
}

fn config_map(name: &str, size: usize, salt: usize) -> Bytes {
    let payload = "x".repeat(size);
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"salt":"{salt}","payload":"{payload}"}}}}"#
    ))
}

/// A pod of about 2.3 KB that nobody schedules; one in ten has the label `tenth=yes`.
fn pod(name: &str, number: usize) -> Bytes {
    let filler = "x".repeat(1500);
    let tenth = if number.is_multiple_of(10) { "yes" } else { "no" };
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"bench","tenth":"{tenth}"}}}},"spec":{{"schedulerName":"nobody","restartPolicy":"Always","terminationGracePeriodSeconds":0,"dnsPolicy":"ClusterFirst","containers":[{{"name":"c","image":"registry.example/bench:1","imagePullPolicy":"IfNotPresent","args":["{filler}"],"env":[{{"name":"A","value":"1"}},{{"name":"B","value":"2"}}],"resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}}]}}}}"#
    ))
}

/// What a closed loop of clients brought.
pub struct Run {
    latencies: Vec<f64>,
    seconds: f64,
    used: Usage,
}

impl Run {
    /// Requests in a second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// Latency in milliseconds that a share of the requests did not exceed.
    pub fn at(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }

    /// CPU of the side for one request, in milliseconds.
    pub fn cpu_each(&self) -> f64 {
        self.used.cpu_ms / self.latencies.len().max(1) as f64
    }

    fn kilobytes_each(&self) -> f64 {
        self.used.written as f64 / 1e3 / self.latencies.len().max(1) as f64
    }
}

/// `sorted` need not be: it is copied.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len().saturating_sub(1)) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Each client sends the next request to `target` as soon as it has an answer. `request` gets client and number.
///
/// # Errors
/// A request fails, or the side ends.
pub async fn closed_loop<F>(
    side: &Side,
    target: &Target,
    clients: usize,
    length: Duration,
    request: F,
) -> anyhow::Result<Run>
where
    F: Fn(usize, usize) -> (Method, String, Vec<(&'static str, &'static str)>, Bytes) + Send + Sync + 'static,
{
    let connections = target.connections(clients).await?;
    let request = Arc::new(request);
    let before = usage(&side.pids)?;
    let begun = Instant::now();
    let workers = connections.into_iter().enumerate().map(|(client, connection)| {
        let request = request.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            for number in 0.. {
                let sent = Instant::now();
                if sent.duration_since(begun) >= length {
                    break;
                }
                let (method, path, headers, body) = request(client, number);
                connection.done(method, &path, &headers, body).await?;
                latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(latencies)
        })
    });
    let mut latencies = Vec::new();
    for worker in futures::future::join_all(workers).await {
        latencies.extend(worker??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Run { latencies, seconds, used: usage(&side.pids)?.since(before) })
}

async fn writes(side: &Side, plan: &Plan, clients: usize, sheet: &mut Sheet) -> anyhow::Result<()> {
    let created = closed_loop(side, &side.target, clients, plan.each, move |client, number| {
        let body = config_map(&format!("w{clients}-{client}-{number}"), 1024, number);
        (Method::POST, MAPS.to_owned(), vec![JSON], body)
    })
    .await?;
    let gotten = closed_loop(side, &side.target, clients, plan.each, move |client, _| {
        (Method::GET, format!("{MAPS}/w{clients}-{client}-0"), vec![], Bytes::new())
    })
    .await?;
    let small: Vec<_> = (0..clients).collect();
    let one = side.target.connect().await?;
    for client in small {
        let body = config_map(&format!("u{clients}-{client}"), 200, 0);
        one.done(Method::POST, MAPS, &[JSON], body).await?;
    }
    let updated = closed_loop(side, &side.target, clients, plan.each, move |client, number| {
        let name = format!("u{clients}-{client}");
        (Method::PUT, format!("{MAPS}/{name}"), vec![JSON], config_map(&name, 200, number + 1))
    })
    .await?;
    let patched = closed_loop(side, &side.target, clients, plan.each, move |client, number| {
        let body = Bytes::from(format!(r#"{{"data":{{"salt":"p{number}"}}}}"#));
        (Method::PATCH, format!("{MAPS}/u{clients}-{client}"), vec![MERGE], body)
    })
    .await?;
    let named = |verb: &str| format!("{verb}, {clients} client{}", if clients == 1 { "" } else { "s" });
    for (verb, run) in [
        ("create ConfigMap of 1 KB", &created),
        ("get", &gotten),
        ("update of 400 bytes", &updated),
        ("merge patch", &patched),
    ] {
        sheet.put(named(verb), "/s", run.per_second(), false);
        sheet.put(format!("{}, p99", named(verb)), "ms", run.at(0.99), true);
        sheet.put(format!("{}, server CPU", named(verb)), "ms each", run.cpu_each(), true);
    }
    sheet.put(
        format!("{}, written", named("update of 400 bytes")),
        "KB each",
        updated.kilobytes_each(),
        true,
    );
    Ok(())
}

async fn mixed(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    // Four reads, one write; the objects are those of the first round of updates.
    let first = plan.clients[0];
    let run = closed_loop(side, &side.target, 32, plan.each, move |client, number| {
        let path = format!("{MAPS}/u{first}-0");
        if number % 5 == 4 {
            let body = Bytes::from(format!(r#"{{"data":{{"c{client}":"{number}"}}}}"#));
            (Method::PATCH, path, vec![MERGE], body)
        } else {
            (Method::GET, path, vec![], Bytes::new())
        }
    })
    .await?;
    sheet.put("mixed 4:1 on one object, 32 clients", "/s", run.per_second(), false);
    sheet.put("mixed 4:1 on one object, 32 clients, p50", "ms", run.at(0.5), true);
    sheet.put("mixed 4:1 on one object, 32 clients, p99", "ms", run.at(0.99), true);
    Ok(())
}

/// Watches one object and sends the moments at which events arrive.
async fn watch(
    connection: Connection,
    seen: tokio::sync::mpsc::UnboundedSender<Instant>,
) -> anyhow::Result<()> {
    let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dfan&resourceVersion=0");
    let response = connection.send(Method::GET, &path, &[], Bytes::new()).await?;
    ensure!(response.status() == 200, "watch: {}", response.status());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let now = Instant::now();
        for _ in data.iter().filter(|b| **b == b'\n') {
            if seen.send(now).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn fan_out(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    let writer = side.target.connect().await?;
    writer.done(Method::POST, MAPS, &[JSON], config_map("fan", 200, 0)).await?;
    let (seen, mut moments) = tokio::sync::mpsc::unbounded_channel();
    let tasks: Vec<_> = side
        .target
        .connections(plan.watchers)
        .await?
        .into_iter()
        .map(|connection| tokio::spawn(watch(connection, seen.clone())))
        .collect();
    drop(seen);
    // Each begins with the object as it is.
    collect(&mut moments, plan.watchers).await.context("first events")?;
    let before = usage(&side.pids)?;
    let mut delays = Vec::new();
    for number in 0..plan.events {
        let sent = Instant::now();
        writer.done(Method::PUT, &format!("{MAPS}/fan"), &[JSON], config_map("fan", 200, number + 1)).await?;
        let arrived =
            collect(&mut moments, plan.watchers).await.with_context(|| format!("event {number}"))?;
        delays.extend(arrived.iter().map(|at| at.duration_since(sent).as_secs_f64() * 1e3));
    }
    let used = usage(&side.pids)?.since(before);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let what = format!("one event to {} watchers", plan.watchers);
    sheet.put(format!("{what}, p50 from send"), "ms", percentile(&delays, 0.5), true);
    sheet.put(format!("{what}, p99 from send"), "ms", percentile(&delays, 0.99), true);
    sheet.put(format!("{what}, server CPU"), "ms an event", used.cpu_ms / plan.events as f64, true);
    Ok(())
}

async fn collect(
    moments: &mut tokio::sync::mpsc::UnboundedReceiver<Instant>,
    count: usize,
) -> anyhow::Result<Vec<Instant>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), moments.recv()).await;
        let next = next.with_context(|| format!("{} of {count} watchers heard of it in 30 s", all.len()))?;
        all.push(next.context("all watches have ended")?);
    }
    Ok(all)
}

/// Creates `count` objects with 64 clients.
pub async fn fill(
    target: &Target,
    count: usize,
    path: &'static str,
    object: impl Fn(usize) -> Bytes + Send + Sync + 'static,
) -> anyhow::Result<f64> {
    let (next, object) = (Arc::new(AtomicUsize::new(0)), Arc::new(object));
    let begun = Instant::now();
    let workers = target.connections(64).await?.into_iter().map(|connection| {
        let (next, object) = (next.clone(), object.clone());
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                connection.done(Method::POST, path, &[JSON], object(number)).await?;
            }
        })
    });
    for worker in futures::future::join_all(workers).await {
        worker??;
    }
    Ok(begun.elapsed().as_secs_f64())
}

async fn lists(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    let before = usage(&side.pids)?;
    let seconds = fill(&side.target, plan.pods, PODS, |number| pod(&format!("p{number}"), number)).await?;
    let used = usage(&side.pids)?.since(before);
    sheet.put("create Pod of 2.3 KB, 64 clients", "/s", plan.pods as f64 / seconds, false);
    sheet.put(
        "create Pod of 2.3 KB, 64 clients, server CPU",
        "ms each",
        used.cpu_ms / plan.pods as f64,
        true,
    );
    let memory: f64 = resident_mb(&side.pids)?.iter().sum();
    sheet.put(format!("resident memory with {} pods", plan.pods), "MB", memory, true);
    const PROTOBUF: (&str, &str) = ("accept", "application/vnd.kubernetes.protobuf");
    const GZIP: (&str, &str) = ("accept-encoding", "gzip");
    for (what, query, headers) in [
        ("JSON", "?resourceVersion=0", &[][..]),
        ("JSON, consistent", "", &[]),
        ("protobuf", "?resourceVersion=0", &[PROTOBUF]),
        ("JSON, gzip", "?resourceVersion=0", &[GZIP]),
        ("one tenth by label, JSON", "?labelSelector=tenth%3Dyes&resourceVersion=0", &[]),
        (
            "metadata only, JSON",
            "?resourceVersion=0",
            &[("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")],
        ),
    ] {
        let one = side.target.connect().await?;
        let (mut times, mut bytes) = (Vec::new(), 0);
        let before = usage(&side.pids)?;
        for _ in 0..5 {
            let begun = Instant::now();
            bytes = one.done(Method::GET, &format!("{PODS}{query}"), headers, Bytes::new()).await?.len();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let used = usage(&side.pids)?.since(before);
        println!("  ({:.1} MB)", bytes as f64 / 1e6);
        let what = format!("LIST of {} pods, {what}", plan.pods);
        sheet.put(what.clone(), "ms", percentile(&times, 0.5), true);
        sheet.put(format!("{what}, server CPU"), "ms each", used.cpu_ms / 5.0, true);
    }
    chunks(side, plan, sheet).await
}

async fn chunks(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    let one = side.target.connect().await?;
    let begun = Instant::now();
    let (mut token, mut items) = (String::new(), 0);
    loop {
        let path = format!("{PODS}?limit=500&continue={token}");
        let body = one.done(Method::GET, &path, &[], Bytes::new()).await?;
        let page: serde_json::Value = serde_json::from_slice(&body)?;
        items += page["items"].as_array().map_or(0, Vec::len);
        token = page["metadata"]["continue"].as_str().unwrap_or_default().replace('=', "%3D");
        if token.is_empty() {
            break;
        }
    }
    ensure!(items >= plan.pods, "chunked list: {items} items");
    let what = format!("LIST of {} pods in chunks of 500, parsed by the client", plan.pods);
    sheet.put(what, "ms", begun.elapsed().as_secs_f64() * 1e3, true);
    Ok(())
}

async fn memory(side: &Side, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    fill(&side.target, plan.objects, MAPS, |number| config_map(&format!("m{number}"), 400, number)).await?;
    let all: f64 = resident_mb(&side.pids)?.iter().sum();
    sheet.put(format!("resident memory with {} more ConfigMaps", plan.objects), "MB", all, true);
    Ok(())
}
