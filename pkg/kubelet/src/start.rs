//! Bringing one container up: back-off, image, configuration, creation, start, hook.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_cri::v1;

use crate::{
    backoff, container,
    env::{self, Facts},
    hooks, images,
    observed::{Instance, Observed, State},
    spec::{self, Role, Unit},
    worker::Worker,
};

/// Why a container did not start: the reason in the status, the message, and when to try again.
struct Refusal {
    reason: &'static str,
    message: String,
    again: Duration,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), again: Duration::from_secs(10) }
    }
}

impl Worker {
    /// Starts a container; if it cannot be, gives how long to wait.
    pub(crate) async fn start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        sandbox: &str,
        name: &str,
    ) -> Option<Duration> {
        let unit = spec::units(pod).into_iter().find(|u| u.container.name == name)?;
        match self.try_start(pod, observed, sandbox, &unit).await {
            Ok(()) => {
                self.waiting.remove(name);
                None
            }
            Err(refusal) => {
                let event = match refusal.reason {
                    "CrashLoopBackOff" | "ImagePullBackOff" => None,
                    reason => Some(format!(
                        "Error: {}",
                        if reason.starts_with("ErrImage") || reason == "ImagePullBackOff" {
                            reason
                        } else {
                            refusal.message.as_str()
                        }
                    )),
                };
                if let Some(text) = event {
                    self.node.event(pod, Some(name), "Warning", "Failed", &text);
                }
                self.waiting.insert(name.to_owned(), (refusal.reason.to_owned(), refusal.message));
                Some(refusal.again)
            }
        }
    }

    async fn try_start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        sandbox: &str,
        unit: &Unit,
    ) -> Result<(), Refusal> {
        let node = self.node.clone();
        let name = unit.container.name.as_str();
        self.crash_loop(pod, observed, name)?;
        let sandbox_config =
            container::sandbox(pod, observed.sandboxes.first().map_or(0, |s| s.attempt), &node.config);
        let own = unit.container.image.clone().unwrap_or_default();
        let policy = unit.container.image_pull_policy.as_deref();
        let image = self.image(pod, name, &own, policy, &sandbox_config).await?;
        self.image_volumes(pod, unit, &sandbox_config).await?;
        let newest = observed.newest(name);
        let attempt = self.attempt(newest, name).await?;
        let pod_ips = if spec::host_network(pod) {
            node.config.host_ips()
        } else {
            observed.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
        };
        let facts = Facts {
            host_ips: node.config.host_ips(),
            pod_ips: pod_ips.clone(),
            allocatable: node.allocatable.clone(),
        };
        let services = self.services(pod).await;
        let env = env::environment(pod, &unit.container, &*node.source, &services, &facts)
            .await
            .map_err(|e| Refusal::new("CreateContainerConfigError", e))?;
        let target = unit.target.as_ref().and_then(|t| observed.newest(t)).map(|i| i.id.clone());
        let empty = std::collections::BTreeMap::new();
        let volumes = self.volumes.as_ref().map_or(&empty, |v| &v.mounted);
        let wanted = container::Wanted {
            pod,
            unit,
            attempt,
            image: &image,
            env,
            volumes,
            pod_ips: &pod_ips,
            memory_bytes: node.memory_bytes,
            target,
        };
        let config = container::prepare(&wanted, &node.config)
            .map_err(|e| Refusal::new("CreateContainerConfigError", e))?;
        let (runtime, sandbox) = (node.runtime.clone(), sandbox.to_owned());
        let id = self
            .whole(async move { runtime.create_container(&sandbox, config, sandbox_config).await })
            .await
            .map_err(|e| Refusal::new("CreateContainerError", e.message))?;
        node.owners.lock().insert(id.clone(), self.uid.clone());
        if matches!(unit.role, Role::App | Role::Sidecar) {
            let resources = unit.container.resources.clone().unwrap_or_default();
            node.allocations.set_actuated(&self.uid, name, &resources);
        }
        node.event(pod, Some(name), "Normal", "Created", &format!("Created container: {name}"));
        let (runtime, started) = (node.runtime.clone(), id.clone());
        self.whole(async move { runtime.start_container(&started).await })
            .await
            .map_err(|e| Refusal::new("RunContainerError", e.message))?;
        node.event(pod, Some(name), "Normal", "Started", &format!("Started container {name}"));
        self.post_start(pod, unit, &id, pod_ips.first().map(String::as_str).unwrap_or_default()).await
    }

    /// The restart count of the next instance, whose name is made free.
    async fn attempt(&self, newest: Option<&Instance>, name: &str) -> Result<u32, Refusal> {
        if let Some(stuck) = newest.filter(|i| i.state == State::Created) {
            // Created but never started: it holds the name that the next instance needs.
            self.node
                .runtime
                .remove_container(&stuck.id)
                .await
                .map_err(|e| Refusal::new("CreateContainerError", e.to_string()))?;
            return Ok(stuck.restart_count);
        }
        Ok(newest.map_or_else(|| self.reported_restarts(name), |i| i.restart_count + 1))
    }

    /// A restart count that was reported lives on when the runtime has forgotten the instance.
    fn reported_restarts(&self, name: &str) -> u32 {
        let view = self.view.lock();
        let lists = [&view.status.container_statuses, &view.status.init_container_statuses];
        let old = lists
            .into_iter()
            .flat_map(|l| l.iter().flatten())
            .find(|s| s.name == name && s.container_id.is_some());
        old.map_or(0, |s| u32::try_from(s.restart_count).unwrap_or_default() + 1)
    }

    async fn services(&self, pod: &Pod) -> Vec<k8s_openapi::api::core::v1::Service> {
        let store = &self.node.services;
        if tokio::time::timeout(Duration::from_secs(5), store.synced()).await.is_err() {
            tracing::warn!(
                pod = spec::title(pod),
                "services are not known yet; starting without their variables"
            );
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut services: Vec<_> = store.list_ns(namespace).iter().map(|s| (**s).clone()).collect();
        if namespace != "default" {
            services.extend(store.get("default", "kubernetes").map(|s| (*s).clone()));
        }
        services
    }

    fn crash_loop(&mut self, pod: &Pod, observed: &Observed, name: &str) -> Result<(), Refusal> {
        let Some(ended) = observed.newest(name).filter(|i| i.state == State::Exited) else { return Ok(()) };
        let now = Timestamp::now();
        let event = Timestamp::from_nanosecond(i128::from(ended.finished_at)).unwrap_or(now);
        let title = spec::title(pod);
        if let Some(left) = self.backoff.remaining(name, event, now) {
            if self.waiting.get(name).is_none_or(|(reason, _)| reason != "CrashLoopBackOff") {
                let text = format!("Back-off restarting failed container {name} in pod {title}");
                self.node.event(pod, Some(name), "Warning", "BackOff", &text);
            }
            let delay = backoff::go(self.backoff.delay(name));
            let message = format!("back-off {delay} restarting failed container={name} pod={title}");
            return Err(Refusal { reason: "CrashLoopBackOff", message, again: left });
        }
        self.backoff.next(name, event, now);
        Ok(())
    }

    /// Makes the image present, by policy.
    async fn image(
        &mut self,
        pod: &Arc<Pod>,
        name: &str,
        image: &str,
        policy: Option<&str>,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<v1::Image, Refusal> {
        let node = self.node.clone();
        if let Some(message) = images::invalid(image) {
            node.event(pod, Some(name), "Warning", "InspectFailed", &message);
            return Err(Refusal::new("InvalidImageName", message));
        }
        let inspect = |e: knarr_cri::Error| {
            Refusal::new("ImageInspectError", format!("Failed to inspect image {image:?}: {}", e.message))
        };
        let present = node.runtime.image_status(image).await.map_err(inspect)?;
        match (images::step(image, policy, present.is_some()), present) {
            (images::Step::Never, _) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                node.event(pod, Some(name), "Warning", "ErrImageNeverPull", &message);
                Err(Refusal::new("ErrImageNeverPull", message))
            }
            (images::Step::Present, Some(found)) => {
                node.event(
                    pod,
                    Some(name),
                    "Normal",
                    "Pulled",
                    &format!(
                        "Container image {image:?} already present on machine and can be accessed by the pod"
                    ),
                );
                Ok(found)
            }
            _ => {
                self.pull(pod, name, image, sandbox).await?;
                let found = node.runtime.image_status(image).await.map_err(inspect)?;
                found.ok_or_else(|| {
                    Refusal::new("ErrImagePull", format!("image {image:?} was pulled but is not present"))
                })
            }
        }
    }

    /// Mounts the image volumes that a container uses: upstream has the runtime do that, which not every one can.
    async fn image_volumes(
        &mut self,
        pod: &Arc<Pod>,
        unit: &Unit,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<(), Refusal> {
        let node = self.node.clone();
        let name = unit.container.name.as_str();
        let volumes: Vec<_> = spec::spec(pod).volumes.clone().unwrap_or_default();
        for volume in volumes {
            let Some(source) = &volume.image else { continue };
            let place = self.volumes.as_ref().and_then(|v| v.mounted.get(&volume.name));
            let (Some(place), true) = (place.map(|p| p.host_path.clone()), uses(unit, &volume.name)) else {
                continue;
            };
            let reference = source.reference.clone().unwrap_or_default();
            let policy = source.pull_policy.as_deref();
            let image = self.image(pod, name, &reference, policy, sandbox).await?;
            let failed = |message: String| {
                let text = format!("mounting image {reference:?} for volume {:?}: {message}", volume.name);
                node.event(pod, Some(name), "Warning", "FailedMount", &text);
                Refusal::new("CreateContainerError", text)
            };
            let mounts = node.runtime.image_mounts(&image, &self.uid, &volume.name).await;
            for mount in mounts.map_err(|e| failed(e.message))? {
                knarr_volumes::mount_read_only(&mount.kind, &mount.source, &mount.options, &place)
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn pull(
        &mut self,
        pod: &Arc<Pod>,
        name: &str,
        image: &str,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<(), Refusal> {
        let node = self.node.clone();
        let key = format!("{name} {image}");
        if let Some((at, failure)) = self.pull_failures.get(&key)
            && let Some(left) = self.pulls.remaining(&key, *at, Timestamp::now())
        {
            let text = format!("Back-off pulling image {image:?}");
            if self.waiting.get(name).is_none_or(|(reason, _)| reason != "ImagePullBackOff") {
                node.event(pod, Some(name), "Normal", "BackOff", &text);
                node.event(pod, Some(name), "Warning", "Failed", "Error: ImagePullBackOff");
            }
            return Err(Refusal {
                reason: "ImagePullBackOff",
                message: format!("{text}: ErrImagePull: {failure}"),
                again: left,
            });
        }
        node.event(pod, Some(name), "Normal", "Pulling", &format!("Pulling image {image:?}"));
        let began = tokio::time::Instant::now();
        let auths = images::credentials(pod, image, &*node.source)
            .await
            .map_err(|e| Refusal::new("ErrImagePull", e))?;
        let mut attempts: Vec<Option<v1::AuthConfig>> = auths.into_iter().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        let mut failure = String::new();
        for auth in attempts {
            match node.runtime.pull_image(image, auth, Some(sandbox.clone())).await {
                Ok(_) => {
                    let seconds = began.elapsed().as_secs_f64();
                    node.event(
                        pod,
                        Some(name),
                        "Normal",
                        "Pulled",
                        &format!("Successfully pulled image {image:?} in {seconds:.3}s"),
                    );
                    self.pulls.reset(&key);
                    self.pull_failures.remove(&key);
                    return Ok(());
                }
                Err(error) => failure = error.message,
            }
        }
        node.event(
            pod,
            Some(name),
            "Warning",
            "Failed",
            &format!("Failed to pull image {image:?}: {failure}"),
        );
        let now = Timestamp::now();
        self.pulls.next(&key, now, now);
        self.pull_failures.insert(key.clone(), (now, failure.clone()));
        // Comes back soon to say that it is backing off, as clients expect to see.
        Err(Refusal { reason: "ErrImagePull", message: failure, again: Duration::from_secs(2) })
    }

    async fn post_start(&self, pod: &Arc<Pod>, unit: &Unit, id: &str, ip: &str) -> Result<(), Refusal> {
        let name = unit.container.name.as_str();
        let Some(handler) = unit.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let Err(error) =
            hooks::run(handler, &*self.node.runtime, &unit.container, id, ip, Duration::ZERO).await
        else {
            return Ok(());
        };
        self.node.event(
            pod,
            Some(name),
            "Warning",
            "FailedPostStartHook",
            &format!("PostStartHook failed: {error}"),
        );
        self.node.event(pod, Some(name), "Normal", "Killing", "FailedPostStartHook");
        let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        self.node
            .runtime
            .stop_container(id, grace)
            .await
            .map_err(|e| Refusal::new("PostStartHookError", e.to_string()))?;
        Err(Refusal::new("PostStartHookError", error))
    }
}

fn uses(unit: &Unit, volume: &str) -> bool {
    unit.container.volume_mounts.iter().flatten().any(|m| m.name == volume)
}
