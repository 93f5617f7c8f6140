//! Ending: of one container, of a whole pod, and what is given back afterwards.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{
    container, hooks,
    observed::{Observed, State},
    resources,
    spec::{self, Role},
    worker::{Next, RETRY, Update, Worker},
};

impl Worker {
    /// How long a container may take to end.
    pub(crate) fn grace_of(&self, pod: &Pod, container: Option<&Container>, message: &str) -> i64 {
        let own = container.and_then(|c| {
            let probe = if message.contains(" startup probe") { &c.startup_probe } else { &c.liveness_probe };
            probe
                .as_ref()
                .filter(|_| message.contains(" probe"))
                .and_then(|p| p.termination_grace_period_seconds)
        });
        own.or(pod.metadata.deletion_grace_period_seconds)
            .or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
            .unwrap_or(30)
    }

    /// Hook, then signal, then force.
    pub(crate) async fn kill(
        &self,
        pod: &Pod,
        container: Option<Container>,
        id: &str,
        name: &str,
        grace: i64,
        message: &str,
    ) -> Result<(), String> {
        let mut left = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        self.node.event(pod, Some(name), "Normal", "Killing", message);
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
        if let (Some(handler), Some(container)) = (hook, container.as_ref())
            && !left.is_zero()
        {
            let began = tokio::time::Instant::now();
            let ip = self.view.lock().status.pod_ip.clone().unwrap_or_default();
            let run = hooks::run(handler, &*self.node.runtime, container, id, &ip, left);
            if let Ok(Err(error)) = tokio::time::timeout(left, run).await {
                self.node.event(
                    pod,
                    Some(name),
                    "Warning",
                    "FailedPreStopHook",
                    &format!("PreStopHook failed: {error}"),
                )
            }
            // However long the hook took, the process gets a moment after its signal.
            left = left.saturating_sub(began.elapsed()).max(Duration::from_secs(2));
        }
        self.node.runtime.stop_container(id, left).await.map_err(|e| e.to_string())
    }

    /// Ends everything that runs: ordinary containers together, then sidecars backwards, then the sandboxes.
    pub(crate) async fn kill_all(
        &self,
        pod: &Pod,
        observed: &Observed,
        grace: Option<i64>,
    ) -> Result<(), String> {
        let units = spec::units(pod);
        let began = tokio::time::Instant::now();
        let find = |name: &str| units.iter().find(|u| u.container.name == name);
        let sidecar = |name: &str| find(name).is_some_and(|u| u.role == Role::Sidecar);
        let total = grace.unwrap_or_else(|| self.grace_of(pod, None, ""));
        let running: Vec<_> = observed
            .instances
            .iter()
            .filter(|i| matches!(i.state, State::Running | State::Unknown))
            .collect();
        let ordinary = running.iter().filter(|i| !sidecar(&i.name)).map(|instance| {
            let container = find(&instance.name).map(|u| u.container.clone());
            async move {
                self.kill(
                    pod,
                    container,
                    &instance.id,
                    &instance.name,
                    total,
                    &format!("Stopping container {}", instance.name),
                )
                .await
            }
        });
        let mut errors: Vec<String> =
            futures::future::join_all(ordinary).await.into_iter().filter_map(Result::err).collect();
        for unit in units.iter().rev().filter(|u| u.role == Role::Sidecar) {
            for instance in running.iter().filter(|i| i.name == unit.container.name) {
                let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
                let left = if total == 0 { 0 } else { (total - spent).max(2) };
                let message = format!("Stopping container {}", instance.name);
                errors.extend(
                    self.kill(
                        pod,
                        Some(unit.container.clone()),
                        &instance.id,
                        &instance.name,
                        left,
                        &message,
                    )
                    .await
                    .err(),
                );
            }
        }
        for sandbox in observed.sandboxes.iter().filter(|s| s.ready) {
            errors.extend(self.node.runtime.stop_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// The pod is to end, or has: stop, report, clean up, and remove the object.
    pub(crate) async fn end(&mut self, update: &Update) -> Next {
        let pod = &update.pod;
        self.calls_ended().await;
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => return self.failed_sync(pod, "observing", &error),
        };
        if observed.alive() {
            self.settled = false;
            self.keep_readiness(pod, &observed);
            if !update.gone {
                self.report(pod, &observed, true, false);
            }
            let grace = pod.metadata.deletion_grace_period_seconds;
            let mut updates = self.updates.clone();
            let shorter = updates.wait_for(|u| {
                u.pod.metadata.deletion_grace_period_seconds.unwrap_or(i64::MAX) < grace.unwrap_or(i64::MAX)
            });
            let killed = tokio::select! {
                killed = self.kill_all(pod, &observed, None) => killed,
                // The user has lost patience: begin anew with the shorter time.
                Ok(_) = shorter => Ok(()),
            };
            if let Err(error) = killed {
                return self.failed_sync(pod, "ending the pod", &error);
            }
            self.wake.notify_one();
            return Next::Wait(None);
        }
        self.probes.clear();
        if !update.gone && !self.settled {
            self.report(pod, &observed, true, true);
        }
        if let Err(error) = self.clean_up(pod, &observed, update).await {
            return self.failed_sync(pod, "cleaning up after the pod", &error);
        }
        self.release();
        self.retry = RETRY;
        self.settled = true;
        if update.gone {
            self.node.status.forget(&self.uid);
            return Next::Done;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            self.node.status.delete(pod);
        }
        Next::Wait(None)
    }

    /// While a pod ends only readiness still matters.
    fn keep_readiness(&mut self, pod: &Arc<Pod>, observed: &Observed) {
        let mut quiet = (**pod).clone();
        for container in quiet
            .spec
            .iter_mut()
            .flat_map(|s| s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten()))
        {
            container.liveness_probe = None;
        }
        let node = self.node.clone();
        self.probes.keep(&node, &Arc::new(quiet), observed);
    }

    /// Gives back what the pod had. Containers stay for their logs until the object goes.
    async fn clean_up(&mut self, pod: &Pod, observed: &Observed, update: &Update) -> Result<(), String> {
        let node = self.node.clone();
        node.refs.remove(&self.uid);
        node.allocations.release(&self.uid);
        self.volumes = None;
        let mut errors = Vec::new();
        for sandbox in &observed.sandboxes {
            errors.extend(node.runtime.stop_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
            if update.ends() {
                errors
                    .extend(node.runtime.remove_pod_sandbox(&sandbox.id).await.err().map(|e| e.to_string()));
            }
        }
        match node.volumes.tear_down(&self.uid) {
            Err(failures) => errors.extend(failures.iter().map(ToString::to_string)),
            // Of a pod that only the runtime knew the volumes are not known.
            Ok(()) if pod.spec.as_ref().is_none_or(has_image_volume) => {
                let released = node.runtime.release_image_mounts(&self.uid).await;
                errors.extend(released.err().map(|e| e.to_string()));
            }
            Ok(()) => {}
        }
        // Of a pod that only the runtime knew the class is not known.
        for path in resources::all_cgroups(&self.uid, &node.config.cgroup_root) {
            errors.extend(node.cgroups.remove(&path).err().map(|e| format!("cgroup {path}: {e}")));
        }
        if update.ends() {
            let logs = container::log_dir(&node.config, pod);
            match std::fs::remove_dir_all(&logs) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    errors.push(format!("{}: {e}", logs.display()))
                }
                _ => {}
            }
            node.owners.lock().retain(|_, uid| *uid != self.uid);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

fn has_image_volume(spec: &PodSpec) -> bool {
    spec.volumes.iter().flatten().any(|v| v.image.is_some())
}
