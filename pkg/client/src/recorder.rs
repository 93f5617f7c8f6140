//! Events about objects (`core/v1 Event`): equal ones are counted up in one object instead of repeated.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Series that are remembered for counting; beyond that the memory starts anew.
const MAX_SERIES: usize = 4096;
/// Events that may wait for the server; beyond that new ones are dropped with a log line.
const MAX_QUEUED: usize = 1000;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Series {
    object: (String, String, String, String, String),
    kind: String,
    reason: String,
    message: String,
}

struct Seen {
    name: String,
    count: i32,
}

/// Records events of one component without ever blocking it.
#[derive(Clone)]
pub struct Recorder {
    component: Arc<str>,
    host: Arc<str>,
    sender: mpsc::Sender<(Series, Event)>,
}

impl Recorder {
    /// Starts the sending task; it ends with the last clone of the recorder.
    /// `host` is the node name for node components, else "".
    pub fn new(client: kube::Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(send_all(client, receiver));
        Self { component: component.into(), host: host.into(), sender }
    }

    /// Records an event about `object`; `kind` is `Normal` or `Warning`.
    pub fn event(&self, object: &ObjectReference, kind: &str, reason: &str, message: &str) {
        let now = Time(k8s_openapi::jiff::Timestamp::now());
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        // Events about cluster-scoped objects live in `default`, as upstream's do.
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_string());
        let series = Series {
            object: (
                text(&object.kind),
                namespace.clone(),
                text(&object.name),
                text(&object.uid),
                text(&object.field_path),
            ),
            kind: kind.to_string(),
            reason: reason.to_string(),
            message: message.to_string(),
        };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", text(&object.name), now.0.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: object.clone(),
            type_: Some(kind.to_string()),
            reason: Some(reason.to_string()),
            message: Some(message.chars().take(1024).collect()),
            source: Some(EventSource {
                component: Some(self.component.to_string()),
                host: Some(self.host.to_string()).filter(|h| !h.is_empty()),
            }),
            reporting_component: Some(self.component.to_string()),
            reporting_instance: Some(self.host.to_string()).filter(|h| !h.is_empty()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Event::default()
        };
        if self.sender.try_send((series, event)).is_err() {
            tracing::warn!(reason, message, "event dropped: {MAX_QUEUED} events are waiting for the server");
        }
    }

    /// Records an event about a typed object.
    pub fn about<K: Resource<DynamicType = ()>>(&self, object: &K, kind: &str, reason: &str, message: &str) {
        self.event(&object.object_ref(&()), kind, reason, message);
    }
}

async fn send_all(client: kube::Client, mut receiver: mpsc::Receiver<(Series, Event)>) {
    let seen: Mutex<HashMap<Series, Seen>> = Mutex::new(HashMap::new());
    while let Some((series, event)) = receiver.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let known = seen.lock().get(&series).map(|s| (s.name.clone(), s.count));
        if let Some((name, count)) = known {
            let patch = serde_json::json!({
                "count": count + 1,
                "lastTimestamp": event.last_timestamp,
            });
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    seen.lock().insert(series, Seen { name, count: count + 1 });
                    continue;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::warn!(%error, namespace, name, "event not updated");
                    continue;
                }
            }
        }
        let name = event.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                let mut seen = seen.lock();
                if seen.len() >= MAX_SERIES {
                    seen.clear();
                }
                seen.insert(series, Seen { name, count: 1 });
            }
            // A namespace that is going away takes no new events.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => {
                tracing::debug!(namespace, name, message = %status.message, "event refused");
            }
            Err(error) => tracing::warn!(%error, namespace, name, "event not recorded"),
        }
    }
}
