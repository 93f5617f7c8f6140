//! Pod volumes: what [`Volumes::set_up`] makes under `<root>/pods/<uid>/volumes`, one plugin a kind of volume ([`PLUGINS`]).
//!
//! Setting up is idempotent and is also how changed ConfigMaps, Secrets and expiring tokens reach running pods.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod certificates;
pub mod downward;
mod local;
mod payload;
mod source;
mod trust;
mod writer;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

pub use certificates::{Credentials, Place};
pub use local::mount_read_only;
pub use source::{ApiSource, Source, Token};

/// What failed for which volume.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{operation} failed for volume {volume:?} : {message}")]
pub struct Error {
    /// `MountVolume.SetUp` or `UnmountVolume.TearDown`.
    pub operation: &'static str,
    /// The volume's name in the pod.
    pub volume: String,
    /// Why.
    pub message: String,
}

/// A volume that is ready for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is on the node.
    pub host_path: PathBuf,
    /// Whether every container gets it read-only whatever its mount says.
    pub read_only: bool,
    /// Whether the node makes it and therefore may give sub-paths to containers that do not exist yet.
    pub owned: bool,
}

/// The outcome of setting up all volumes of a pod.
#[derive(Debug, Clone, Default)]
pub struct SetUp {
    /// By volume name.
    pub mounted: BTreeMap<String, Mounted>,
    /// When a token in a volume wants to be renewed.
    pub refresh_at: Option<Timestamp>,
}

/// What a plugin works with.
pub struct Context<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The volume.
    pub volume: &'a Volume,
    /// The volume's own directory; the plugin may make it.
    pub dir: PathBuf,
    /// Where objects and tokens come from.
    pub source: &'a dyn Source,
    /// What this node offers, for resource fields without a limit.
    pub allocatable: &'a BTreeMap<String, String>,
}

impl Context<'_> {
    pub(crate) fn fs_group(&self) -> Option<i64> {
        self.pod.spec.as_ref()?.security_context.as_ref()?.fs_group
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// One kind of volume.
#[async_trait::async_trait]
pub trait Plugin: Send + Sync {
    /// The plugin's directory name, as upstream names it.
    fn name(&self) -> &'static str;
    /// Whether the volume is of this kind.
    fn handles(&self, volume: &Volume) -> bool;
    /// Makes the volume, or brings it up to date.
    async fn set_up(&self, context: &Context<'_>) -> Result<Ready, String>;
}

/// What a plugin made.
pub struct Ready {
    /// The volume.
    pub mounted: Mounted,
    /// When to set it up again.
    pub refresh_at: Option<Timestamp>,
}

/// Every kind of volume, sorted by name.
pub const PLUGINS: &[&dyn Plugin] = &[
    &payload::ConfigMap,
    &payload::Downward,
    &local::EmptyDir,
    &local::HostPath,
    &local::Image,
    &payload::Projected,
    &payload::Secret,
];

/// All volumes of all pods of a node.
pub struct Volumes {
    pods: PathBuf,
    source: Arc<dyn Source>,
}

impl Volumes {
    /// Volumes under `<root>/pods`.
    pub fn new(root: &Path, source: Arc<dyn Source>) -> Self {
        Self { pods: root.join("pods"), source }
    }

    /// The directory of one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// Makes all volumes of the pod, or brings them up to date; reports every one that failed.
    pub async fn set_up(
        &self,
        pod: &Pod,
        allocatable: &BTreeMap<String, String>,
    ) -> Result<SetUp, Vec<Error>> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let (mut done, mut errors) = (SetUp::default(), Vec::new());
        for volume in volumes {
            let failed = |message: String| Error {
                operation: "MountVolume.SetUp",
                volume: volume.name.clone(),
                message,
            };
            let Some(plugin) = PLUGINS.iter().find(|p| p.handles(volume)) else {
                errors.push(failed(format!(
                    "this node has no plugin for the volume source {}",
                    source_name(volume)
                )));
                continue;
            };
            let dir = self
                .pod_dir(uid)
                .join("volumes")
                .join(format!("kubernetes.io~{}", plugin.name()))
                .join(&volume.name);
            let context = Context { pod, volume, dir, source: &*self.source, allocatable };
            match plugin.set_up(&context).await {
                Ok(ready) => {
                    done.refresh_at = [done.refresh_at, ready.refresh_at].into_iter().flatten().min();
                    done.mounted.insert(volume.name.clone(), ready.mounted);
                }
                Err(message) => errors.push(failed(message)),
            }
        }
        if errors.is_empty() { Ok(done) } else { Err(errors) }
    }

    /// Unmounts and removes everything of the pod. May be called again after a failure, and when nothing is left.
    pub fn tear_down(&self, uid: &str) -> Result<(), Vec<Error>> {
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return Err(vec![Error {
                operation: "UnmountVolume.TearDown",
                volume: String::new(),
                message: format!("{uid:?} is no pod uid"),
            }]);
        }
        self.source.forget(uid);
        local::remove_tree(&self.pod_dir(uid)).map_err(|messages| {
            messages
                .into_iter()
                .map(|message| Error { operation: "UnmountVolume.TearDown", volume: uid.to_owned(), message })
                .collect()
        })
    }

    /// The uids of all pods that have a directory here.
    pub fn pods_on_disk(&self) -> std::io::Result<Vec<String>> {
        match std::fs::read_dir(&self.pods) {
            Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

/// The field that names the volume's source.
fn source_name(volume: &Volume) -> String {
    let document = serde_json::to_value(volume).unwrap_or_default();
    document
        .as_object()
        .and_then(|o| o.keys().find(|k| *k != "name").cloned())
        .unwrap_or_else(|| "(none)".to_owned())
}
