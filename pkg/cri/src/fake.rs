//! An in-memory runtime for tests, in the same data types as the real one. What tests tell it is in `script`.

mod script;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};
use tokio_stream::wrappers::BroadcastStream;

use crate::{Error, Event, EventKind, EventStream, Failure, FsMount, Runtime, archive, v1};

struct Sandbox {
    config: v1::PodSandboxConfig,
    status: v1::PodSandboxStatus,
}

struct Container {
    sandbox: String,
    config: v1::ContainerConfig,
    status: v1::ContainerStatus,
}

#[derive(Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    images: BTreeMap<String, v1::Image>,
    registry: Vec<String>,
    archived: HashSet<String>,
    contents: HashMap<String, String>,
    answers: HashMap<String, v1::ExecSyncResponse>,
    failures: HashMap<&'static str, String>,
    calls: Vec<String>,
    held: HashSet<&'static str>,
}

/// The fake runtime. Containers run until told to [`exit`](Self::exit) or stopped.
pub struct Fake {
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    released: Notify,
}

impl Default for Fake {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::channel(1024).0, released: Notify::new() }
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn unknown(operation: &'static str, id: &str) -> Error {
    Error::new(operation, id, Failure::NotFound, "not found")
}

fn labelled(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Fake {
    fn tell(&self, id: &str, kind: EventKind) {
        // No listener is no error.
        let _ = self.events.send(Event { id: id.to_owned(), kind });
    }

    fn begin(&self, operation: &'static str, object: &str) -> Result<(), Error> {
        let mut state = self.state.lock();
        state.calls.push(format!("{operation} {object}"));
        match state.failures.remove(operation) {
            Some(message) => Err(Error::new(operation, object, Failure::Other, message)),
            None => Ok(()),
        }
    }
}

fn end(status: &mut v1::ContainerStatus, code: i32) {
    status.set_state(v1::ContainerState::ContainerExited);
    status.exit_code = code;
    status.finished_at = now();
    status.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
}

#[async_trait::async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<v1::VersionResponse, Error> {
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse, Error> {
        let condition =
            |name: &str| v1::RuntimeCondition { r#type: name.into(), status: true, ..Default::default() };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), ..Default::default() })
    }

    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), Error> {
        self.begin("UpdateRuntimeConfig", pod_cidr)
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, _handler: &str) -> Result<String, Error> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.begin("RunPodSandbox", &metadata.name)?;
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("sandbox-{}", state.next);
        let host = config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref())
            .and_then(|s| s.namespace_options.clone())
            .unwrap_or_default();
        let ip = if host.network() == v1::NamespaceMode::Node {
            String::new()
        } else {
            format!("10.42.0.{}", state.next + 1)
        };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            created_at: now(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: Some(host) }),
            }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), Sandbox { config, status });
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        self.begin("StopPodSandbox", id)?;
        let mut state = self.state.lock();
        for container in state
            .containers
            .values_mut()
            .filter(|c| c.sandbox == id && c.status.state() == v1::ContainerState::ContainerRunning)
        {
            end(&mut container.status, 137);
        }
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.status.set_state(v1::PodSandboxState::SandboxNotready);
        }
        drop(state);
        self.tell(id, EventKind::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        self.begin("RemovePodSandbox", id)?;
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.sandbox != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Error> {
        self.state
            .lock()
            .sandboxes
            .get(id)
            .map(|s| s.status.clone())
            .ok_or_else(|| unknown("PodSandboxStatus", id))
    }

    async fn pod_sandbox_info(&self, id: &str) -> Result<HashMap<String, String>, Error> {
        self.pod_sandbox_status(id).await.map(|_| HashMap::new())
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, Error> {
        let state = self.state.lock();
        let matching = state.sandboxes.values().filter(|s| {
            labelled(&s.status.labels, &filter.label_selector)
                && (filter.id.is_empty() || filter.id == s.status.id)
        });
        Ok(matching
            .map(|s| v1::PodSandbox {
                id: s.status.id.clone(),
                metadata: s.status.metadata.clone(),
                state: s.status.state,
                created_at: s.status.created_at,
                labels: s.status.labels.clone(),
                annotations: s.status.annotations.clone(),
                runtime_handler: String::new(),
            })
            .collect())
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        _: v1::PodSandboxConfig,
    ) -> Result<String, Error> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.begin("CreateContainer", &metadata.name)?;
        let mut state = self.state.lock();
        if !state.sandboxes.contains_key(sandbox) {
            return Err(unknown("CreateContainer", sandbox));
        }
        state.next += 1;
        let id = format!("container-{}", state.next);
        let image = config.image.clone().unwrap_or_default();
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            created_at: now(),
            image_ref: archive::digest(image.image.as_bytes()),
            image: Some(image),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            ..Default::default()
        };
        state.containers.insert(id.clone(), Container { sandbox: sandbox.to_owned(), config, status });
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let name = self
            .state
            .lock()
            .containers
            .get(id)
            .and_then(|c| c.config.metadata.clone())
            .unwrap_or_default()
            .name;
        self.begin("StartContainer", &name)?;
        self.held("StartContainer").await;
        {
            let mut state = self.state.lock();
            let container = state.containers.get_mut(id).ok_or_else(|| unknown("StartContainer", id))?;
            container.status.set_state(v1::ContainerState::ContainerRunning);
            container.status.started_at = now();
        }
        self.tell(id, EventKind::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.begin("StopContainer", &format!("{id} {}", grace.as_secs()))?;
        if let Some(container) = self.state.lock().containers.get_mut(id)
            && container.status.state() == v1::ContainerState::ContainerRunning
        {
            end(&mut container.status, 143);
        }
        self.tell(id, EventKind::Stopped);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.begin("RemoveContainer", id)?;
        self.state.lock().containers.remove(id);
        self.tell(id, EventKind::Deleted);
        Ok(())
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>, Error> {
        let state = self.state.lock();
        let matching = state.containers.values().filter(|c| {
            labelled(&c.status.labels, &filter.label_selector)
                && (filter.id.is_empty() || filter.id == c.status.id)
                && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == c.sandbox)
                && filter.state.as_ref().is_none_or(|s| s.state == c.status.state)
        });
        Ok(matching
            .map(|c| v1::Container {
                id: c.status.id.clone(),
                pod_sandbox_id: c.sandbox.clone(),
                metadata: c.status.metadata.clone(),
                image: c.status.image.clone(),
                image_ref: c.status.image_ref.clone(),
                state: c.status.state,
                created_at: c.status.created_at,
                labels: c.status.labels.clone(),
                annotations: c.status.annotations.clone(),
                image_id: String::new(),
            })
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, Error> {
        self.state
            .lock()
            .containers
            .get(id)
            .map(|c| c.status.clone())
            .ok_or_else(|| unknown("ContainerStatus", id))
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        self.begin("UpdateContainerResources", id)?;
        let mut state = self.state.lock();
        let container =
            state.containers.get_mut(id).ok_or_else(|| unknown("UpdateContainerResources", id))?;
        container.config.linux.get_or_insert_default().resources = Some(resources);
        Ok(())
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        self.begin("ReopenContainerLog", id)
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        _: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let name = self
            .state
            .lock()
            .containers
            .get(id)
            .and_then(|c| c.config.metadata.clone())
            .ok_or_else(|| unknown("ExecSync", id))?
            .name;
        self.begin("ExecSync", &format!("{name} {}", command.join(" ")))?;
        Ok(self.state.lock().answers.get(&name).cloned().unwrap_or_default())
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String, Error> {
        Err(Error::new(
            "Exec",
            request.container_id,
            Failure::Unimplemented,
            "the fake runtime has no streams",
        ))
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String, Error> {
        Err(Error::new(
            "Attach",
            request.container_id,
            Failure::Unimplemented,
            "the fake runtime has no streams",
        ))
    }

    async fn list_container_stats(
        &self,
        _: v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>, Error> {
        let state = self.state.lock();
        let running =
            state.containers.values().filter(|c| c.status.state() == v1::ContainerState::ContainerRunning);
        Ok(running
            .map(|c| v1::ContainerStats {
                attributes: Some(v1::ContainerAttributes {
                    id: c.status.id.clone(),
                    metadata: c.status.metadata.clone(),
                    labels: c.status.labels.clone(),
                    annotations: c.status.annotations.clone(),
                }),
                cpu: Some(v1::CpuUsage {
                    timestamp: now(),
                    usage_core_nano_seconds: Some(v1::UInt64Value { value: 1_000_000 }),
                    usage_nano_cores: None,
                }),
                memory: Some(v1::MemoryUsage {
                    timestamp: now(),
                    working_set_bytes: Some(v1::UInt64Value { value: 4096 }),
                    ..Default::default()
                }),
                ..Default::default()
            })
            .collect())
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>, Error> {
        Ok(Vec::new())
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, Error> {
        let state = self.state.lock();
        let found = state
            .images
            .get(&archive::normalize(image))
            .or_else(|| state.images.values().find(|i| i.id == image));
        Ok(found.cloned())
    }

    async fn pull_image(
        &self,
        image: &str,
        _: Option<v1::AuthConfig>,
        _: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error> {
        self.begin("PullImage", image)?;
        let name = archive::normalize(image);
        if !self.state.lock().registry.contains(&name) {
            return Err(Error::new(
                "PullImage",
                image,
                Failure::NotFound,
                format!("failed to resolve reference {name:?}: not found"),
            ));
        }
        self.add_image(&name);
        Ok(archive::digest(name.as_bytes()))
    }

    async fn remove_image(&self, image: &str) -> Result<(), Error> {
        self.begin("RemoveImage", image)?;
        self.state.lock().images.retain(|name, i| name != image && i.id != image);
        Ok(())
    }

    async fn archived_images(&self) -> Result<HashSet<String>, Error> {
        Ok(self.state.lock().archived.clone())
    }

    async fn image_mounts(
        &self,
        image: &v1::Image,
        pod_uid: &str,
        volume: &str,
    ) -> Result<Vec<FsMount>, Error> {
        self.begin("MountImage", &format!("{pod_uid} {volume}"))?;
        let contents = self.state.lock().contents.get(&image.id).cloned();
        let source = contents.ok_or_else(|| unknown("MountImage", &image.id))?;
        Ok(vec![FsMount { kind: "bind".into(), source, options: vec!["ro".into(), "rbind".into()] }])
    }

    async fn release_image_mounts(&self, pod_uid: &str) -> Result<(), Error> {
        self.begin("ReleaseImages", pod_uid)
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Error> {
        Ok(v1::ImageFsInfoResponse::default())
    }

    async fn import_image(&self, archive: &Path) -> Result<Vec<String>, Error> {
        let images = archive::Archive::open(archive)?.images()?;
        let names: Vec<String> = images.into_iter().flat_map(|i| i.names).collect();
        names.iter().for_each(|name| self.add_image(name));
        self.state.lock().archived.extend(names.iter().cloned());
        Ok(names)
    }

    async fn ensure_pause_image(&self) -> Result<(), Error> {
        self.add_image(crate::pause::IMAGE);
        Ok(())
    }

    async fn events(&self) -> Result<EventStream, Error> {
        let events = BroadcastStream::new(self.events.subscribe());
        Ok(events
            .map(|item| {
                item.map_err(|lagged| Error::new("Subscribe", "events", Failure::Other, lagged.to_string()))
            })
            .boxed())
    }
}
