//! Files that change all at once: a new directory is written, then the symlink `..data` is moved onto it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

/// One file of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    /// Who owns it, when not root.
    pub(crate) user: Option<u32>,
}

/// Files by relative path.
pub(crate) type Payload = BTreeMap<String, File>;

/// Brings `dir` to hold exactly `payload`; does nothing when it does already.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    let current = fs::read_link(dir.join("..data")).ok();
    if let Some(current) = &current
        && holds(&dir.join(current), payload)?
    {
        return Ok(());
    }
    let name = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        put(&fresh.join(path), file, group)?;
    }
    let moving = dir.join("..data_tmp");
    remove_link(&moving)?;
    symlink(&name, &moving)?;
    fs::rename(&moving, dir.join("..data"))?;
    links(dir, payload)?;
    match current {
        Some(old) => fs::remove_dir_all(dir.join(old)),
        None => Ok(()),
    }
}

fn put(path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.bytes)?;
    // The group may do what its owner may read.
    let mode = if group.is_some() { file.mode | ((file.mode & 0o400) >> 3) } else { file.mode };
    if file.user.is_some() || group.is_some() {
        chown(path, file.user, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn holds(dir: &Path, payload: &Payload) -> io::Result<bool> {
    fn count(dir: &Path) -> io::Result<usize> {
        let mut files = 0;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
        }
        Ok(files)
    }
    match count(dir) {
        Ok(files) if files == payload.len() => {}
        Ok(_) => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    Ok(payload.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|bytes| bytes == file.bytes)))
}

/// The visible names: one link for every first path component, and none for what went.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = payload.keys().map(|p| first(p)).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            remove_link(&dir.join(name))?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), File { bytes: (*text).into(), mode: 0o640, user: None }))
            .collect()
    }

    #[test]
    fn files_change_together_and_stale_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        let first = fs::read_link(dir.path().join("..data")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join("..data")).unwrap(),
            first,
            "an unchanged payload is not written"
        );
        write(dir.path(), &payload(&[("c", "3")]), None).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.iter().filter(|n| !n.starts_with("..")).collect::<Vec<_>>(), ["c"]);
        assert_eq!(names.len(), 3, "{names:?}");
    }
}
