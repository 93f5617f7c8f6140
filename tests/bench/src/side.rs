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
    /// Upstream's store.
    endpoint: Option<String>,
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
            Ok((target, started_ms, endpoint)) => {
                let pids = children.iter().map(Child::id).collect();
                Ok(Side { target, endpoint, started_ms, pids, children, knarr, dir })
            }
            Err(error) => {
                let logs: Vec<String> = ["store.log", "server.log"]
                    .iter()
                    .filter_map(|f| std::fs::read_to_string(dir.path().join(f)).ok())
                    .map(|t| t.lines().rev().take(8).collect::<Vec<_>>().join("\n"))
                    .collect();
                let placeholder = Target::new(0, None)?;
                Side {
                    target: placeholder,
                    endpoint: None,
                    started_ms: 0.0,
                    pids: Vec::new(),
                    children,
                    knarr,
                    dir,
                }
                .stop();
                Err(error.context(logs.join("\n")))
            }
        }
    }

    async fn launch(
        &self,
        dir: &Path,
        children: &mut Vec<Child>,
    ) -> anyhow::Result<(Target, f64, Option<String>)> {
        let begun = Instant::now();
        let port = free_port()?;
        if let Self::Knarr(binary) = self {
            let kubeconfig = dir.join("kubeconfig");
            // What is kept beside the configuration stays in this directory, too.
            let config = dir.join("config.yaml");
            std::fs::write(&config, "")?;
            let mut command = Command::new(binary);
            command
                .args(["server", "--https-listen-port", &port.to_string(), "--data-dir"])
                .arg(dir.join("data"));
            command.arg("--config").arg(&config);
            command.arg("--write-kubeconfig").arg(&kubeconfig);
            children.push(spawn(command, dir, "server.log")?);
            let target = Target::new(port, Some(identity(&kubeconfig).await?))?;
            target.ready("/readyz").await?;
            return Ok((target, begun.elapsed().as_secs_f64() * 1e3, None));
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
        Ok((target, begun.elapsed().as_secs_f64() * 1e3, Some(endpoint)))
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

/// Upstream's server of custom resources over the same store. It insists on authentication, so it gets a client CA
/// and a certificate of `system:masters`; the core API that it would ask is not there, and what asks it is left out.
async fn extensions(
    stock: &Path,
    dir: &Path,
    endpoint: &str,
    children: &mut Vec<Child>,
) -> anyhow::Result<Target> {
    let nowhere = dir.join("nowhere.kubeconfig");
    std::fs::write(
        &nowhere,
        "{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, user: x}}], \
         users: [{name: x, user: {}}], clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]}",
    )?;
    let (ca, chain, key) = masters()?;
    std::fs::write(dir.join("ca.crt"), ca)?;
    let port = free_port()?;
    let mut command = Command::new(stock);
    command.arg("apiextensions").args([
        format!("--etcd-servers={endpoint}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--cert-dir={}", dir.join("extensions").display()),
        format!("--client-ca-file={}", dir.join("ca.crt").display()),
        "--authentication-skip-lookup".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
        "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook".to_owned(),
    ]);
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", nowhere.display()));
    }
    children.push(spawn(command, dir, "extensions.log")?);
    let target = Target::new(port, Some((chain, key)))?;
    target.ready("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").await?;
    Ok(target)
}

/// A CA in PEM, and a client certificate of `system:masters` with its key.
fn masters() -> anyhow::Result<(String, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "bench");
    let certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "bench");
    client.distinguished_name.push(DnType::OrganizationName, "system:masters");
    client.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    let signed = client.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow::anyhow!("client key: {e}"))?;
    Ok((certificate.pem(), vec![signed.der().clone()], key))
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
    /// The API of custom resources. Upstream's comes from a server of its own over the same store, which is started
    /// here and counts as part of the side from now on.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn custom(&mut self, recipe: &Recipe) -> anyhow::Result<Target> {
        let (Recipe::Stock(stock) | Recipe::Kine(stock, _), Some(endpoint)) = (recipe, &self.endpoint) else {
            return Ok(self.target.clone());
        };
        let outcome = extensions(stock, self.dir.path(), endpoint, &mut self.children).await;
        self.pids = self.children.iter().map(Child::id).collect();
        outcome.with_context(|| {
            std::fs::read_to_string(self.dir.path().join("extensions.log")).unwrap_or_default()
        })
    }

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
