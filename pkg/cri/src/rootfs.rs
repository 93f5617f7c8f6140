//! The contents of an image as a file system: what image volumes are made of, where the runtime has none of its own.
//!
//! Entry point: [`Rootfs::mounts`]. A read-only view of the image's topmost layer is kept as a snapshot, by which
//! containerd also keeps the layers, until [`Rootfs::release`].

use std::collections::HashMap;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tonic::{Code, transport::Channel};

use crate::{
    Error, Failure, FsMount, LocalImages,
    import::{begin_lease, end_lease, within},
    v1,
    wire::containerd::{
        services::{
            content::v1::{Info, UpdateRequest, content_client::ContentClient},
            diff::v1::{ApplyRequest, diff_client::DiffClient},
            snapshots::v1::{
                CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
                RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
                snapshots_client::SnapshotsClient,
            },
        },
        types::{Descriptor, Mount},
    },
};

const OPERATION: &str = "MountImage";
/// Marks our views with the pod they are for.
const POD_LABEL: &str = "io.knarr/pod";

/// Makes and releases views.
pub(crate) struct Rootfs {
    channel: Channel,
    snapshotter: String,
}

fn mount(mount: Mount) -> FsMount {
    FsMount { kind: mount.r#type, source: mount.source, options: mount.options }
}

/// The names of the committed layers, from the digests of their contents, lowest first.
fn chain(diff_ids: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for id in diff_ids {
        let name = match names.last() {
            None => id.clone(),
            Some(below) => {
                let digest = Sha256::digest(format!("{below} {id}"));
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("sha256:{hex}")
            }
        };
        names.push(name);
    }
    names
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

impl Rootfs {
    pub(crate) fn new(channel: Channel, snapshotter: &str) -> Self {
        Self { channel, snapshotter: snapshotter.to_owned() }
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// How to mount the image for a volume of a pod. May be asked again.
    pub(crate) async fn mounts(
        &self,
        image: &v1::Image,
        pod_uid: &str,
        volume: &str,
    ) -> Result<Vec<FsMount>, Error> {
        let key = format!("knarr-volume-{pod_uid}-{volume}");
        let request = MountsRequest { snapshotter: self.snapshotter.clone(), key: key.clone() };
        match self.snapshots().mounts(within(request, "")?).await {
            Ok(answer) => return Ok(answer.into_inner().mounts.into_iter().map(mount).collect()),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(Error::of(OPERATION, key, &status)),
        }
        let lease = begin_lease(&self.channel, "view").await?;
        let made = self.view(image, pod_uid, key, &lease).await;
        let ended = end_lease(&self.channel, lease).await;
        let mounts = made?;
        ended?;
        Ok(mounts)
    }

    async fn view(
        &self,
        image: &v1::Image,
        pod_uid: &str,
        key: String,
        lease: &str,
    ) -> Result<Vec<FsMount>, Error> {
        let images = LocalImages::new(self.channel.clone());
        let config = images.document(&image.id).await?;
        let diff_ids = strings(&config["rootfs"]["diff_ids"]);
        let names = chain(&diff_ids);
        let Some(top) = names.last() else {
            return Err(Error::new(OPERATION, image.id.clone(), Failure::Invalid, "the image has no layers"));
        };
        if !self.has(top).await? {
            let layers = self.layers(&images, image).await?;
            if layers.len() != names.len() {
                let text = format!("{} layers, but {} in the configuration", layers.len(), names.len());
                return Err(Error::new(OPERATION, image.id.clone(), Failure::Invalid, text));
            }
            self.unpack(&layers, &names, lease).await?;
            self.keep(&image.id, top).await?;
        }
        let labels = HashMap::from([
            // Lives until it is released, whatever becomes of the image.
            ("containerd.io/gc.root".to_owned(), "knarr".to_owned()),
            (POD_LABEL.to_owned(), pod_uid.to_owned()),
        ]);
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: top.clone(),
            labels,
        };
        let answer = self.snapshots().view(within(request, lease)?).await;
        let mounts = answer.map_err(|s| Error::of(OPERATION, key, &s))?.into_inner().mounts;
        Ok(mounts.into_iter().map(mount).collect())
    }

    async fn has(&self, name: &str) -> Result<bool, Error> {
        let request = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.to_owned() };
        match self.snapshots().stat(within(request, "")?).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(Error::of(OPERATION, name, &status)),
        }
    }

    /// The layers of the manifest that has this image's configuration, lowest first.
    async fn layers(&self, images: &LocalImages, image: &v1::Image) -> Result<Vec<Descriptor>, Error> {
        let missing = |text: &str| Error::new(OPERATION, image.id.clone(), Failure::NotFound, text);
        let mut wanted = Vec::new();
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            if let Some(target) = images.target(name).await? {
                wanted.push(target.digest);
                break;
            }
        }
        while let Some(digest) = wanted.pop() {
            let document = match images.document(&digest).await {
                // Of another platform's manifest there may be nothing here.
                Err(error) if error.is_not_found() => continue,
                document => document?,
            };
            if document["config"]["digest"] == image.id.as_str() {
                let layers = document["layers"].as_array().into_iter().flatten();
                return Ok(layers.map(descriptor).collect());
            }
            let others = document["manifests"].as_array().into_iter().flatten();
            wanted.extend(others.filter_map(|m| m["digest"].as_str().map(str::to_owned)));
        }
        Err(missing("no manifest with this configuration is here"))
    }

    /// Applies each layer on the one below it, where that was not done before.
    async fn unpack(&self, layers: &[Descriptor], names: &[String], lease: &str) -> Result<(), Error> {
        let mut parent = String::new();
        for (layer, name) in layers.iter().zip(names) {
            if !self.has(name).await? {
                self.apply(layer, name, &parent, lease).await?;
            }
            parent.clone_from(name);
        }
        Ok(())
    }

    async fn apply(&self, layer: &Descriptor, name: &str, parent: &str, lease: &str) -> Result<(), Error> {
        let failed = |s: tonic::Status| Error::of(OPERATION, name, &s);
        let key = format!("{lease}-{name}");
        let snapshotter = self.snapshotter.clone();
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let prepared = self.snapshots().prepare(within(request, lease)?).await.map_err(failed)?;
        let request = ApplyRequest { diff: Some(layer.clone()), mounts: prepared.into_inner().mounts };
        let applied = DiffClient::new(self.channel.clone()).apply(within(request, lease)?).await;
        let done = match applied {
            Ok(_) => {
                let request = CommitSnapshotRequest {
                    snapshotter: snapshotter.clone(),
                    name: name.to_owned(),
                    key: key.clone(),
                    labels: HashMap::new(),
                };
                self.snapshots().commit(within(request, lease)?).await.map(drop)
            }
            Err(status) => Err(status),
        };
        match done {
            Ok(()) => Ok(()),
            Err(status) => {
                let request = RemoveSnapshotRequest { snapshotter, key };
                // What is left goes with the lease at the latest.
                let _removed = self.snapshots().remove(within(request, lease)?).await;
                // Somebody else was faster.
                if status.code() == Code::AlreadyExists { Ok(()) } else { Err(failed(status)) }
            }
        }
    }

    /// The unpacked layers stay as long as the image does.
    async fn keep(&self, config: &str, top: &str) -> Result<(), Error> {
        let label = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
        let info = Info {
            digest: config.to_owned(),
            labels: HashMap::from([(label.clone(), top.to_owned())]),
            ..Info::default()
        };
        let mask = prost_types::FieldMask { paths: vec![format!("labels.{label}")] };
        let request = UpdateRequest { info: Some(info), update_mask: Some(mask) };
        let answer = ContentClient::new(self.channel.clone()).update(within(request, "")?).await;
        answer.map(drop).map_err(|s| Error::of(OPERATION, config, &s))
    }

    /// Removes all views of a pod.
    pub(crate) async fn release(&self, pod_uid: &str) -> Result<(), Error> {
        let failed = |s: tonic::Status| Error::of("ReleaseImages", pod_uid, &s);
        let request = ListSnapshotsRequest {
            snapshotter: self.snapshotter.clone(),
            filters: vec![format!("labels.{POD_LABEL:?}=={pod_uid:?}")],
        };
        let mut answers = self.snapshots().list(within(request, "")?).await.map_err(failed)?.into_inner();
        let mut names = Vec::new();
        while let Some(part) = answers.message().await.map_err(failed)? {
            names.extend(part.info.into_iter().map(|i| i.name));
        }
        for key in names {
            let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key };
            match self.snapshots().remove(within(request, "")?).await {
                Err(status) if status.code() != Code::NotFound => return Err(failed(status)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn descriptor(layer: &Value) -> Descriptor {
    Descriptor {
        media_type: layer["mediaType"].as_str().unwrap_or_default().to_owned(),
        digest: layer["digest"].as_str().unwrap_or_default().to_owned(),
        size: layer["size"].as_i64().unwrap_or_default(),
        annotations: HashMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_by_all_below_them() {
        let ids = |n: usize| -> Vec<String> { (0..n).map(|i| format!("sha256:{i:064}")).collect() };
        assert!(chain(&[]).is_empty());
        let names = chain(&ids(3));
        assert_eq!(names[0], ids(1)[0]);
        // From the definition in the image specification.
        let second = Sha256::digest(format!("{} {}", ids(2)[0], ids(2)[1]));
        let hex: String = second.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(names[1], format!("sha256:{hex}"));
        assert_ne!(names[2], names[1]);
    }
}
