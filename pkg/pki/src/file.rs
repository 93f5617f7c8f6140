//! Files that must never be half written or readable by others.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::Error;

fn fail(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { operation, path: path.display().to_string(), source }
}

/// Writes a file atomically with these permission bits: a crash leaves the old file or the new one.
///
/// # Errors
/// Names the file that could not be written.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        fs::create_dir_all(dir).map_err(|e| fail("create directory", dir, e))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| fail("chmod", dir, e))?;
    }
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| fail("write", path, e))
}

/// Reads a text file; None if it does not exist.
///
/// # Errors
/// Names the file that could not be read.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail("read", path, e)),
    }
}
