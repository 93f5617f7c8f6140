//! The one trait between a node and its container runtime.

use std::{path::Path, time::Duration};

use futures::stream::BoxStream;

use crate::{Error, v1};

/// What happened to a container or sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Created,
    /// Its process started.
    Started,
    /// Its process ended; a status asked for now says so.
    Stopped,
    /// It is gone.
    Deleted,
    /// The kernel killed a process of it for lack of memory.
    OutOfMemory,
}

/// One event of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The container's or sandbox' id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
}

/// Events in order; the stream ends, or carries an error, when the subscription is lost and must be renewed with a relist.
pub type EventStream = BoxStream<'static, Result<Event, Error>>;

/// A file system to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsMount {
    /// `overlay`, `bind`, ...
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// As in `mount -o`.
    pub options: Vec<String>,
}

/// A container runtime. Every call names the object in its error. Stopping and removing what is gone succeeds.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<v1::VersionResponse, Error>;
    /// The runtime's own conditions (`RuntimeReady`, `NetworkReady`).
    async fn status(&self) -> Result<v1::StatusResponse, Error>;
    /// Tells the runtime the pod network of this node.
    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), Error>;

    /// Creates and starts a pod sandbox; gives its id.
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, Error>;
    /// Stops a sandbox and everything in it, and releases its network.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes a sandbox and its containers.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error>;
    /// The status of one sandbox.
    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error>;
    /// The sandbox' further information (for containerd: a JSON document under `info` with the process id).
    async fn pod_sandbox_info(&self, id: &str) -> Result<std::collections::HashMap<String, String>, Error>;
    /// All sandboxes that match.
    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, Error>;

    /// Creates a container in a sandbox; gives its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Asks a container to end, and kills it after `grace`.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error>;
    /// Removes a container and its log link.
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// All containers that match.
    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, Error>;
    /// The status of one container.
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error>;
    /// Changes the resources of a running container.
    async fn update_container_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), Error>;
    /// Has the runtime open the log file anew, after a rotation.
    async fn reopen_container_log(&self, id: &str) -> Result<(), Error>;

    /// Runs a command in a container and waits for it; a zero `timeout` waits for ever.
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error>;
    /// Prepares a streaming execution; gives the URL to connect to.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error>;
    /// Prepares an attachment to a running container; gives the URL to connect to.
    async fn attach(&self, request: v1::AttachRequest) -> Result<String, Error>;

    /// Resource use of all containers that match.
    async fn list_container_stats(
        &self,
        filter: v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>, Error>;
    /// Resource use of all sandboxes that match.
    async fn list_pod_sandbox_stats(
        &self,
        filter: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>, Error>;

    /// All images.
    async fn list_images(&self) -> Result<Vec<v1::Image>, Error>;
    /// One image, if it is present.
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Error>;
    /// Fetches an image; gives the reference to use for containers.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error>;
    /// Removes an image by name or id.
    async fn remove_image(&self, image: &str) -> Result<(), Error>;
    /// Names of images that came from archives of this node, which no registry may have.
    async fn archived_images(&self) -> Result<std::collections::HashSet<String>, Error>;
    /// How to mount the contents of an image read-only, for a volume of a pod. They stay until they are released.
    async fn image_mounts(
        &self,
        image: &v1::Image,
        pod_uid: &str,
        volume: &str,
    ) -> Result<Vec<FsMount>, Error>;
    /// Releases all image mounts of a pod; nothing may be mounted any more.
    async fn release_image_mounts(&self, pod_uid: &str) -> Result<(), Error>;
    /// The use of the file systems that hold images.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error>;
    /// Imports every image of an OCI or docker archive (plain, gzip or zstd); gives the names.
    async fn import_image(&self, archive: &Path) -> Result<Vec<String>, Error>;
    /// Makes sure that the embedded pause image is present under [`crate::pause::IMAGE`].
    async fn ensure_pause_image(&self) -> Result<(), Error>;

    /// Subscribes to container events.
    async fn events(&self) -> Result<EventStream, Error>;
}
