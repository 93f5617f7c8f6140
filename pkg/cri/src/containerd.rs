//! [`Runtime`] over the socket of containerd (or of any runtime that speaks CRI v1 and has container events).

use std::{collections::HashMap, path::Path, time::Duration};

use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::{
    Error, EventStream, Failure, FsMount, Runtime,
    error::gone_is_done,
    events, import,
    rootfs::Rootfs,
    v1::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};

/// Above the default of 4 MiB: a node with hundreds of images and containers answers lists of several MiB.
const MESSAGE_LIMIT_BYTES: usize = 32 << 20;
/// What an ordinary call may take. Sandbox creation includes the network plugin; stops add their grace.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// What an image pull may take in all; the runtime itself gives up earlier when nothing arrives.
const PULL_LIMIT: Duration = Duration::from_secs(3600);

/// A connection to a runtime. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Containerd {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Containerd {
    /// A client for `endpoint` (`unix:///path` or a plain path). Connects on the first call, so the runtime may come up later.
    pub fn new(endpoint: &str) -> Result<Self, Error> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(Error::new(
                "connect",
                endpoint,
                Failure::Invalid,
                "the runtime endpoint must be an absolute path or unix:///path",
            ));
        }
        let channel = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|e| Error::new("connect", endpoint, Failure::Invalid, e.to_string()))?
            .connect_lazy();
        let runtime =
            RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT_BYTES);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT_BYTES);
        Ok(Self { channel, runtime, images })
    }
}

fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

/// One unary call: service field, method, request message, operation name, object, time limit.
macro_rules! call {
    ($self:ident.$service:ident.$method:ident, $message:expr, $operation:literal, $object:expr, $limit:expr) => {{
        let limit: Duration = $limit;
        // The far side learns the limit from the header; this side does not trust it to answer.
        match tokio::time::timeout(
            limit + Duration::from_secs(2),
            $self.$service.clone().$method(limited($message, limit)),
        )
        .await
        {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::of($operation, $object, &status)),
            Err(_) => {
                Err(Error::new($operation, $object, Failure::Timeout, format!("no answer within {limit:?}")))
            }
        }
    }};
    ($self:ident.$service:ident.$method:ident, $message:expr, $operation:literal, $object:expr) => {
        call!($self.$service.$method, $message, $operation, $object, CALL_LIMIT)
    };
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

#[async_trait::async_trait]
impl Runtime for Containerd {
    async fn version(&self) -> Result<v1::VersionResponse, Error> {
        call!(
            self.runtime.version,
            v1::VersionRequest { version: "v1".into() },
            "Version",
            "runtime",
            Duration::from_secs(10)
        )
    }

    async fn status(&self) -> Result<v1::StatusResponse, Error> {
        call!(
            self.runtime.status,
            v1::StatusRequest { verbose: false },
            "Status",
            "runtime",
            Duration::from_secs(10)
        )
    }

    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), Error> {
        let network_config = Some(v1::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request =
            v1::UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
        call!(self.runtime.update_runtime_config, request, "UpdateRuntimeConfig", pod_cidr).map(drop)
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, Error> {
        let object =
            config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        call!(self.runtime.run_pod_sandbox, request, "RunPodSandbox", object, Duration::from_secs(240))
            .map(|a| a.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call!(self.runtime.stop_pod_sandbox, request, "StopPodSandbox", id).map(drop))
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_done(call!(self.runtime.remove_pod_sandbox, request, "RemovePodSandbox", id).map(drop))
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        call!(self.runtime.pod_sandbox_status, request, "PodSandboxStatus", id)?.status.ok_or_else(|| {
            Error::new("PodSandboxStatus", id, Failure::Other, "the runtime answered without a status")
        })
    }

    async fn pod_sandbox_info(&self, id: &str) -> Result<HashMap<String, String>, Error> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        call!(self.runtime.pod_sandbox_status, request, "PodSandboxStatus", id).map(|a| a.info)
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, Error> {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        call!(self.runtime.list_pod_sandbox, request, "ListPodSandbox", "all").map(|a| a.items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let object = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        call!(self.runtime.create_container, request, "CreateContainer", object).map(|a| a.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        call!(self.runtime.start_container, request, "StartContainer", id).map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        gone_is_done(
            call!(
                self.runtime.stop_container,
                request,
                "StopContainer",
                id,
                CALL_LIMIT.saturating_add(grace)
            )
            .map(drop),
        )
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_done(call!(self.runtime.remove_container, request, "RemoveContainer", id).map(drop))
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, Error> {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        call!(self.runtime.list_containers, request, "ListContainers", "all").map(|a| a.containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        call!(self.runtime.container_status, request, "ContainerStatus", id)?.status.ok_or_else(|| {
            Error::new("ContainerStatus", id, Failure::Other, "the runtime answered without a status")
        })
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            annotations: HashMap::new(),
        };
        call!(self.runtime.update_container_resources, request, "UpdateContainerResources", id).map(drop)
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        call!(self.runtime.reopen_container_log, request, "ReopenContainerLog", id).map(drop)
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        // The protocol counts whole seconds; zero means no limit there.
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let limit = if timeout.is_zero() { PULL_LIMIT } else { timeout + Duration::from_secs(10) };
        call!(self.runtime.exec_sync, request, "ExecSync", id, limit)
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error> {
        let object = request.container_id.clone();
        call!(self.runtime.exec, request, "Exec", object).map(|a| a.url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String, Error> {
        let object = request.container_id.clone();
        call!(self.runtime.attach, request, "Attach", object).map(|a| a.url)
    }

    async fn list_container_stats(
        &self,
        filter: v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>, Error> {
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        call!(self.runtime.list_container_stats, request, "ListContainerStats", "all").map(|a| a.stats)
    }

    async fn list_pod_sandbox_stats(
        &self,
        filter: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>, Error> {
        let request = v1::ListPodSandboxStatsRequest { filter: Some(filter) };
        call!(self.runtime.list_pod_sandbox_stats, request, "ListPodSandboxStats", "all").map(|a| a.stats)
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        call!(self.images.list_images, v1::ListImagesRequest { filter: None }, "ListImages", "all")
            .map(|a| a.images)
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Error> {
        let request = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
        call!(self.images.image_status, request, "ImageStatus", image).map(|a| a.image)
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error> {
        let request = v1::PullImageRequest { image: Some(spec(image)), auth, sandbox_config: sandbox };
        call!(self.images.pull_image, request, "PullImage", image, PULL_LIMIT).map(|a| a.image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<(), Error> {
        let request = v1::RemoveImageRequest { image: Some(spec(image)) };
        gone_is_done(call!(self.images.remove_image, request, "RemoveImage", image).map(drop))
    }

    async fn archived_images(&self) -> Result<std::collections::HashSet<String>, Error> {
        self.local_images().names().await
    }

    async fn image_mounts(
        &self,
        image: &v1::Image,
        pod_uid: &str,
        volume: &str,
    ) -> Result<Vec<FsMount>, Error> {
        self.rootfs().await?.mounts(image, pod_uid, volume).await
    }

    async fn release_image_mounts(&self, pod_uid: &str) -> Result<(), Error> {
        self.rootfs().await?.release(pod_uid).await
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        call!(self.images.image_fs_info, v1::ImageFsInfoRequest {}, "ImageFsInfo", "image file system")
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>, Error> {
        let names = import::file(&self.channel, archive).await?;
        for name in &names {
            self.wait_for_image(name).await?;
        }
        Ok(names)
    }

    async fn ensure_pause_image(&self) -> Result<(), Error> {
        if self.image_status(crate::pause::IMAGE).await?.is_some() {
            return Ok(());
        }
        let images = crate::pause::images()?;
        import::images(&self.channel, &images).await?;
        self.wait_for_image(crate::pause::IMAGE).await
    }

    async fn events(&self) -> Result<EventStream, Error> {
        Ok(events::subscribe(self.clone(), self.channel.clone()))
    }
}

impl Containerd {
    /// Images of this node's archives, to be read back.
    pub fn local_images(&self) -> crate::LocalImages {
        crate::LocalImages::new(self.channel.clone())
    }

    /// The snapshotter is the one that containers' file systems are made with.
    async fn rootfs(&self) -> Result<Rootfs, Error> {
        let request = v1::StatusRequest { verbose: true };
        let answer = call!(self.runtime.status, request, "Status", "runtime", Duration::from_secs(10))?;
        let config = answer.info.get("config").map(|c| serde_json::from_str::<serde_json::Value>(c));
        let config = config.and_then(Result::ok).unwrap_or_default();
        let named = config["containerd"]["snapshotter"].as_str().filter(|s| !s.is_empty());
        Ok(Rootfs::new(self.channel.clone(), named.unwrap_or("overlayfs")))
    }

    pub(crate) fn runtime_service(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// The CRI side of containerd learns of an image through an event, a moment after the store has it.
    async fn wait_for_image(&self, name: &str) -> Result<(), Error> {
        let mut pause = Duration::from_millis(5);
        for _ in 0..10 {
            if self.image_status(name).await?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(Error::new(
            "ImportImage",
            name,
            Failure::Timeout,
            "the image is in the store but the runtime does not list it",
        ))
    }
}
