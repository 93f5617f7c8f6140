//! Writes pod status to the API: only changes, the newest at once, one writer a pod, retried until it is in.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// So many writes are under way at once.
const WRITERS: usize = 16;

#[derive(Default)]
struct Entry {
    wanted: Option<PodStatus>,
    written: Value,
    /// Resource version that the last write made.
    version: u64,
    delete: bool,
    busy: bool,
}

struct Shared {
    client: kube::Client,
    pods: Mutex<HashMap<String, Entry>>,
    slots: Semaphore,
    shutdown: CancellationToken,
}

/// The one writer of pod status.
#[derive(Clone)]
pub struct StatusWriter(Arc<Shared>);

struct Key {
    uid: String,
    namespace: String,
    name: String,
}

impl StatusWriter {
    /// A writer with this client.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared { client, pods: Mutex::default(), slots: Semaphore::new(WRITERS), shutdown }))
    }

    /// Wants `status` for the pod.
    pub fn set(&self, pod: &Pod, status: PodStatus) {
        self.change(pod, |entry| entry.wanted = Some(status));
    }

    /// Everything of the pod is cleaned up: after the last status, remove the object.
    pub fn delete(&self, pod: &Pod) {
        self.change(pod, |entry| entry.delete = true);
    }

    /// The object is gone.
    pub fn forget(&self, uid: &str) {
        self.0.pods.lock().remove(uid);
    }

    /// The pod as the API has it now. Where somebody else has written conditions of ours since (as the node
    /// lifecycle controller does for a node that is cut off), ours are written again.
    pub fn seen(&self, pod: &Pod) {
        let Some(uid) = &pod.metadata.uid else { return };
        let newer = |version: u64| {
            pod.metadata
                .resource_version
                .as_ref()
                .and_then(|v| v.parse().ok())
                .is_none_or(|v: u64| v > version)
        };
        let now = pod.status.as_ref().map(own).unwrap_or_default();
        let contradicted = self.0.pods.lock().get(uid).is_some_and(|entry| {
            entry.wanted.is_some() && !entry.busy && newer(entry.version) && contradict(&now, &entry.written)
        });
        if contradicted {
            self.change(pod, |entry| entry.written = now);
        }
    }

    fn change(&self, pod: &Pod, change: impl FnOnce(&mut Entry)) {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let key = Key {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
        };
        let mut pods = self.0.pods.lock();
        let entry = pods.entry(key.uid.clone()).or_insert_with(|| Entry {
            // What the API has is not written again.
            written: pod.status.as_ref().map(own).unwrap_or_default(),
            ..Entry::default()
        });
        change(entry);
        if !entry.busy {
            entry.busy = true;
            let shared = self.0.clone();
            tokio::spawn(async move { shared.write(key).await });
        }
    }
}

impl Shared {
    async fn write(&self, key: Key) {
        let mut pause = Duration::from_millis(200);
        loop {
            let (wanted, written, delete) = {
                let mut pods = self.pods.lock();
                let Some(entry) = pods.get_mut(&key.uid) else { return };
                let wanted = entry.wanted.as_ref().map(own).filter(|w| *w != entry.written);
                if wanted.is_none() && !entry.delete {
                    entry.busy = false;
                    return;
                }
                (wanted, entry.written.clone(), entry.delete)
            };
            let done = match &wanted {
                Some(wanted) => self.patch(&key, wanted, &written).await,
                None if delete => self.remove(&key).await.map(|()| Done::Gone),
                None => return,
            };
            match done {
                Ok(Done::Gone) => {
                    self.pods.lock().remove(&key.uid);
                    return;
                }
                Ok(Done::Written(version)) => {
                    pause = Duration::from_millis(200);
                    if let (Some(entry), Some(wanted)) = (self.pods.lock().get_mut(&key.uid), wanted) {
                        (entry.written, entry.version) = (wanted, version);
                    }
                }
                Err(error) => {
                    tracing::warn!(namespace = key.namespace, pod = key.name, %error, "writing pod status");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(20)),
                        () = self.shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn patch(&self, key: &Key, wanted: &Value, written: &Value) -> kube::Result<Done> {
        let _slot = self.slots.acquire().await;
        let mut status = wanted.clone();
        // A field that is no more is cleared; a list with a merge key is replaced as a whole.
        if let (Some(status), Some(old)) = (status.as_object_mut(), written.as_object()) {
            for field in old.keys() {
                status.entry(field.clone()).or_insert(Value::Null);
            }
            for list in ["podIPs", "hostIPs"] {
                if let Some(Value::Array(items)) = status.get_mut(list) {
                    items.insert(0, json!({"$patch": "replace"}));
                }
            }
        }
        clear_stale(&mut status, written);
        drop_gone(&mut status, written);
        let patch = json!({"metadata": {"uid": key.uid}, "status": status});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(pod) => {
                let version = pod.metadata.resource_version.and_then(|v| v.parse().ok());
                Ok(Done::Written(version.unwrap_or_default()))
            }
            Err(error) if gone(&error) => Ok(Done::Gone),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, key: &Key) -> kube::Result<()> {
        let _slot = self.slots.acquire().await;
        let preconditions = Some(Preconditions { uid: Some(key.uid.clone()), resource_version: None });
        let parameters = DeleteParams { grace_period_seconds: Some(0), preconditions, ..Default::default() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Conditions are merged by type: what one of them no more says must be taken back by name.
fn clear_stale(status: &mut Value, written: &Value) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        let kind = condition.get("type").cloned();
        let before = written["conditions"]
            .as_array()
            .and_then(|all| all.iter().find(|c| c.get("type") == kind.as_ref()));
        for field in before.and_then(Value::as_object).iter().flat_map(|c| c.keys()) {
            condition.entry(field.clone()).or_insert(Value::Null);
        }
    }
}

/// A condition that is no more is taken back by name too.
fn drop_gone(status: &mut Value, written: &Value) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for old in written["conditions"].as_array().into_iter().flatten() {
        if !conditions.iter().any(|c| c["type"] == old["type"]) {
            conditions.push(json!({"$patch": "delete", "type": old["type"]}));
        }
    }
}

enum Done {
    Written(u64),
    Gone,
}

/// True if a condition has another status.
fn contradict(now: &Value, written: &Value) -> bool {
    let conditions = |v: &Value| v["conditions"].as_array().cloned().unwrap_or_default();
    let ours = conditions(written);
    let differs = |c: &Value| ours.iter().any(|o| o["type"] == c["type"] && o["status"] != c["status"]);
    conditions(now).iter().any(differs)
}

/// The object is gone, or another bears its name now.
fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || (status.code == 409 && (status.message.contains("uid") || status.message.contains("UID"))))
}

/// The part of the status that the kubelet owns, as a document.
fn own(status: &PodStatus) -> Value {
    const FIELDS: [&str; 13] = [
        "phase",
        "conditions",
        "message",
        "reason",
        "hostIP",
        "hostIPs",
        "podIP",
        "podIPs",
        "startTime",
        "qosClass",
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    const CONDITIONS: [&str; 7] = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
        "PodResizePending",
        "PodResizeInProgress",
    ];
    let mut document = serde_json::to_value(status).unwrap_or_default();
    if let Some(map) = document.as_object_mut() {
        map.retain(|field, value| {
            (FIELDS.contains(&field.as_str()) || field == "observedGeneration") && !value.is_null()
        });
        if let Some(Value::Array(conditions)) = map.get_mut("conditions") {
            conditions.retain(|c| c["type"].as_str().is_some_and(|t| CONDITIONS.contains(&t)));
            conditions.sort_by_key(|c| CONDITIONS.iter().position(|t| c["type"] == *t));
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kubelet_owns_counts() {
        let status = |json: Value| own(&serde_json::from_value::<PodStatus>(json).unwrap());
        let a = status(
            json!({"phase": "Running", "nominatedNodeName": "x", "conditions": [{"type": "Ready", "status": "True"}, {"type": "Foreign", "status": "True"}]}),
        );
        let b = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(a, b);
        let lost = status(json!({"conditions": [{"type": "Ready", "status": "False"}]}));
        assert!(contradict(&lost, &a) && !contradict(&b, &a) && !contradict(&Value::Null, &a));
        let mut next = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        clear_stale(
            &mut next,
            &json!({"conditions": [{"type": "Ready", "status": "False", "message": "m"}]}),
        );
        assert_eq!(next["conditions"][0].get("message"), Some(&Value::Null));
        drop_gone(
            &mut next,
            &json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "PodResizePending", "status": "True"}]}),
        );
        assert_eq!(next["conditions"][1], json!({"$patch": "delete", "type": "PodResizePending"}));
        assert_eq!(next["conditions"].as_array().unwrap().len(), 2);
    }
}
