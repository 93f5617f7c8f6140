//! Volumes of the node itself: emptyDir and hostPath; and the removal of a pod's directory.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
};

use k8s_openapi::api::core::v1::Volume;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{Context, Mounted, Plugin, Ready, downward};

pub(crate) struct EmptyDir;
pub(crate) struct HostPath;

/// The mount points at or under `dir`, deepest first.
fn mounts_under(dir: &Path) -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped)
        .filter(|point| Path::new(point).starts_with(dir))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    Ok(points)
}

/// The kernel writes blanks and the like as three octal digits.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits: Vec<u8> = bytes.by_ref().take(3).collect();
        out.push(
            digits.iter().fold(0u8, |value, d| value.wrapping_mul(8).wrapping_add(d.wrapping_sub(b'0'))),
        );
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Mounts a tmpfs on `dir` unless one is there.
pub(crate) fn memory(dir: &Path, size_bytes: Option<u64>) -> Result<(), String> {
    let failed = |e: String| format!("mounting tmpfs on {}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
    let there = mounts_under(dir).map_err(|e| failed(e.to_string()))?;
    if there.iter().any(|point| Path::new(point) == dir) {
        return Ok(());
    }
    let options = size_bytes.map(|size| format!("size={size}"));
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|e| failed(e.to_string()))
}

/// Unmounts what is mounted at or under `dir` and removes it; goes on after failures.
pub(crate) fn remove_tree(dir: &Path) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    match mounts_under(dir) {
        Ok(points) => {
            for point in points {
                if let Err(e) = umount2(point.as_str(), MntFlags::MNT_DETACH) {
                    errors.push(format!("unmounting {point}: {e}"));
                }
            }
        }
        Err(e) => errors.push(format!("reading the mount table: {e}")),
    }
    // Nothing is removed through a mount that would not go: it may be the user's data.
    if !errors.is_empty() {
        return Err(errors);
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(vec![format!("removing {}: {e}", dir.display())])
        }
        _ => Ok(()),
    }
}

#[async_trait::async_trait]
impl Plugin for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let source = context.volume.empty_dir.clone().unwrap_or_default();
        let fresh = !context.dir.exists();
        let failed = |e: io::Error| format!("{}: {e}", context.dir.display());
        match source.medium.as_deref().unwrap_or_default() {
            "" => fs::create_dir_all(&context.dir).map_err(failed)?,
            "Memory" => {
                let limit = source.size_limit.as_ref().map(|q| downward::milli(&q.0)).transpose()?;
                memory(
                    &context.dir,
                    limit.and_then(|milli| u64::try_from(milli / 1000).ok()).filter(|size| *size > 0),
                )?;
            }
            other => return Err(format!("emptyDir medium {other:?} is not supported by this node")),
        }
        if fresh {
            let group = context.fs_group().and_then(|g| u32::try_from(g).ok());
            chown(&context.dir, None, group).map_err(failed)?;
            let mode = if group.is_some() { 0o2777 } else { 0o777 };
            fs::set_permissions(&context.dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Ok(Ready {
            mounted: Mounted { host_path: context.dir.clone(), read_only: false, owned: true },
            refresh_at: None,
        })
    }
}

#[async_trait::async_trait]
impl Plugin for HostPath {
    fn name(&self) -> &'static str {
        "host-path"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        let source = context.volume.host_path.clone().unwrap_or_default();
        check_host_path(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
        Ok(Ready {
            mounted: Mounted { host_path: source.path.into(), read_only: false, owned: false },
            refresh_at: None,
        })
    }
}

fn check_host_path(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let failed = |e: io::Error| format!("hostPath {shown}: {e}");
    let found = fs::metadata(path).map(|m| m.file_type());
    let missing = found.is_err();
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(test);
    let want = |ok: bool, what: &str| {
        if ok { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not a {what}")) }
    };
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if missing => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(failed),
        "FileOrCreate" if missing => fs::File::create(path)
            .and_then(|_| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
            .map_err(failed),
        "Directory" | "DirectoryOrCreate" => want(is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => want(is(fs::FileType::is_file), "file"),
        "Socket" => want(is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => want(is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => want(is(FileTypeExt::is_block_device), "block device"),
        other => Err(format!("hostPath {shown}: unknown type {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        check_host_path(&at("d"), "DirectoryOrCreate").unwrap();
        check_host_path(&at("f"), "FileOrCreate").unwrap();
        check_host_path(&at("d"), "Directory").unwrap();
        check_host_path(Path::new("/dev/null"), "CharDevice").unwrap();
        for (name, kind) in [("d", "File"), ("f", "Directory"), ("gone", "Socket"), ("f", "Strange")] {
            assert!(check_host_path(&at(name), kind).is_err(), "{name} {kind}");
        }
    }

    #[test]
    fn removal_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("pod");
        fs::create_dir_all(tree.join("volumes/x")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert_eq!(unescaped("/a\\040b"), "/a b");
    }
}
