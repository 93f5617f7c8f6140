//! What the runtime says about one pod. Entry point: [`Observed::of`].

use std::collections::HashMap;

use knarr_cri::{Error, Runtime, v1};

/// Labels and annotations by which a pod and its containers are found again after our own restart.
pub mod label {
    /// Name of the pod.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Namespace of the pod.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Uid of the pod.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of the container.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Hash of what may not change without a restart.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// How often the container was restarted before this instance.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Path of the termination message inside the container.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Policy of the termination message.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Grace period of the pod, in seconds.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A sandbox of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Which attempt of the pod it is.
    pub attempt: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// When it was created, in nanoseconds.
    pub created_at: i64,
    /// Its addresses; none with the host's network.
    pub ips: Vec<String>,
    /// Whether it uses the host's network.
    pub host_network: bool,
}

/// Life of a container instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime has lost it.
    Unknown,
}

/// One instance of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The sandbox it is in.
    pub sandbox: String,
    /// Restarts before this instance.
    pub restart_count: u32,
    /// What it does.
    pub state: State,
    /// In nanoseconds.
    pub created_at: i64,
    /// In nanoseconds; zero when it has not started.
    pub started_at: i64,
    /// In nanoseconds; zero when it has not ended.
    pub finished_at: i64,
    /// Its exit code.
    pub exit_code: i32,
    /// The runtime's reason (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// The runtime's message.
    pub message: String,
    /// The image it was made from, as the runtime names it.
    pub image: String,
    /// The image's reference or id.
    pub image_id: String,
    /// Hash at creation.
    pub hash: String,
    /// Its log file.
    pub log_path: String,
    /// The termination message, read once when it ended.
    pub termination_message: String,
}

/// One pod as the runtime has it, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Container instances, newest first.
    pub instances: Vec<Instance>,
}

/// Ended instances never change, so they are asked for once.
pub type Ended = HashMap<String, Instance>;

impl Observed {
    /// Asks the runtime for everything that carries the pod's uid.
    pub async fn of(runtime: &dyn Runtime, uid: &str, ended: &mut Ended) -> Result<Self, Error> {
        let selector = HashMap::from([(label::POD_UID.to_owned(), uid.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let mut observed = Self::default();
        for sandbox in runtime.list_pod_sandboxes(filter).await? {
            match runtime.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => observed.sandboxes.push(self::sandbox(status)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let filter = v1::ContainerFilter { label_selector: selector, ..Default::default() };
        let mut kept = Ended::new();
        for container in runtime.list_containers(filter).await? {
            if let Some(known) = ended.remove(&container.id) {
                kept.insert(container.id, known.clone());
                observed.instances.push(known);
                continue;
            }
            let status = match runtime.container_status(&container.id).await {
                Ok(status) => status,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let instance = instance(status, container.pod_sandbox_id);
            if instance.state == State::Exited {
                kept.insert(instance.id.clone(), instance.clone());
            }
            observed.instances.push(instance);
        }
        *ended = kept;
        observed.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        observed.instances.sort_by_key(|i| std::cmp::Reverse(i.created_at));
        Ok(observed)
    }

    /// The newest instance of a container.
    pub fn newest(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.name == name)
    }

    /// The newest instance in a given sandbox.
    pub fn newest_in(&self, name: &str, sandbox: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.name == name && i.sandbox == sandbox)
    }

    /// The instance before the newest.
    pub fn previous(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().filter(|i| i.name == name).nth(1)
    }

    /// The sandbox that counts.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().find(|s| s.ready).or(self.sandboxes.first())
    }

    /// Whether anything of the pod still runs.
    pub fn alive(&self) -> bool {
        self.sandboxes.iter().any(|s| s.ready) || self.instances.iter().any(|i| i.state == State::Running)
    }
}

fn sandbox(status: v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.clone().unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|ip| ip.ip))
        .filter(|ip| !ip.is_empty())
        .collect();
    let mode = status
        .linux
        .as_ref()
        .and_then(|l| l.namespaces.as_ref())
        .and_then(|n| n.options.as_ref())
        .map(|o| o.network());
    Sandbox {
        attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
        ready: status.state() == v1::PodSandboxState::SandboxReady,
        created_at: status.created_at,
        ips,
        host_network: mode == Some(v1::NamespaceMode::Node),
        id: status.id,
    }
}

/// Longest termination message that is kept, and the longest taken from a log.
const MESSAGE_LIMIT_BYTES: u64 = 4096;
const LOG_MESSAGE_LIMIT_BYTES: usize = 2048;
const LOG_MESSAGE_LIMIT_LINES: usize = 80;

fn instance(status: v1::ContainerStatus, sandbox: String) -> Instance {
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let termination_message =
        if state == State::Exited { termination_message(&status) } else { String::new() };
    let name = status.labels.get(label::CONTAINER_NAME).cloned();
    let image_id =
        if status.image_id.is_empty() { status.image_ref.clone() } else { status.image_id.clone() };
    Instance {
        name: name.or_else(|| status.metadata.as_ref().map(|m| m.name.clone())).unwrap_or_default(),
        sandbox,
        restart_count: annotation(label::RESTART_COUNT).parse().unwrap_or_default(),
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_id,
        hash: annotation(label::HASH),
        log_path: status.log_path.clone(),
        termination_message,
        id: status.id,
    }
}

/// The message file if it has content; else the end of the log, where the policy says so and the container failed.
fn termination_message(status: &v1::ContainerStatus) -> String {
    use std::io::Read;
    let path = status.annotations.get(label::MESSAGE_PATH).map(String::as_str).unwrap_or_default();
    if let Some(mount) = status.mounts.iter().find(|m| m.container_path == path && !path.is_empty()) {
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(&mount.host_path)
            && file.take(MESSAGE_LIMIT_BYTES).read_to_end(&mut text).is_ok()
            && !text.is_empty()
        {
            return String::from_utf8_lossy(&text).into_owned();
        }
    }
    let fall_back =
        status.annotations.get(label::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if fall_back && status.exit_code != 0 {
        return crate::logs::tail(
            std::path::Path::new(&status.log_path),
            LOG_MESSAGE_LIMIT_LINES,
            LOG_MESSAGE_LIMIT_BYTES,
        );
    }
    String::new()
}
