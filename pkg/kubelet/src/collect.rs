//! Housekeeping: dead containers, rotated logs, unused images. Entry point: [`keep`].

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use knarr_cri::v1;

use crate::{
    arguments::Amount,
    observed::{Observed, State},
    pods::Pods,
    worker::Node,
};

const PERIOD: Duration = Duration::from_secs(60);
/// Images are looked at every so many periods.
const IMAGE_PERIODS: u32 = 5;
/// An image younger than this is not removed.
const IMAGE_MIN_AGE: Duration = Duration::from_secs(120);

/// Keeps the node tidy until shutdown.
pub async fn keep(node: &Arc<Node>, pods: &Pods) {
    tokio::select! {
        () = pods.listed() => {}
        () = node.shutdown.cancelled() => return,
    }
    let mut used: HashMap<String, SystemTime> = HashMap::new();
    let mut round = 0u32;
    loop {
        for (_, observed) in pods.observed() {
            for id in surplus(&observed) {
                if let Err(error) = node.runtime.remove_container(&id).await {
                    tracing::warn!(%error, "removing a dead container");
                }
            }
            for sandbox in observed.sandboxes.iter().skip(1).filter(|s| !s.ready) {
                if !observed.instances.iter().any(|i| i.sandbox == sandbox.id)
                    && let Err(error) = node.runtime.remove_pod_sandbox(&sandbox.id).await
                {
                    tracing::warn!(%error, "removing a dead sandbox");
                }
            }
            rotate(node, &observed).await;
        }
        orphans(node, pods);
        if round.is_multiple_of(IMAGE_PERIODS)
            && let Err(error) = images(node, &mut used).await
        {
            tracing::warn!(%error, "collecting images");
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = node.shutdown.cancelled() => return,
        }
    }
}

/// Of every container the newest instance stays, and the one before it for `logs --previous`.
fn surplus(observed: &Observed) -> Vec<String> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut ids = Vec::new();
    for instance in &observed.instances {
        let count = seen.entry(&instance.name).or_default();
        *count += 1;
        if *count > 2 && instance.state == State::Exited {
            ids.push(instance.id.clone());
        }
    }
    ids
}

/// Directories of pods that neither the API nor the runtime has.
fn orphans(node: &Arc<Node>, pods: &Pods) {
    let alive = pods.uids();
    match node.volumes.pods_on_disk() {
        Ok(uids) => {
            for uid in uids.iter().filter(|uid| !alive.contains(*uid)) {
                if let Err(errors) = node.volumes.tear_down(uid) {
                    errors.iter().for_each(|error| tracing::warn!(%error, "removing what a pod left"));
                }
            }
        }
        Err(error) => tracing::warn!(%error, "listing pod directories"),
    }
}

async fn rotate(node: &Arc<Node>, observed: &Observed) {
    for instance in observed.instances.iter().filter(|i| i.state == State::Running) {
        let path = PathBuf::from(&instance.log_path);
        let grown = fs::metadata(&path).is_ok_and(|m| m.len() > node.config.log_max_bytes);
        if !grown {
            continue;
        }
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        if let Err(error) = shift(&path, &stamp, node.config.log_max_files) {
            tracing::warn!(log = instance.log_path, %error, "rotating a log");
            continue;
        }
        if let Err(error) = node.runtime.reopen_container_log(&instance.id).await {
            tracing::warn!(%error, "reopening a log");
            // Without a reopened file nothing more would be seen: back as it was.
            let _ = fs::rename(rotated(&path, &stamp), &path);
        }
    }
}

fn rotated(path: &Path, stamp: &str) -> PathBuf {
    PathBuf::from(format!("{}.{stamp}", path.display()))
}

/// Compresses what was rotated before, removes the oldest, and moves the present file away.
fn shift(path: &Path, stamp: &str, keep: usize) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().map(|n| n.to_string_lossy().into_owned()))
    else {
        return Ok(());
    };
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.path();
        if entry.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}."))) {
            old.push(entry);
        }
    }
    old.sort();
    // Two places are taken by the present file and the one it becomes.
    let surplus = old.len().saturating_sub(keep.saturating_sub(2));
    for path in old.drain(..surplus) {
        fs::remove_file(path)?;
    }
    for plain in old.iter().filter(|p| p.extension().is_none_or(|e| e != "gz" && e != "tmp")) {
        let zipped = PathBuf::from(format!("{}.gz", plain.display()));
        let partial = PathBuf::from(format!("{}.tmp", plain.display()));
        let mut encoder =
            flate2::write::GzEncoder::new(fs::File::create(&partial)?, flate2::Compression::default());
        io::copy(&mut fs::File::open(plain)?, &mut encoder)?;
        encoder.finish()?;
        fs::rename(&partial, &zipped)?;
        fs::remove_file(plain)?;
    }
    fs::rename(path, rotated(path, stamp))
}

async fn images(node: &Arc<Node>, used: &mut HashMap<String, SystemTime>) -> Result<(), knarr_cri::Error> {
    let images = node.runtime.list_images().await?;
    let containers = node.runtime.list_containers(v1::ContainerFilter::default()).await?;
    let now = SystemTime::now();
    let in_use: HashSet<String> =
        containers.into_iter().flat_map(|c| [c.image_ref, c.image.unwrap_or_default().image]).collect();
    used.retain(|id, _| images.iter().any(|i| i.id == *id));
    for image in &images {
        let serves = in_use.contains(&image.id)
            || image.repo_tags.iter().chain(&image.repo_digests).any(|n| in_use.contains(n));
        let entry = used.entry(image.id.clone()).or_insert(now);
        if serves {
            *entry = now;
        }
    }
    let info = node.runtime.image_fs_info().await?;
    let Some(mountpoint) =
        info.image_filesystems.first().and_then(|f| f.fs_id.clone()).map(|id| id.mountpoint)
    else {
        return Ok(());
    };
    let full = |path: &str| Some(Amount::of_file_system(path.as_ref())?.0.used_percent());
    let high = u64::from(node.config.image_gc_high_percent);
    if high == 100 || full(&mountpoint).is_none_or(|percent| percent < high) {
        return Ok(());
    }
    let archived = node.runtime.archived_images().await?;
    for image in removable(&images, used, &archived, now) {
        if full(&mountpoint).is_some_and(|percent| percent <= u64::from(node.config.image_gc_low_percent)) {
            break;
        }
        tracing::info!(image = image.id, names = ?image.repo_tags, "removing an unused image");
        node.runtime.remove_image(&image.id).await?;
    }
    Ok(())
}

/// The images that may go, those unused for longest first. What came from an archive of this node stays: no registry
/// may have it.
fn removable<'a>(
    images: &'a [v1::Image],
    used: &HashMap<String, SystemTime>,
    archived: &HashSet<String>,
    now: SystemTime,
) -> Vec<&'a v1::Image> {
    let stays = |image: &v1::Image| {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
        image.pinned || names.any(|n| n == knarr_cri::pause::IMAGE || archived.contains(n))
    };
    let mut candidates: Vec<(SystemTime, &v1::Image)> = images
        .iter()
        .filter(|i| !stays(i))
        .filter_map(|i| used.get(&i.id).map(|at| (*at, i)))
        .filter(|(at, _)| now.duration_since(*at).is_ok_and(|age| age > IMAGE_MIN_AGE))
        .collect();
    candidates.sort_by_key(|(at, _)| *at);
    candidates.into_iter().map(|(_, image)| image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archived_and_pinned_images_stay() {
        let now = SystemTime::now();
        let ago = |seconds: u64| now - Duration::from_secs(seconds);
        let image = |id: &str, pinned: bool| v1::Image {
            id: id.into(),
            repo_tags: vec![format!("r.io/{id}:1")],
            pinned,
            ..Default::default()
        };
        let images = ["old", "older", "new", "archived"].map(|id| image(id, false));
        let images: Vec<_> = images.into_iter().chain([image("pinned", true)]).collect();
        let used = [("old", 500), ("older", 900), ("new", 60), ("archived", 900), ("pinned", 900)];
        let used = used.into_iter().map(|(id, at)| (id.to_owned(), ago(at))).collect();
        let archived = HashSet::from(["r.io/archived:1".to_owned()]);
        let ids: Vec<_> = removable(&images, &used, &archived, now).iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids, ["older", "old"]);
    }

    #[test]
    fn rotation_keeps_a_fixed_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for n in 0..6 {
            fs::write(&log, format!("line {n}")).unwrap();
            shift(&log, &format!("20260101-00000{n}"), 4).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log.20260101-000003.gz", "0.log.20260101-000004.gz", "0.log.20260101-000005"]);
    }
}
