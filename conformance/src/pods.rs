//! Pods: builders, waits for their states, logs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, array, condition, text};
use crate::context::{Context, POD_GONE, POD_START};
use crate::kinds::PODS;
use crate::rest::Rest;

/// A pod that does not restart, with these containers.
pub fn pod(name: &str, containers: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": containers},
    })
}

/// A container with arguments for the image's own program.
pub fn container(name: &str, image: &str, args: &[&str]) -> Value {
    json!({"name": name, "image": image, "args": args})
}

/// A container with a command.
pub fn command(name: &str, image: &str, command: &[&str]) -> Value {
    json!({"name": name, "image": image, "command": command})
}

/// A container that runs a shell line.
pub fn shell(name: &str, image: &str, line: &str) -> Value {
    command(name, image, &["/bin/sh", "-c", line])
}

/// Whether the pod's Ready condition is True.
pub fn ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

/// `status.phase`.
pub fn phase(pod: &Value) -> &str {
    text(pod, "/status/phase")
}

/// The status of a container by name, ephemeral and init ones included.
pub fn container_status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    ["/status/containerStatuses", "/status/initContainerStatuses", "/status/ephemeralContainerStatuses"]
        .iter()
        .flat_map(|p| array(pod, p))
        .find(|c| c["name"] == name)
        .unwrap_or(&Value::Null)
}

/// How often the containers of the pod were restarted, all together.
pub fn restarts(pod: &Value) -> i64 {
    array(pod, "/status/containerStatuses").iter().filter_map(|c| c["restartCount"].as_i64()).sum()
}

impl Api {
    /// Waits until the pod runs; an end of the pod is an error.
    pub async fn wait_running(&self, name: &str) -> Result<Value> {
        self.wait(name, POD_START, "waiting for the pod to run", |p| match p.map(phase) {
            Some("Running") => Ok(true),
            Some(end @ ("Failed" | "Succeeded")) => anyhow::bail!("the pod ended: {end}"),
            _ => Ok(false),
        })
        .await
    }

    /// Waits until the pod is Running and Ready.
    pub async fn wait_ready(&self, name: &str) -> Result<Value> {
        self.wait(name, POD_START, "waiting for the pod to be ready", |p| match p {
            Some(p) if matches!(phase(p), "Failed" | "Succeeded") => {
                anyhow::bail!("the pod ended: {}", p["status"])
            }
            Some(p) => Ok(phase(p) == "Running" && ready(p)),
            None => Ok(false),
        })
        .await
    }

    /// Waits until the pod has succeeded; its failure is an error.
    pub async fn wait_success(&self, name: &str) -> Result<Value> {
        self.wait(name, POD_START, "waiting for the pod to succeed", |p| match p {
            Some(p) if phase(p) == "Failed" => anyhow::bail!("the pod failed: {}", p["status"]),
            Some(p) => Ok(phase(p) == "Succeeded"),
            None => Ok(false),
        })
        .await
    }

    /// Waits until the pod has a phase.
    pub async fn wait_phase(&self, name: &str, want: &str) -> Result<Value> {
        let what = format!("waiting for phase {want}");
        self.wait(name, POD_START, &what, |p| Ok(p.is_some_and(|p| phase(p) == want))).await
    }

    /// What a container has written.
    pub async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.logs_with(pod, &[("container", container)]).await
    }

    /// What a container has written, with the options of the log subresource.
    pub async fn logs_with(&self, pod: &str, query: &[(&str, &str)]) -> Result<String> {
        self.rest.text(&Rest::uri(&self.path_of(&format!("{pod}/log")), query)).await
    }
}

impl Context {
    /// Pods of the test's namespace.
    pub fn pods(&self) -> Api {
        self.api(&PODS)
    }

    /// Creates a pod and waits until it is ready.
    pub async fn start(&self, pod: &Value) -> Result<Value> {
        let made = self.pods().create(pod).await?;
        self.pods().wait_ready(crate::api::name_of(&made)?).await
    }

    /// Runs a pod to its success; the logs of one of its containers. The pod is deleted.
    pub async fn output(&self, pod: &Value, container: &str) -> Result<String> {
        let made = self.pods().create(pod).await?;
        let name = crate::api::name_of(&made)?;
        if let Err(e) = self.pods().wait_success(name).await {
            let logs = self.pods().logs(name, container).await.unwrap_or_else(|e| format!("{e:#}"));
            return Err(e.context(format!("logs of {container}: {logs}")));
        }
        let logs = self.pods().logs(name, container).await?;
        self.pods().delete_now(name).await?;
        Ok(logs)
    }

    /// Runs a pod to its success and looks for each text in the logs of a container.
    pub async fn output_has(&self, pod: &Value, container: &str, wanted: &[&str]) -> Result<()> {
        let logs = self.output(pod, container).await?;
        for text in wanted {
            ensure_contains!(logs, *text, "logs of {container}");
        }
        Ok(())
    }

    /// Runs a pod to its success and matches each expression with the logs of a container.
    pub async fn output_matches(&self, pod: &Value, container: &str, wanted: &[&str]) -> Result<()> {
        let logs = self.output(pod, container).await?;
        for text in wanted {
            let fits = regex::Regex::new(text)?.is_match(&logs);
            anyhow::ensure!(fits, "logs of {container}: expected to match {text:?}, saw {logs:?}");
        }
        Ok(())
    }

    /// Waits until the logs of a running container contain a text.
    pub async fn logs_until(
        &self,
        pod: &str,
        container: &str,
        wanted: &str,
        limit: Duration,
    ) -> Result<String> {
        let what = format!("logs of {pod}/{container} to contain {wanted:?}");
        crate::watch::poll(limit, Duration::from_millis(500), &what, || async {
            let logs = self.pods().logs(pod, container).await?;
            anyhow::ensure!(logs.contains(wanted), "the logs are {logs:?}");
            Ok(Some(logs))
        })
        .await
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn remove_pod(&self, name: &str) -> Result<()> {
        self.pods().delete(name).await?;
        self.pods().wait_gone(name, POD_GONE).await
    }
}
