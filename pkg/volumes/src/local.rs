//! Volumes of the node itself: emptyDir, hostPath and image; and the removal of a pod's directory.

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
pub(crate) struct Image;

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

fn is_mounted(dir: &Path) -> io::Result<bool> {
    Ok(mounts_under(dir)?.iter().any(|point| Path::new(point) == dir))
}

/// What the kernel takes of mount options in one call.
const OPTIONS_LIMIT_BYTES: usize = 4095;

/// Mounts a file system read-only on `dir`, which is made, unless something is mounted there already.
///
/// # Errors
/// What could not be mounted, and why.
pub fn mount_read_only(kind: &str, source: &str, options: &[String], dir: &Path) -> Result<(), String> {
    let failed = |e: String| format!("mounting {kind} {source} on {}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
    if is_mounted(dir).map_err(|e| failed(e.to_string()))? {
        return Ok(());
    }
    let bind = kind == "bind" || options.iter().any(|o| o == "bind" || o == "rbind");
    let data: Vec<&str> = options
        .iter()
        .map(String::as_str)
        .filter(|o| !matches!(*o, "ro" | "rw" | "bind" | "rbind"))
        .collect();
    let data = data.join(",");
    if data.len() > OPTIONS_LIMIT_BYTES {
        return Err(failed(format!("{} bytes of options: the image has too many layers", data.len())));
    }
    let only_read = MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
    if !bind {
        return mount(Some(source), dir, Some(kind), only_read, Some(data.as_str()))
            .map_err(|e| failed(e.to_string()));
    }
    mount(Some(source), dir, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| failed(e.to_string()))?;
    // A bind takes its flags only afterwards.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | only_read;
    mount(None::<&str>, dir, None::<&str>, flags, None::<&str>).map_err(|e| {
        // Never writable: then rather not at all.
        let undone =
            umount2(dir, MntFlags::MNT_DETACH).map_or_else(|e| format!(" (and {e})"), |()| String::new());
        failed(format!("{e}{undone}"))
    })
}

/// Mounts a tmpfs on `dir` unless one is there.
pub(crate) fn memory(dir: &Path, size_bytes: Option<u64>) -> Result<(), String> {
    let failed = |e: String| format!("mounting tmpfs on {}: {e}", dir.display());
    fs::create_dir_all(dir).map_err(|e| failed(e.to_string()))?;
    if is_mounted(dir).map_err(|e| failed(e.to_string()))? {
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

/// A place for the contents of an image; they are mounted there when a container needs them.
#[async_trait::async_trait]
impl Plugin for Image {
    fn name(&self) -> &'static str {
        "image"
    }

    fn handles(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String> {
        fs::create_dir_all(&context.dir).map_err(|e| format!("{}: {e}", context.dir.display()))?;
        Ok(Ready {
            mounted: Mounted { host_path: context.dir.clone(), read_only: true, owned: true },
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
    fn what_is_mounted_read_only_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("pod/volume"));
        fs::create_dir_all(&from).unwrap();
        fs::write(from.join("file"), "text").unwrap();
        let options = ["ro".to_owned(), "rbind".to_owned()];
        let source = from.display().to_string();
        mount_read_only("bind", &source, &options, &to).unwrap();
        mount_read_only("bind", &source, &options, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "text");
        assert!(fs::write(to.join("other"), "").is_err());
        remove_tree(&dir.path().join("pod")).unwrap();
        assert!(from.join("file").exists() && !to.exists());
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
