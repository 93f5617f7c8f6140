//! The pause image: built with this crate, so that a node needs no registry to become ready.

use std::collections::BTreeMap;

use crate::{
    Error, Failure,
    archive::{self, Blob, Image, Source},
};

/// The name to configure as the runtime's sandbox image.
pub const IMAGE: &str = "knarr.local/pause:1";

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The image as blobs: one layer with the one program.
pub fn images() -> Result<Vec<Image>, Error> {
    let failed = |e: std::io::Error| Error::new("BuildImage", IMAGE, Failure::Other, e.to_string());
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(PROGRAM.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "pause", PROGRAM).map_err(failed)?;
    let layer = tar.into_inner().map_err(failed)?;
    let digest = archive::digest(&layer);
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    })
    .to_string()
    .into_bytes();
    let blob =
        Blob { digest, size: layer.len() as u64, labels: BTreeMap::new(), source: Source::Bytes(layer) };
    Ok(vec![archive::assemble(
        vec![IMAGE.to_owned()],
        config,
        vec![(blob, "")],
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar",
    )])
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_a_small_static_executable() {
        assert_eq!(&PROGRAM[..4], b"\x7fELF");
        assert!(PROGRAM.len() < 16 * 1024, "{}", PROGRAM.len());
        assert!(!PROGRAM.windows(8).any(|w| w == b"ld-linux"));
    }

    #[test]
    fn the_program_leaves_on_sigterm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, PROGRAM).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none());
        assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn the_image_is_the_same_every_time() {
        assert_eq!(images().unwrap()[0].digest, images().unwrap()[0].digest);
    }
}
