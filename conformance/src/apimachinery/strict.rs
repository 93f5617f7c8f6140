//! Upstream's framework/conformance TestResource: every verb of a resource beside informers that must see each step in
//! order, with resource versions that only grow.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, name_of, text, version_of};
use crate::context::Context;
use crate::watch::Watch;

/// What is tested.
pub(crate) struct Resource<'a> {
    /// The kind.
    pub kind: &'a Kind,
    /// The document with its name.
    pub object: Value,
    /// What an update changes, and a merge patch of the same.
    pub patch: Value,
    /// The status that an update and patches set; null when the kind has none.
    pub status: Value,
}

const LABEL: &str = "e2e-test.kubernetes.io";

/// A resource version as the number that it must be.
fn version(object: &Value) -> Result<u128> {
    let text = version_of(object);
    let plain = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    anyhow::ensure!(plain, "{text:?} is no resource version that can be compared");
    text.parse().with_context(|| format!("resource version {text:?}"))
}

/// What an informer does: one streaming list that goes on as a watch.
struct Informer {
    watch: Watch,
    last: u128,
    place: String,
}

impl Informer {
    async fn start(api: &Api, selector: &str) -> Result<Self> {
        let query = [
            ("labelSelector", selector),
            ("sendInitialEvents", "true"),
            ("resourceVersionMatch", "NotOlderThan"),
            ("allowWatchBookmarks", "true"),
        ];
        let mut watch = api.watch(&query).await.context("streaming list")?;
        let first = watch.within(Duration::from_secs(30), "end of the initial events").await?;
        ensure_eq!(first.kind, "BOOKMARK", "type of the first event of an empty streaming list");
        let end = &first.object["metadata"]["annotations"]["k8s.io/initial-events-end"];
        ensure_eq!(end, "true", "annotation of the bookmark");
        Ok(Self { watch, last: version(&first.object)?, place: api.path() })
    }

    /// The events of a step: the wanted types in order, with any MODIFIED in between.
    async fn step(&mut self, what: &str, object: &Value, wanted: &[&str]) -> Result<()> {
        for want in wanted {
            loop {
                let what = format!("{want} at {} after {what}", self.place);
                let event = self.watch.within(Duration::from_secs(5), &what).await?;
                if event.kind == "BOOKMARK" {
                    continue;
                }
                let ids = |o: &Value| {
                    (
                        text(o, "/metadata/namespace").to_string(),
                        text(o, "/metadata/name").to_string(),
                        text(o, "/metadata/uid").to_string(),
                    )
                };
                ensure_eq!(ids(&event.object), ids(object), "{what}: object of the event");
                let now = version(&event.object)?;
                anyhow::ensure!(now >= self.last, "{what}: resource version {now} after {}", self.last);
                self.last = now;
                if event.kind == *want {
                    break;
                }
                ensure_eq!(event.kind, "MODIFIED", "{what}: type of the event");
            }
        }
        Ok(())
    }
}

/// The run of one test.
struct Run<'a> {
    tested: &'a Resource<'a>,
    api: Api,
    initial: Value,
    name: String,
    selector: String,
    informers: Vec<Informer>,
}

const STRICT: (&str, &str) = ("fieldValidation", "Strict");

impl Run<'_> {
    async fn saw(&mut self, what: &str, object: &Value, wanted: &[&str]) -> Result<()> {
        ensure_eq!(name_of(object)?, self.name, "{what}: name of the answer");
        version(object)?;
        for informer in &mut self.informers {
            informer.step(what, object, wanted).await?;
        }
        Ok(())
    }

    async fn create(&mut self) -> Result<Value> {
        self.api.create_with(&[STRICT], &self.initial).await.context("create")
    }

    async fn remove(&mut self, object: &Value) -> Result<()> {
        self.api.delete(&self.name).await?;
        self.api.wait_gone(&self.name, Duration::from_secs(30)).await?;
        self.saw("delete", object, &["DELETED"]).await
    }

    async fn update(&mut self) -> Result<Value> {
        let patch = self.tested.patch.clone();
        self.api.modify(&self.name, |o| merge(o, &patch)).await.context("update")
    }

    /// The change in each of the four patch forms.
    fn patches(&self, object: &Value, change: &Value) -> Vec<Patch> {
        let mut whole = change.clone();
        for field in ["name", "namespace", "uid"] {
            if !object["metadata"][field].is_null() {
                whole["metadata"][field] = object["metadata"][field].clone();
            }
        }
        whole["apiVersion"] = object["apiVersion"].clone();
        whole["kind"] = object["kind"].clone();
        vec![
            Patch::Strategic(whole.clone()),
            Patch::Apply("test-apply", whole.clone()),
            Patch::Merge(whole),
            Patch::Json(json_patch(change)),
        ]
    }

    async fn spec_patches(&mut self) -> Result<()> {
        let sample = self.api.get(&self.name).await?;
        let mut last = sample.clone();
        for index in 0..self.patches(&sample, &self.tested.patch).len() {
            self.remove(&last).await?;
            let made = self.create().await?;
            let patch = self.patches(&made, &self.tested.patch)[index].clone();
            let what = format!("patch {patch:?}");
            last = self.api.patch_with(&self.name, &[STRICT], patch).await.with_context(|| what.clone())?;
            self.saw(&what, &last, &["ADDED", "MODIFIED"]).await?;
        }
        Ok(())
    }

    async fn status_patches(&mut self) -> Result<()> {
        let change = json!({"status": self.tested.status});
        let sample = self.api.get(&self.name).await?;
        let mut last = sample.clone();
        for index in 0..self.patches(&sample, &change).len() {
            self.remove(&last).await?;
            self.create().await?;
            let made = self.update().await?;
            let patch = self.patches(&made, &change)[index].clone();
            let what = format!("status patch {patch:?}");
            let path = format!("{}/status", self.name);
            last = self.api.patch_with(&path, &[STRICT], patch).await.with_context(|| what.clone())?;
            self.saw(&what, &last, &["ADDED", "MODIFIED"]).await?;
        }
        Ok(())
    }

    async fn update_and_status(&mut self, created: &Value) -> Result<()> {
        let updated = self.update().await?;
        self.saw("update", &updated, &["MODIFIED"]).await?;
        let (before, after) = (version(created)?, version(&updated)?);
        anyhow::ensure!(before < after, "an update must raise the resource version: {before}, then {after}");
        if self.tested.status.is_null() {
            return Ok(());
        }
        let status = self.tested.status.clone();
        let updated = self.api.modify_at(&self.name, "status", |o| o["status"] = status.clone()).await?;
        self.saw("update of the status", &updated, &["MODIFIED"]).await?;
        let seen = self.api.get(&format!("{}/status", self.name)).await?;
        self.saw("get of the status", &seen, &[]).await
    }

    async fn lists_and_collection(&mut self, cx: &Context) -> Result<()> {
        let last = self.api.get(&self.name).await?;
        for api in [self.api.clone(), cx.api_all(self.tested.kind)] {
            let items = api.labelled(&self.selector).await?;
            ensure_eq!(items.len(), 1, "objects at {} with {}", api.path(), self.selector);
            self.saw("list", &items[0], &[]).await?;
        }
        self.api.delete_collection(&[("labelSelector", &self.selector)]).await?;
        self.api.wait_gone(&self.name, Duration::from_secs(30)).await?;
        self.saw("deletecollection", &last, &["DELETED"]).await
    }
}

/// JSON patch operations that add each leaf of a change under `metadata.labels`, `spec` or `status`.
fn json_patch(change: &Value) -> Value {
    let mut ops = Vec::new();
    for (pointer, map) in [
        ("/metadata/labels", &change["metadata"]["labels"]),
        ("/spec", &change["spec"]),
        ("/status", &change["status"]),
    ] {
        for (key, value) in map.as_object().into_iter().flatten() {
            let key = key.replace('~', "~0").replace('/', "~1");
            ops.push(json!({"op": "add", "path": format!("{pointer}/{key}"), "value": value}));
        }
    }
    Value::Array(ops)
}

fn merge(object: &mut Value, change: &Value) {
    match (object, change) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (slot, value) => *slot = value.clone(),
    }
}

/// Runs it all.
pub(crate) async fn test_resource(cx: &Context, tested: &Resource<'_>) -> Result<()> {
    let api = cx.api(tested.kind);
    let resources = cx.rest().get(&tested.kind.root()).await.context("discovery of the API version")?;
    let listed = array(&resources, "/resources").iter().any(|r| r["name"] == *tested.kind.plural);
    anyhow::ensure!(listed, "{} does not list {}", tested.kind.root(), tested.kind.plural);
    let mark = crate::context::random(8);
    let mut initial = tested.object.clone();
    initial["metadata"]["labels"][LABEL] = json!(mark);
    let name = name_of(&initial)?.to_string();
    let selector = format!("{LABEL}={mark}");
    let mut informers = vec![Informer::start(&cx.api_all(tested.kind), &selector).await?];
    if tested.kind.namespaced {
        informers.push(Informer::start(&api, &selector).await?);
    }
    cx.cleanup(&api, &name);
    let mut run = Run { tested, api, initial, name, selector, informers };
    let created = run.create().await?;
    run.saw("create", &created, &["ADDED"]).await?;
    let seen = run.api.get(&run.name).await?;
    run.saw("get", &seen, &[]).await?;
    run.update_and_status(&created).await?;
    run.spec_patches().await?;
    if !tested.status.is_null() {
        run.status_patches().await?;
    }
    run.lists_and_collection(cx).await
}
