//! A small API server in memory: enough for a node to live on.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<String, Value>,
}

#[derive(Clone)]
pub struct Api {
    store: Arc<Mutex<Store>>,
    events: broadcast::Sender<(String, &'static str, Value)>,
    /// Writes of pod status.
    pub status_writes: Arc<Mutex<u32>>,
}

impl Api {
    pub fn new() -> Self {
        Self { store: Arc::default(), events: broadcast::channel(4096).0, status_writes: Arc::default() }
    }

    pub fn client(&self) -> kube::Client {
        let router = Router::new().fallback(handle).with_state(self.clone());
        kube::Client::new(tower::util::BoxCloneSyncService::new(router), "default")
    }

    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut store = self.store.lock();
        store.version += 1;
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.insert("resourceVersion".into(), json!(store.version.to_string()));
        meta.entry("uid")
            .or_insert_with(|| json!(format!("uid-{:08x}-{}", rand::random::<u32>(), store.version)));
        meta.entry("creationTimestamp").or_insert_with(|| json!("2026-01-01T00:00:00Z"));
        let kind = if store.objects.insert(path.to_owned(), object.clone()).is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let _ = self.events.send((path.to_owned(), kind, object.clone()));
        object
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.store.lock().objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        let mut store = self.store.lock();
        if let Some(object) = store.objects.remove(path) {
            let _ = self.events.send((path.to_owned(), "DELETED", object));
        }
    }

    pub fn list(&self, under: &str) -> Vec<Value> {
        self.store.lock().objects.iter().filter(|(p, _)| p.contains(under)).map(|(_, o)| o.clone()).collect()
    }

    pub fn pod(&self, name: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        self.put(&path, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec, "status": {"phase": "Pending"}}));
        path
    }

    pub fn delete_gracefully(&self, path: &str, grace: i64) {
        let mut object = self.get(path).unwrap();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(path, object);
    }

    pub async fn until(
        &self,
        path: &str,
        what: &str,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        for _ in 0..1500 {
            let object = self.get(path);
            if test(object.as_ref()) {
                return object;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path}: not {what}: {}", serde_json::to_string_pretty(&self.get(path)).unwrap());
    }

    pub fn reasons(&self) -> Vec<String> {
        self.list("/events/")
            .iter()
            .map(|e| {
                format!(
                    "{}: {}",
                    e["reason"].as_str().unwrap_or(""),
                    e["note"].as_str().or(e["message"].as_str()).unwrap_or("")
                )
            })
            .collect()
    }
}

pub fn phase(object: Option<&Value>) -> &str {
    object.and_then(|o| o["status"]["phase"].as_str()).unwrap_or("")
}

pub fn ready(object: Option<&Value>) -> bool {
    object
        .and_then(|o| o["status"]["conditions"].as_array())
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn status(code: u16, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "x", "code": code});
    (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}

/// Collection paths have no name at their end.
fn is_collection(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    matches!(rest, [_] | ["namespaces", _, _])
}

fn belongs(collection: &str, path: &str) -> bool {
    if let Some(rest) = path.strip_prefix(&format!("{collection}/")) {
        return !rest.contains('/');
    }
    // All namespaces.
    let kind = collection.rsplit('/').next().unwrap();
    let base = &collection[..collection.len() - kind.len()];
    path.strip_prefix(&format!("{base}namespaces/")).is_some_and(|rest| rest.split('/').nth(1) == Some(kind))
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|s| !s.is_empty()).all(|s| {
        let (field, value) = s.split_once('=').unwrap();
        field.split('.').fold(object, |o, part| &o[part]).as_str() == Some(value)
    })
}

fn merge(target: &mut Value, patch: &Value, key: &str) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (field, value) in patch {
                if value.is_null() {
                    target.remove(field);
                } else {
                    merge(target.entry(field.clone()).or_insert(Value::Null), value, field);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if key == "conditions" => {
            for item in patch {
                if item["$patch"] == "delete" {
                    target.retain(|t| t["type"] != item["type"]);
                    continue;
                }
                match target.iter_mut().find(|t| t["type"] == item["type"]) {
                    Some(old) => *old = item.clone(),
                    None => target.push(item.clone()),
                }
            }
        }
        (target, Value::Array(patch)) => {
            *target = patch.iter().filter(|i| i.get("$patch").is_none()).cloned().collect()
        }
        (target, patch) => *target = patch.clone(),
    }
}

async fn handle(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: HashMap<String, String> =
        form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes()).into_owned().collect();
    let body = to_bytes(body, 10 << 20).await.unwrap();
    let document = || serde_json::from_slice::<Value>(&body).unwrap();
    let object_path = path.trim_end_matches("/status").to_owned();
    match parts.method {
        Method::GET if is_collection(&path) => {
            let selector = query.get("fieldSelector").cloned().unwrap_or_default();
            if query.contains_key("watch") {
                return watch(&api, path, selector, query.contains_key("sendInitialEvents"));
            }
            let store = api.store.lock();
            let items: Vec<Value> = store
                .objects
                .iter()
                .filter(|(p, o)| belongs(&path, p) && selected(o, &selector))
                .map(|(_, o)| o.clone())
                .collect();
            axum::Json(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": store.version.to_string()}, "items": items})).into_response()
        }
        Method::GET => {
            api.get(&path).map_or_else(|| status(404, "not found"), |o| axum::Json(o).into_response())
        }
        Method::POST if path.ends_with("/token") => {
            let mut answer = document();
            answer["status"] = json!({"token": "a-token", "expirationTimestamp": "2099-01-01T00:00:00Z"});
            axum::Json(answer).into_response()
        }
        Method::POST => {
            let object = document();
            let name = object["metadata"]["name"].as_str().unwrap_or("generated").to_owned();
            let full = format!("{path}/{name}");
            if api.get(&full).is_some() {
                return status(409, "already exists");
            }
            (StatusCode::CREATED, axum::Json(api.put(&full, object))).into_response()
        }
        Method::PATCH => {
            let Some(mut object) = api.get(&object_path) else { return status(404, "not found") };
            if path.ends_with("/status") && path.contains("/pods/") {
                *api.status_writes.lock() += 1;
            }
            merge(&mut object, &document(), "");
            axum::Json(api.put(&object_path, object)).into_response()
        }
        Method::DELETE => {
            let Some(object) = api.get(&path) else { return status(404, "not found") };
            api.remove(&path);
            axum::Json(object).into_response()
        }
        _ => status(405, "method"),
    }
}

fn watch(api: &Api, collection: String, selector: String, initial: bool) -> Response {
    let store = api.store.lock();
    let receiver = api.events.subscribe();
    let mut first = String::new();
    if initial {
        for (_, object) in
            store.objects.iter().filter(|(p, o)| belongs(&collection, p) && selected(o, &selector))
        {
            first += &format!("{}\n", json!({"type": "ADDED", "object": object}));
        }
        let end = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": store.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
        first += &format!("{}\n", json!({"type": "BOOKMARK", "object": end}));
    }
    let events = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.ok().map(|event| (event, receiver))
    });
    let lines = events.filter_map(move |(path, kind, object)| {
        let line = (belongs(&collection, &path) && selected(&object, &selector))
            .then(|| format!("{}\n", json!({"type": kind, "object": object})));
        async move { line.map(Ok::<_, Infallible>) }
    });
    Body::from_stream(stream::iter([Ok(first)]).chain(lines)).into_response()
}
