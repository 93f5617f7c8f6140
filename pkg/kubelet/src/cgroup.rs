//! The cgroups of pods, version 1 and 2, by plain files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::resources::{PERIOD_MICROS, PodLimits};

/// Where the kernel's cgroup trees are.
#[derive(Debug, Clone)]
pub enum Tree {
    /// One directory per controller.
    V1(PathBuf),
    /// One tree.
    V2(PathBuf),
}

/// The version 1 controllers that get a pod directory.
const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

impl Tree {
    /// Looks at `/sys/fs/cgroup`.
    pub fn of_host() -> Self {
        Self::at(Path::new("/sys/fs/cgroup"))
    }

    fn at(mount: &Path) -> Self {
        if mount.join("cgroup.controllers").exists() {
            Self::V2(mount.to_owned())
        } else {
            Self::V1(mount.to_owned())
        }
    }

    /// Makes the pod's cgroup and writes its limits.
    pub fn ensure(&self, path: &str, limits: &PodLimits) -> io::Result<()> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V1(mount) => {
                for controller in CONTROLLERS {
                    let root = mount.join(controller);
                    if root.exists() && !is_duplicate(mount, controller) {
                        make(&root, relative, controller == "cpuset")?;
                    }
                }
                let cpu = mount.join("cpu").join(relative);
                write(&cpu.join("cpu.shares"), limits.cpu_shares)?;
                if let Some(quota) = limits.cpu_quota {
                    write(&cpu.join("cpu.cfs_period_us"), PERIOD_MICROS)?;
                    write(&cpu.join("cpu.cfs_quota_us"), quota)?;
                }
                if let Some(bytes) = limits.memory_bytes {
                    write(&mount.join("memory").join(relative).join("memory.limit_in_bytes"), bytes)?;
                }
            }
            Self::V2(mount) => {
                delegate(mount, relative)?;
                let dir = mount.join(relative);
                // The published mapping of shares 2..262144 onto weights 1..10000.
                write(&dir.join("cpu.weight"), 1 + (limits.cpu_shares - 2) * 9999 / 262_142)?;
                if let Some(quota) = limits.cpu_quota {
                    fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_MICROS}"))?;
                }
                if let Some(bytes) = limits.memory_bytes {
                    write(&dir.join("memory.max"), bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Bytes of memory in use below a cgroup; `None` when that cannot be told.
    pub fn memory_usage(&self, path: &str) -> Option<i64> {
        let relative = path.trim_start_matches('/');
        let file = match self {
            Self::V1(mount) => mount.join("memory").join(relative).join("memory.usage_in_bytes"),
            Self::V2(mount) => mount.join(relative).join("memory.current"),
        };
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Removes the pod's cgroup and what is below it; succeeds when it is gone.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let relative = path.trim_start_matches('/');
        match self {
            // Beside the version 1 trees runc makes the same path in a version 2 tree, if one is mounted.
            Self::V1(mount) => CONTROLLERS
                .iter()
                .chain(["unified"].iter())
                .map(|c| remove_dirs(&mount.join(c).join(relative)))
                .fold(Ok(()), Result::and),
            Self::V2(mount) => remove_dirs(&mount.join(relative)),
        }
    }
}

/// `cpu` and `cpuacct` are often one directory under two names.
fn is_duplicate(mount: &Path, controller: &str) -> bool {
    controller == "cpuacct"
        && fs::canonicalize(mount.join("cpu")).ok() == fs::canonicalize(mount.join("cpuacct")).ok()
}

fn write(path: &Path, value: i64) -> io::Result<()> {
    fs::write(path, value.to_string())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// A new cpuset has no CPUs and takes no process until it is given its parent's.
fn make(root: &Path, relative: &str, inherit: bool) -> io::Result<()> {
    let mut dir = root.to_owned();
    for part in relative.split('/') {
        let parent = dir.clone();
        dir.push(part);
        if !dir.exists() {
            fs::create_dir(&dir)
                .or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
        }
        if inherit {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
                if own.trim().is_empty() {
                    fs::write(dir.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes the directories and hands the controllers down to each.
fn delegate(mount: &Path, relative: &str) -> io::Result<()> {
    let mut dir = mount.to_owned();
    for part in relative.split('/') {
        let available = fs::read_to_string(dir.join("cgroup.controllers"))?;
        for controller in available
            .split_whitespace()
            .filter(|c| ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"].contains(c))
        {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        dir.push(part);
        fs::create_dir(&dir)
            .or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })?;
    }
    Ok(())
}

fn remove_dirs(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_dirs(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
