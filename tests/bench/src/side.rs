//! The sides: how each is started, how it is stopped, and what it consists of.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::wire::Target;

/// How a side is made.
pub enum Recipe {
    /// Upstream's generic API server over etcd.
    Stock(PathBuf),
    /// The same over kine with SQLite.
    Kine(PathBuf, PathBuf),
    /// Ours.
    Knarr(PathBuf),
}

/// A running side.
pub struct Side {
    /// The API.
    pub target: Target,
    /// Milliseconds from start to the first answer.
    pub started_ms: f64,
    /// Process ids.
    pub pids: Vec<u32>,
    children: Vec<Child>,
    knarr: Option<PathBuf>,
    dir: tempfile::TempDir,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Recipe {
    /// The side of a name, when its programs are there.
    ///
    /// # Errors
    /// No side has the name.
    pub fn of(name: &str, options: &crate::Options) -> anyhow::Result<Option<Self>> {
        let there = |path: &Option<PathBuf>| path.clone().filter(|p| p.exists());
        Ok(match name {
            "stock" => there(&options.stock).map(Self::Stock),
            "kine" => there(&options.stock).zip(there(&options.kine)).map(|(s, k)| Self::Kine(s, k)),
            "knarr" => options.knarr.exists().then(|| Self::Knarr(options.knarr.clone())),
            other => bail!("no side {other:?}: stock, kine, knarr"),
        })
    }

    /// What it is.
    pub fn about(&self) -> &'static str {
        match self {
            Self::Stock(_) => {
                "generic API server v0.37 (typed objects stored as protobuf; no authentication, RBAC or admission) + etcd 3.7, fsync on"
            }
            Self::Kine(..) => "the same API server + kine 0.16 with SQLite",
            Self::Knarr(_) => {
                "knarr server, everything on (mTLS, RBAC, admission, controllers, scheduler, node), SQLite with synchronous=FULL"
            }
        }
    }

    /// Starts it with an empty store, or with what an earlier run left in `dir`.
    ///
    /// # Errors
    /// It does not answer; the last lines of its log are in the error.
    pub async fn start(&self, dir: Option<tempfile::TempDir>) -> anyhow::Result<Side> {
        let dir = match dir {
            Some(dir) => dir,
            None => tempfile::Builder::new().prefix("knarr-bench").tempdir_in("/var/tmp")?,
        };
        let mut children = Vec::new();
        let outcome = self.launch(dir.path(), &mut children).await;
        let knarr = if let Self::Knarr(path) = self { Some(path.clone()) } else { None };
        match outcome {
            Ok((target, started_ms)) => {
                let pids = children.iter().map(Child::id).collect();
                Ok(Side { target, started_ms, pids, children, knarr, dir })
            }
            Err(error) => {
                let logs: Vec<String> = ["store.log", "server.log"]
                    .iter()
                    .filter_map(|f| std::fs::read_to_string(dir.path().join(f)).ok())
                    .map(|t| t.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
                    .collect();
                let placeholder = Target::new(0, None)?;
                Side { target: placeholder, started_ms: 0.0, pids: Vec::new(), children, knarr, dir }.stop();
                Err(error.context(logs.join("\n")))
            }
        }
    }

    async fn launch(&self, dir: &Path, children: &mut Vec<Child>) -> anyhow::Result<(Target, f64)> {
        let begun = Instant::now();
        let port = free_port()?;
        if let Self::Knarr(binary) = self {
            let kubeconfig = dir.join("kubeconfig");
            let mut command = Command::new(binary);
            command
                .args(["server", "--https-listen-port", &port.to_string(), "--data-dir"])
                .arg(dir.join("data"));
            command.arg("--write-kubeconfig").arg(&kubeconfig);
            children.push(spawn(command, dir, "server.log")?);
            let target = Target::new(port, Some(identity(&kubeconfig).await?))?;
            target.ready("/readyz").await?;
            return Ok((target, begun.elapsed().as_secs_f64() * 1e3));
        }
        let (Self::Stock(stock) | Self::Kine(stock, _)) = self else { bail!("no such side") };
        let endpoint = format!("http://127.0.0.1:{}", free_port()?);
        children.push(spawn(self.store(dir, &endpoint)?, dir, "store.log")?);
        let mut command = Command::new(stock);
        command.arg("core").args([
            format!("--etcd-servers={endpoint}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", dir.join("certs").display()),
        ]);
        children.push(spawn(command, dir, "server.log")?);
        let target = Target::new(port, None)?;
        target.ready("/readyz").await?;
        Ok((target, begun.elapsed().as_secs_f64() * 1e3))
    }

    fn store(&self, dir: &Path, endpoint: &str) -> anyhow::Result<Command> {
        match self {
            Self::Kine(_, kine) => {
                let mut command = Command::new(kine);
                let database = dir.join("kine.db");
                command.args([
                    format!("--listen-address={}", endpoint.replace("http://", "tcp://")),
                    format!("--endpoint=sqlite://{}?_journal=WAL&cache=shared&_busy_timeout=30000&_synchronous=FULL", database.display()),
                    "--metrics-bind-address=0".to_owned(),
                ]);
                Ok(command)
            }
            Self::Stock(stock) => {
                let peer = format!("http://127.0.0.1:{}", free_port()?);
                let mut command = Command::new(stock);
                command.arg("etcd").args([
                    format!("--data-dir={}", dir.join("etcd").display()),
                    format!("--listen-client-urls={endpoint}"),
                    format!("--advertise-client-urls={endpoint}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster=default={peer}"),
                    "--log-level=error".to_owned(),
                ]);
                Ok(command)
            }
            Self::Knarr(_) => bail!("knarr has its store inside"),
        }
    }
}

fn spawn(mut command: Command, dir: &Path, log: &str) -> anyhow::Result<Child> {
    let file = std::fs::File::create(dir.join(log))?;
    let named = format!("{command:?}");
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context(named)
}

/// The admin certificate of a kubeconfig that is about to be written.
async fn identity(
    kubeconfig: &Path,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(text) = std::fs::read_to_string(kubeconfig)
            && let Ok(document) = serde_saphyr::from_str::<Value>(&text)
        {
            let user = &document["users"][0]["user"];
            let pem = |field: &str| -> anyhow::Result<Vec<u8>> {
                let text = user[field].as_str().context(field.to_owned())?;
                Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
            };
            let chain = CertificateDer::pem_slice_iter(&pem("client-certificate-data")?)
                .collect::<Result<Vec<_>, _>>()?;
            return Ok((chain, PrivateKeyDer::from_pem_slice(&pem("client-key-data")?)?));
        }
        ensure!(Instant::now() < deadline, "{} was not written in 60 s", kubeconfig.display());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Side {
    fn end(&mut self) {
        for child in self.children.iter_mut().rev() {
            let pid = rustix::process::Pid::from_child(child);
            if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
                eprintln!("stop {pid:?}: {error}");
            }
            if let Err(error) = child.wait() {
                eprintln!("wait for {pid:?}: {error}");
            }
        }
        self.children.clear();
    }

    /// Stops it and starts it again over the same data.
    ///
    /// # Errors
    /// As [`Recipe::start`].
    pub async fn restart(mut self, recipe: &Recipe) -> anyhow::Result<Side> {
        self.end();
        let kubeconfig = self.dir.path().join("kubeconfig");
        if kubeconfig.exists() {
            std::fs::remove_file(kubeconfig)?;
        }
        let fresh = tempfile::Builder::new().prefix("knarr-bench").tempdir_in("/var/tmp")?;
        let dir = std::mem::replace(&mut self.dir, fresh);
        self.knarr = None;
        recipe.start(Some(dir)).await
    }

    /// Stops it and undoes what it did to the host.
    pub fn stop(mut self) {
        self.end();
        if let Some(knarr) = &self.knarr {
            let mut command = Command::new(knarr);
            command
                .args(["uninstall", "--yes", "--data-dir"])
                .arg(self.dir.path().join("data"))
                .stdout(Stdio::null());
            match command.status() {
                Ok(status) if status.success() => {}
                other => eprintln!("uninstall: {other:?}"),
            }
        }
    }
}
