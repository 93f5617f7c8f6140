//! Starts and supervises containerd with its own root, state, socket and configuration.
//!
//! Containers belong to their shims, not to containerd: neither a restart of knarr nor one of containerd ends them.
//! A containerd that an earlier (killed) knarr left behind is adopted by its pid file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How long containerd may take to open its socket.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Shortest and longest pause before a restart.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Paths and names of one containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    /// Program, looked up in PATH if it has no slash.
    pub program: PathBuf,
    /// Directory of everything below, `<data-dir>/agent/containerd`.
    pub dir: PathBuf,
    /// CNI programs.
    pub cni_bin_dir: PathBuf,
    /// CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// Image of the sandbox container.
    pub pause_image: String,
    /// Credentials of registries, as containerd's configuration wants them.
    pub credentials: String,
}

impl Containerd {
    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Where pulls look up the hosts of a registry; read at each pull.
    pub fn hosts_dir(&self) -> PathBuf {
        self.dir.join("certs.d")
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    fn pid_path(&self) -> PathBuf {
        self.dir.join("containerd.pid")
    }

    /// The configuration file (format version 2, understood by containerd 1.6 to 2.x).
    pub fn config(&self) -> String {
        let q = |p: &Path| format!("{:?}", p.display().to_string());
        format!(
            r#"# Written by knarr at every start; changes are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]

[grpc]
  address = {socket}

[ttrpc]
  address = {ttrpc}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = {restrict}

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = {hosts}
{credentials}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin}
    conf_dir = {cni_conf}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    disable_snapshot_annotations = true
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        Root = {runc}
"#,
            runc = q(&self.dir.join("runc")),
            root = q(&self.dir.join("root")),
            state = q(&self.dir.join("state")),
            socket = q(&self.socket()),
            ttrpc = q(&self.dir.join("containerd.ttrpc.sock")),
            restrict = !may_lower_oom_score(),
            hosts = q(&self.hosts_dir()),
            credentials = self.credentials,
            pause = self.pause_image,
            cni_bin = q(&self.cni_bin_dir),
            cni_conf = q(&self.cni_conf_dir),
        )
    }

    /// Starts (or adopts) containerd, waits for its socket and supervises it until `shutdown`.
    ///
    /// # Errors
    /// The program is missing, ends at once, or does not open its socket in 30 s; the text says which.
    pub async fn start(&self, shutdown: CancellationToken) -> Result<tokio::task::JoinHandle<()>, Error> {
        let file = |operation, path: &Path| {
            let path = path.display().to_string();
            move |source| Error::File { operation, path, source }
        };
        for dir in [&self.dir, &self.cni_bin_dir, &self.cni_conf_dir] {
            fs::create_dir_all(dir).map_err(file("create directory", dir))?;
        }
        let config = self.config();
        let changed = fs::read_to_string(self.config_path()).map_or(true, |old| old != config);
        if changed {
            write_private(&self.config_path(), &config).map_err(file("write", &self.config_path()))?;
        }
        let mut process = match self.left_behind() {
            Some(pid) if !changed => Process::Adopted(pid),
            Some(pid) => {
                terminate(pid).await;
                self.spawn()?
            }
            None => self.spawn()?,
        };
        tokio::select! {
            opened = self.wait_for_socket(&mut process) => opened?,
            // Told to stop meanwhile: the supervision that follows ends it at once.
            () = shutdown.cancelled() => {}
        }
        let own = self.clone();
        Ok(tokio::spawn(async move { own.supervise(process, shutdown).await }))
    }

    /// The pid of a containerd that runs with our configuration file.
    fn left_behind(&self) -> Option<i32> {
        let pid: i32 = fs::read_to_string(self.pid_path()).ok()?.trim().parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.config_path().display().to_string();
        line.split(|b| *b == 0).any(|word| word == config.as_bytes()).then_some(pid)
    }

    fn spawn(&self) -> Result<Process, Error> {
        let failed = |detail: String| Error::Runtime { program: self.program.display().to_string(), detail };
        let log_path = self.dir.join("containerd.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path).map_err(|source| {
            Error::File { operation: "open", path: log_path.display().to_string(), source }
        })?;
        let copy = log.try_clone().map_err(|e| failed(e.to_string()))?;
        let child = Command::new(&self.program)
            .arg("--config")
            .arg(self.config_path())
            .env_remove("NOTIFY_SOCKET")
            .stdin(std::process::Stdio::null())
            .stdout(copy)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => failed(
                    "program not found; install the distribution's package `containerd`, or name one with --containerd \
                     or a running one with --container-runtime-endpoint"
                        .to_string(),
                ),
                _ => failed(e.to_string()),
            })?;
        let pid = child.id().unwrap_or_default();
        fs::write(self.pid_path(), pid.to_string()).map_err(|source| Error::File {
            operation: "write",
            path: self.pid_path().display().to_string(),
            source,
        })?;
        Ok(Process::Child(Box::new(child)))
    }

    async fn wait_for_socket(&self, process: &mut Process) -> Result<(), Error> {
        let log = self.dir.join("containerd.log");
        let failed = |detail: String| Error::Runtime {
            program: self.program.display().to_string(),
            detail: format!("{detail}; see {}", log.display()),
        };
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            if tokio::net::UnixStream::connect(self.socket()).await.is_ok() {
                return Ok(());
            }
            let pause = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                how = process.ended() => return Err(failed(format!("ended at start: {how}"))),
                () = pause => {}
            }
            if tokio::time::Instant::now() > deadline {
                return Err(failed(format!("did not open {} in 30 s", self.socket().display())));
            }
        }
    }

    async fn supervise(&self, mut process: Process, shutdown: CancellationToken) {
        let mut pause = BACKOFF.0;
        loop {
            let started = tokio::time::Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => {
                    if let Some(pid) = process.pid() {
                        terminate(pid).await;
                    }
                    return;
                }
                how = process.ended() => tracing::error!(%how, "containerd ended, starting it again"),
            }
            if started.elapsed() > Duration::from_secs(60) {
                pause = BACKOFF.0;
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(BACKOFF.1);
                match self.spawn() {
                    Ok(new) => {
                        process = new;
                        break;
                    }
                    Err(error) => tracing::error!(%error, "containerd does not start"),
                }
            }
        }
    }
}

/// The configuration may hold credentials: only root reads it.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// Whether this process may give a container a lower OOM score than its own (CAP_SYS_RESOURCE, bit 24). Without
/// it, as in some nested environments, runc fails unless containerd is told not to try.
fn may_lower_oom_score() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps & (1 << 24) != 0)
}

enum Process {
    Child(Box<Child>),
    Adopted(i32),
}

impl Process {
    fn pid(&self) -> Option<i32> {
        match self {
            Self::Child(child) => child.id().and_then(|id| i32::try_from(id).ok()),
            Self::Adopted(pid) => Some(*pid),
        }
    }

    /// Waits for the end of the process; the text says how it ended.
    async fn ended(&mut self) -> String {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Adopted(pid) => gone(*pid).await,
        }
    }
}

/// Waits until a process that is not our child has ended. A thread of its own sleeps on the pidfd: no polling.
async fn gone(pid: i32) -> String {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let fd = Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
        let text = match fd {
            None => "it was gone".to_string(),
            Some(fd) => match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
                Ok(_) => "it ended".to_string(),
                Err(error) => error.to_string(),
            },
        };
        if tell.send(text).is_err() {
            tracing::debug!(pid, "nobody waits for this process any more");
        }
    });
    told.await.unwrap_or_else(|_| "the waiting thread ended".to_string())
}

/// Asks a process to end and waits up to 10 s, then kills it.
async fn terminate(pid: i32) {
    use nix::sys::signal::{Signal, kill};
    let target = nix::unistd::Pid::from_raw(pid);
    for (signal, limit) in [(Signal::SIGTERM, 10), (Signal::SIGKILL, 5)] {
        if kill(target, signal).is_err() {
            return;
        }
        if tokio::time::timeout(Duration::from_secs(limit), gone(pid)).await.is_ok() {
            return;
        }
    }
    tracing::error!(pid, "containerd does not end");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dir: &Path, program: &str) -> Containerd {
        Containerd {
            program: PathBuf::from(program),
            dir: dir.to_path_buf(),
            cni_bin_dir: dir.join("bin"),
            cni_conf_dir: dir.join("net.d"),
            pause_image: "knarr.local/pause:1".to_string(),
            credentials: String::new(),
        }
    }

    #[tokio::test]
    async fn a_missing_program_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let error = at(dir.path(), "/no/such/containerd").start(CancellationToken::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/no/such/containerd: program not found") && text.contains("--containerd"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let error = at(dir.path(), "/bin/false").start(CancellationToken::new()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 1") && text.contains("containerd.log"), "{text}");
    }

    #[tokio::test]
    async fn told_to_stop_before_the_socket_opens_it_does_not_wait_for_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let slow = dir.path().join("slow");
        fs::write(&slow, "#!/bin/sh\nexec sleep 60\n").unwrap();
        fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
        let (runtime, stop) = (at(dir.path(), slow.to_str().unwrap()), CancellationToken::new());
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stop.cancel();
        };
        let begun = tokio::time::Instant::now();
        let (started, ()) = tokio::join!(runtime.start(stop.clone()), cancel);
        started.unwrap().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let pid: i32 = fs::read_to_string(runtime.pid_path()).unwrap().parse().unwrap();
        assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(), "{pid} is left");
    }
}
