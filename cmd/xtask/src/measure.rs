//! `cargo xtask measure`: the numbers of `docs/status.md`, taken from a fresh cluster on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Program to measure; a release build by default.
    #[arg(long, default_value = "target/release/knarr")]
    binary: PathBuf,
    /// Archive of an image whose default command keeps running.
    #[arg(long)]
    image_archive: PathBuf,
    /// Its name.
    #[arg(long, default_value = "knarr.local/test/web:1")]
    image: String,
    /// Seconds of idleness.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Pods for create to Running.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Pods to list (they are unschedulable and never run).
    #[arg(long, default_value_t = 10_000)]
    list: usize,
}

struct Server {
    child: Child,
    binary: PathBuf,
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
            eprintln!("stop server: {error}");
        }
        let waited = self.child.wait();
        let removed =
            Command::new(&self.binary).args(["uninstall", "--yes", "--data-dir"]).arg(&self.dir).status();
        println!("server ended: {waited:?}; uninstall: {removed:?}");
    }
}

/// Prints one line a figure.
pub fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let binary = root.join(&options.binary);
    ensure!(binary.exists(), "{} is not there: cargo build --release --package knarr", binary.display());
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(measure(&binary, options))
}

async fn measure(binary: &Path, options: &Options) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("knarr-measure").tempdir_in("/var/tmp")?;
    let (dir, kubeconfig) = (scratch.path().join("data"), scratch.path().join("kubeconfig"));
    println!("binary: {:.1} MB", binary.metadata()?.len() as f64 / 1e6);
    let log = std::fs::File::create(scratch.path().join("log"))?;
    // What is kept beside the configuration stays in this directory, too.
    let config = scratch.path().join("config.yaml");
    std::fs::write(&config, "")?;
    let begun = Instant::now();
    let child = Command::new(binary)
        .args(["server", "--https-listen-port", "16443", "--data-dir"])
        .arg(&dir)
        .arg("--write-kubeconfig")
        .arg(&kubeconfig)
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let pid = child.id();
    let server = Server { child, binary: binary.to_path_buf(), dir: dir.clone() };
    let client = connect(&kubeconfig).await.with_context(|| log_of(scratch.path()))?;
    println!("start -> API answers: {} ms", begun.elapsed().as_millis());
    node_ready(&client).await?;
    println!("start -> node Ready: {} ms", begun.elapsed().as_millis());
    let imported = Command::new(binary)
        .args(["image", "import", "--data-dir"])
        .arg(&dir)
        .arg(&options.image_archive)
        .stdout(Stdio::null())
        .status()?;
    ensure!(imported.success(), "image import failed");
    let first = running(&client, "first", &options.image).await?;
    println!(
        "first pod, create -> Running: {} ms (start -> Running {} ms)",
        first.as_millis(),
        begun.elapsed().as_millis()
    );
    remove(&client, &["first".to_string()]).await?;
    idle(pid, options.idle).await?;
    pods(&client, options).await?;
    creates(&client).await?;
    list(&client, options).await?;
    println!("RSS after all that: {}", memory(pid)?);
    drop(server);
    Ok(())
}

fn log_of(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = async {
            let file = Kubeconfig::read_from(kubeconfig)?;
            let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            client.apiserver_version().await?;
            anyhow::Ok(client)
        };
        match outcome.await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn node_ready(client: &Client) -> anyhow::Result<()> {
    let ready = |node: &Node| {
        node.status
            .as_ref()
            .and_then(|s| s.conditions.as_ref())
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    let mut events = Box::pin(watcher(Api::<Node>::all(client.clone()), watcher::Config::default()));
    let wait = async {
        while let Some(event) = events.next().await {
            if let watcher::Event::Apply(node) | watcher::Event::InitApply(node) = event?
                && ready(&node)
            {
                return Ok(());
            }
        }
        anyhow::bail!("the watch of nodes ended")
    };
    tokio::time::timeout(Duration::from_secs(120), wait).await.context("node Ready in 120 s")?
}

fn pod(name: &str, image: &str) -> anyhow::Result<Pod> {
    let document = format!(
        r#"{{"metadata":{{"name":"{name}","labels":{{"app":"measure"}}}},"spec":{{"terminationGracePeriodSeconds":0,"containers":[{{"name":"c","image":"{image}","imagePullPolicy":"IfNotPresent"}}]}}}}"#
    );
    serde_json::from_str(&document).context("pod document")
}

async fn running(client: &Client, name: &str, image: &str) -> anyhow::Result<Duration> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let fields = format!("metadata.name={name}");
    let begun = Instant::now();
    api.create(&PostParams::default(), &pod(name, image)?).await.context("create pod")?;
    let mut events = Box::pin(watcher(api, watcher::Config::default().fields(&fields)));
    let wait = async {
        while let Some(event) = events.next().await {
            if let watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) = event?
                && pod.status.and_then(|s| s.phase).as_deref() == Some("Running")
            {
                return Ok(begun.elapsed());
            }
        }
        anyhow::bail!("the watch of pod {name} ended")
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .with_context(|| format!("pod {name} Running in 60 s"))?
}

async fn remove(client: &Client, names: &[String]) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    for name in names {
        api.delete(name, &DeleteParams::default()).await?;
    }
    while !api.list(&ListParams::default().labels("app=measure")).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn pods(client: &Client, options: &Options) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut names = Vec::new();
    for i in 0..options.pods {
        let name = format!("measure-{i}");
        times.push(running(client, &name, &options.image).await?.as_millis());
        names.push(name);
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("pod create -> Running over {}: p50 {} ms, p95 {} ms", times.len(), at(50), at(95));
    remove(client, &names).await
}

async fn creates(client: &Client) -> anyhow::Result<()> {
    const EACH: usize = 100;
    const CLIENTS: usize = 64;
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let begun = Instant::now();
    let workers = (0..CLIENTS).map(|w| {
        let api = api.clone();
        async move {
            for i in 0..EACH {
                let object = ConfigMap {
                    metadata: kube::core::ObjectMeta {
                        name: Some(format!("m-{w}-{i}")),
                        ..Default::default()
                    },
                    data: Some([("payload".to_string(), "x".repeat(1024))].into()),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &object).await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(workers).await?;
    println!(
        "durable creates, 64 clients, ConfigMap of 1 KB: {:.0}/s",
        (EACH * CLIENTS) as f64 / begun.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn list(client: &Client, options: &Options) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut template = pod("x", &options.image)?;
    if let Some(spec) = template.spec.as_mut() {
        spec.scheduler_name = Some("nobody".to_string());
        spec.containers[0].args = Some(vec!["x".repeat(1500)]);
    }
    let creates = futures::stream::iter(0..options.list).map(|i| {
        let (api, mut pod) = (api.clone(), template.clone());
        pod.metadata.name = Some(format!("list-{i}"));
        async move { api.create(&PostParams::default(), &pod).await }
    });
    let failed: Vec<_> = creates.buffer_unordered(64).filter_map(async |r| r.err()).collect().await;
    ensure!(failed.is_empty(), "create pods: {:?}", failed.first());
    for attempt in 1..=3 {
        let begun = Instant::now();
        let request =
            kube::core::Request::new("/api/v1/namespaces/default/pods").list(&ListParams::default())?;
        let text = client.request_text(request).await?;
        println!(
            "LIST of {} pods, run {attempt}: {} ms, {:.1} MB",
            options.list,
            begun.elapsed().as_millis(),
            text.len() as f64 / 1e6
        );
    }
    println!(
        "pods counted: {}",
        api.list_metadata(&ListParams::default())
            .await?
            .items
            .iter()
            .filter(|p| p.name_any().starts_with("list-"))
            .count()
    );
    Ok(())
}

async fn idle(pid: u32, seconds: u64) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (cpu, written, switches) = (cpu_ticks(pid)?, written(pid)?, switches(pid)?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let ticks = cpu_ticks(pid)? - cpu;
    let hz = rustix::param::clock_ticks_per_second();
    let bytes = self::written(pid)? - written;
    let wakes = self::switches(pid)?.saturating_sub(switches);
    println!("idle memory: {}", memory(pid)?);
    println!(
        "idle CPU over {seconds} s: {:.2} % of one core",
        ticks as f64 * 100.0 / hz as f64 / seconds as f64
    );
    println!("idle wake-ups: {:.1}/s", wakes as f64 / seconds as f64);
    println!(
        "written while idle: {:.1} KB in {seconds} s, {:.2} MB an hour",
        bytes as f64 / 1e3,
        bytes as f64 * 3600.0 / seconds as f64 / 1e6
    );
    Ok(())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn memory(pid: u32) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(format!(
        "RSS {:.1} MB, PSS {:.1} MB",
        field(&text, "Rss:") as f64 / 1024.0,
        field(&text, "Pss:") as f64 / 1024.0
    ))
}

fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    // utime and stime, the 14th and 15th fields of proc(5), counted behind the command name.
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn written(pid: u32) -> anyhow::Result<u64> {
    Ok(field(&std::fs::read_to_string(format!("/proc/{pid}/io"))?, "write_bytes:"))
}

/// Voluntary context switches of all threads: how often the process went to sleep and was woken.
fn switches(pid: u32) -> anyhow::Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        total += field(&status, "voluntary_ctxt_switches:");
    }
    Ok(total)
}
