//! `knarr image import` and the image folder of the node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use knarr_config::Config;
use knarr_cri::Runtime;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// Imports each file; a bad one is reported and the others still go in. Exit code 1 if any failed.
pub async fn import(config: &Config, files: &[String]) -> anyhow::Result<ExitCode> {
    let endpoint = Host::new(config).runtime_endpoint(config);
    anyhow::ensure!(
        endpoint.exists(),
        "container runtime socket {} is not there: is the server running?",
        endpoint.display()
    );
    let runtime = knarr_cri::Containerd::new(&endpoint.display().to_string())?;
    let mut code = ExitCode::SUCCESS;
    for file in files {
        match runtime.import_image(Path::new(file)).await {
            Ok(names) => names.iter().for_each(|name| println!("imported {name}")),
            Err(error) => {
                eprintln!("knarr: import {file}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default();
    [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end))
}

/// Imports what is in `dir` and what appears there later (closed after writing, or moved in).
///
/// # Errors
/// The directory cannot be watched.
pub async fn watch_folder(
    dir: PathBuf,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    use inotify::{Inotify, WatchMask};
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let watcher = Inotify::init().context("inotify")?;
    watcher
        .watches()
        .add(&dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO)
        .with_context(|| format!("watch {}", dir.display()))?;
    let mut events = watcher.into_event_stream(vec![0u8; 4096])?;
    let mut waiting: Vec<PathBuf> =
        std::fs::read_dir(&dir)?.filter_map(Result::ok).map(|e| e.path()).collect();
    waiting.sort();
    loop {
        for path in waiting.drain(..).filter(|p| is_archive(p)) {
            match runtime.import_image(&path).await {
                Ok(names) => tracing::info!(file = %path.display(), ?names, "images imported"),
                Err(error) => tracing::error!(file = %path.display(), %error, "image archive not imported"),
            }
        }
        let event = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => waiting.extend(event.name.map(|n| dir.join(n))),
            Some(Err(error)) => return Err(error).with_context(|| format!("watch {}", dir.display())),
            None => return Ok(()),
        }
    }
}
