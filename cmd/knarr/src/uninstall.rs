//! `knarr uninstall`: every pod, then everything on the host that the ledger knows, then the data directory.
//!
//! Goes on after a failure, prints every failure, and can be run again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use futures::StreamExt;
use knarr_config::Config;
use knarr_cri::Runtime;
use knarr_netlink::RealKernel;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// Sandboxes that are removed at the same time.
const PARALLEL: usize = 8;

/// Removes everything. Exit code 1 if something was left.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let host = Host::new(config);
    let mut failures: Vec<String> = Vec::new();
    if !host.data_dir.exists() {
        println!("{} does not exist: nothing to remove", host.data_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = host.lock()?;
    let own_runtime = config.container_runtime_endpoint.is_none();
    if host.runtime_endpoint(config).exists() || host.containerd(config).dir.exists() {
        remove_pods(config, &host, &mut failures).await;
    }
    if own_runtime {
        end_shims(&host.containerd(config).socket(), &mut failures);
    }
    unmount_below(&host.data_dir, &mut failures);
    let ledger = host.open_ledger()?;
    crate::host::leave_netns_dir_to_others(&ledger)?;
    let report = ledger.undo_all(&RealKernel).await?;
    failures.extend(report.errors.iter().map(|(item, error)| format!("{item:?}: {error}")));
    failures.extend(
        ledger
            .verify(&RealKernel)
            .await?
            .iter()
            .map(|left| format!("{:?} is left: {}", left.item, left.evidence)),
    );
    if own_runtime {
        // The runtime makes these for its shims' sockets whatever its state directory is; others may use them too.
        for dir in [
            "/run/containerd/runc/k8s.io",
            "/run/containerd/runc",
            "/run/containerd/s",
            "/run/containerd/fifo",
            "/run/containerd",
            // Results that the runtime's CNI library remembers.
            "/var/lib/cni/results",
            "/var/lib/cni",
        ] {
            remove_if_empty(Path::new(dir), &mut failures);
        }
    }
    remove_cgroups(&mut failures);
    if failures.is_empty()
        && let Err(error) = std::fs::remove_dir_all(&host.data_dir)
    {
        failures.push(format!("remove {}: {error}", host.data_dir.display()));
    }
    for failure in &failures {
        eprintln!("knarr: uninstall: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn remove_pods(config: &Config, host: &Host, failures: &mut Vec<String>) {
    let stop = CancellationToken::new();
    let mut supervisor = None;
    if config.container_runtime_endpoint.is_none() {
        match host.containerd(config).start(stop.clone()).await {
            Ok(task) => supervisor = Some(task),
            Err(error) => {
                failures.push(error.to_string());
                return;
            }
        }
    }
    if let Err(error) = remove_sandboxes(&host.runtime_endpoint(config), failures).await {
        failures.push(format!("pods: {error:#}"));
    }
    stop.cancel();
    if let Some(task) = supervisor
        && let Err(error) = task.await
    {
        failures.push(format!("containerd: {error}"));
    }
}

async fn remove_sandboxes(endpoint: &Path, failures: &mut Vec<String>) -> anyhow::Result<()> {
    let runtime = knarr_cri::Containerd::new(&endpoint.display().to_string())?;
    crate::node::wait_for_runtime(&runtime).await?;
    let sandboxes =
        tokio::time::timeout(Duration::from_secs(30), runtime.list_pod_sandboxes(Default::default()))
            .await??;
    let runtime = &runtime;
    let outcomes: Vec<Option<String>> = futures::stream::iter(sandboxes)
        .map(|sandbox| async move {
            let id = sandbox.id;
            let outcome = async {
                runtime.stop_pod_sandbox(&id).await?;
                runtime.remove_pod_sandbox(&id).await
            };
            outcome.await.err().map(|e| format!("pod sandbox {id}: {e}"))
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    failures.extend(outcomes.into_iter().flatten());
    Ok(())
}

/// Ends shims of our containerd that outlived their pods. A shim names its containerd's socket on its command line;
/// one of another process namespace belongs to a node in a container, whose socket only has the same name.
fn end_shims(socket: &Path, failures: &mut Vec<String>) {
    use nix::sys::signal::{Signal, kill};
    let socket = socket.display().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let ours = std::fs::read_link("/proc/self/ns/pid").ok();
    for entry in entries.filter_map(Result::ok) {
        if std::fs::read_link(entry.path().join("ns/pid")).ok() != ours {
            continue;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let shim = words.first().is_some_and(|w| w.windows(15).any(|p| p == b"containerd-shim"));
        if shim
            && words.contains(&socket.as_bytes())
            && let Err(error) = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL)
        {
            failures.push(format!("end shim {pid}: {error}"));
        }
    }
}

/// Unmounts everything at or below `dir`, deepest first.
fn unmount_below(dir: &Path, failures: &mut Vec<String>) {
    let table = match std::fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => {
            failures.push(format!("read /proc/self/mountinfo: {error}"));
            return;
        }
    };
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|p| PathBuf::from(p.replace("\\040", " ")))
        .filter(|p| p.starts_with(dir) && p != dir)
        .collect();
    points.reverse();
    for point in points {
        if let Err(error) = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH) {
            failures.push(format!("unmount {}: {error}", point.display()));
        }
    }
}

fn remove_if_empty(dir: &Path, failures: &mut Vec<String>) {
    match std::fs::remove_dir(dir) {
        Ok(()) => {}
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty) => {}
        Err(e) => failures.push(format!("remove {}: {e}", dir.display())),
    }
}

/// Removes the pods' control groups, children first, in every hierarchy.
fn remove_cgroups(failures: &mut Vec<String>) {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.join("kubepods")];
    if let Ok(entries) = std::fs::read_dir(root) {
        roots.extend(entries.filter_map(Result::ok).map(|e| e.path().join("kubepods")));
    }
    for dir in roots.into_iter().filter(|d| d.is_dir()) {
        if let Err(error) = remove_cgroup(&dir) {
            failures.push(format!("remove control group {}: {error}", dir.display()));
        }
    }
}

/// Ends what still runs in a group and removes it, children first. The kernel needs a moment after the last process.
fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for child in std::fs::read_dir(dir)?.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()) {
        remove_cgroup(&child)?;
    }
    for _ in 0..100 {
        let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|l| l.parse::<i32>().ok()) {
            // A process that has ended meanwhile is what is wanted.
            if let Err(error) =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            {
                tracing::debug!(pid, %error, "already gone");
            }
        }
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(50))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    std::fs::remove_dir(dir)
}
