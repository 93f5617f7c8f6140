//! The sandbox of a pod. Entry point: [`Worker::create_sandbox`].

use std::sync::Arc;

use k8s_openapi::api::{core::v1::Pod, node::v1::RuntimeClass};

use crate::{container, resources, spec, worker::Worker};

impl Worker {
    /// Makes one, in the pod's cgroup; gives its id. A failure is told as an event too.
    pub(crate) async fn create_sandbox(
        &mut self,
        pod: &Arc<Pod>,
        attempt: u32,
    ) -> Result<String, (&'static str, String)> {
        let node = self.node.clone();
        let failed = |message: String| {
            let text = format!("Failed to create pod sandbox: {message}");
            node.event(pod, None, "Warning", "FailedCreatePodSandBox", &text);
            ("creating the sandbox", message)
        };
        let path = resources::cgroup(pod, &node.config.cgroup_root);
        let limits = resources::of_pod(pod);
        node.cgroups.ensure(&path, &limits).map_err(|e| failed(format!("cgroup {path}: {e}")))?;
        self.limits = Some(limits);
        let logs = container::log_dir(&node.config, pod);
        std::fs::create_dir_all(&logs).map_err(|e| failed(format!("{}: {e}", logs.display())))?;
        let config = container::sandbox(pod, attempt, &node.config);
        if let Some(field) = spec::unsupported(pod) {
            return Err(failed(format!("{field} is not supported by this node")));
        }
        let handler = self.handler(pod).await.map_err(failed)?;
        let runtime = node.runtime.clone();
        let made = self.whole(async move { runtime.run_pod_sandbox(config, &handler).await }).await;
        let id = made.map_err(|e| failed(e.to_string()))?;
        node.owners.lock().insert(id.clone(), self.uid.clone());
        Ok(id)
    }

    /// The runtime's name of the pod's runtime class.
    async fn handler(&self, pod: &Pod) -> Result<String, String> {
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|c| !c.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let api: kube::Api<RuntimeClass> = kube::Api::all(self.node.client.clone());
        match api.get_opt(class).await {
            Ok(Some(found)) => Ok(found.handler),
            Ok(None) => Err(format!("RuntimeClass {class:?} not found")),
            Err(error) => Err(format!("RuntimeClass {class:?}: {error}")),
        }
    }
}
