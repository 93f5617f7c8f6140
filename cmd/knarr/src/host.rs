//! Paths below the data directory, the ledger, and what is put in place for the container runtime.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use knarr_agent::containerd::Containerd;
use knarr_config::Config;
use knarr_netlink::{Item, Ledger};

/// Where everything of one installation is.
#[derive(Debug, Clone)]
pub struct Host {
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// The record of everything made outside the data directory.
    pub ledger: PathBuf,
    /// PEM files of the cluster.
    pub tls: PathBuf,
    /// PEM files of the node.
    pub agent_tls: PathBuf,
    /// Kubelet state.
    pub kubelet: PathBuf,
    /// Archives that are imported at start and when they appear.
    pub images: PathBuf,
    /// CNI programs.
    pub cni_bin: PathBuf,
    /// CNI configuration.
    pub cni_conf: PathBuf,
    /// Addresses handed out to pods.
    pub ipam: PathBuf,
}

impl Host {
    /// Derives the paths.
    pub fn new(config: &Config) -> Self {
        let dir = &config.data_dir;
        Self {
            ledger: dir.join("host-ledger"),
            tls: dir.join("server/tls"),
            agent_tls: dir.join("agent/tls"),
            kubelet: dir.join("agent/kubelet"),
            images: dir.join("agent/images"),
            cni_bin: dir.join("agent/cni/bin"),
            cni_conf: dir.join("agent/cni/net.d"),
            ipam: dir.join("agent/cni/ipam"),
            data_dir: dir.clone(),
        }
    }

    /// Opens the ledger.
    pub fn open_ledger(&self) -> anyhow::Result<Ledger> {
        Ledger::open(&self.ledger).with_context(|| format!("host ledger {}", self.ledger.display()))
    }

    /// The containerd of this installation.
    pub fn containerd(&self, config: &Config) -> Containerd {
        Containerd {
            program: config.containerd.clone(),
            dir: self.data_dir.join("agent/containerd"),
            cni_bin_dir: self.cni_bin.clone(),
            cni_conf_dir: self.cni_conf.clone(),
            pause_image: knarr_cri::pause::IMAGE.to_string(),
            credentials: String::new(),
        }
    }

    /// The CRI socket in use.
    pub fn runtime_endpoint(&self, config: &Config) -> PathBuf {
        config.container_runtime_endpoint.clone().unwrap_or_else(|| self.containerd(config).socket())
    }

    /// Takes the lock that says that a server runs on this data directory.
    ///
    /// # Errors
    /// Another process holds it; the error names its file.
    pub fn lock(&self) -> anyhow::Result<std::fs::File> {
        std::fs::create_dir_all(&self.data_dir)
            .with_context(|| format!("create data directory {}", self.data_dir.display()))?;
        let path = self.data_dir.join("lock");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        // A server that was just killed holds its lock until the kernel has taken it apart.
        for _ in 0..50 {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    std::thread::sleep(std::time::Duration::from_millis(100))
                }
                Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
            }
        }
        anyhow::bail!("{} is locked: a knarr server is running on this data directory", path.display())
    }
}

/// Makes directories that are all ours, recording those that are outside the data directory.
pub fn own_tree(ledger: &Ledger, path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        ledger.record(&Item::Tree { path: path.to_path_buf() })?;
        std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    Ok(())
}

/// Where the runtime binds the pods' network namespaces, as `ip netns` does with its own.
const NETNS_DIR: &str = "/run/netns";

/// Makes the directory of network namespaces a mount of its own while it is still empty. The first `ip netns add`
/// on a host does that, and takes over what is mounted in it a second time: the runtime could then not remove the
/// namespaces of the pods that run, so that these would never end.
pub fn share_netns_dir(ledger: &Ledger) -> anyhow::Result<()> {
    use nix::mount::{MsFlags, mount};
    let dir = Path::new(NETNS_DIR);
    ledger.create_directory(dir)?;
    if is_mount_point(dir)? || holds_something(dir) {
        return Ok(());
    }
    ledger.record(&Item::Mount { path: dir.to_path_buf() })?;
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .and_then(|()| mount(none, dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none))
        .with_context(|| format!("mount {NETNS_DIR} on itself"))
}

/// When others' namespaces are in the directory it is theirs by now: it is not to be undone.
pub fn leave_netns_dir_to_others(ledger: &Ledger) -> anyhow::Result<()> {
    let dir = Path::new(NETNS_DIR);
    if holds_something(dir) {
        ledger.forget(&Item::Mount { path: dir.to_path_buf() })?;
        ledger.forget(&Item::Directory { path: dir.to_path_buf() })?;
    }
    Ok(())
}

fn holds_something(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn is_mount_point(dir: &Path) -> anyhow::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|l| l.split(' ').nth(4)).any(|point| Path::new(point) == dir))
}

/// Links the CNI program names to this very program.
pub fn link_cni_programs(host: &Host) -> anyhow::Result<()> {
    std::fs::create_dir_all(&host.cni_bin).with_context(|| format!("create {}", host.cni_bin.display()))?;
    let me = std::env::current_exe().context("path of this program")?;
    for name in [knarr_plugin::EXECUTABLE, knarr_plugin::loopback::EXECUTABLE] {
        let link = host.cni_bin.join(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == me) {
            continue;
        }
        let fresh = host.cni_bin.join(format!(".{name}.new"));
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        std::os::unix::fs::symlink(&me, &fresh).with_context(|| format!("link {}", fresh.display()))?;
        std::fs::rename(&fresh, &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

/// Runs as a CNI plugin.
pub fn cni_main(called: &str) -> ExitCode {
    let code = match called.rsplit('/').next() {
        Some(knarr_plugin::loopback::EXECUTABLE) => knarr_plugin::loopback::main(),
        _ => knarr_plugin::main(),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
