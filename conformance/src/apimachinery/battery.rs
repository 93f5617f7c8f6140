//! The battery that upstream repeats for each API of the table kind: discovery, every verb, watch, collections.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, name_of, text, version_of};
use crate::context::{Context, random};

/// What differs between the kinds.
pub(crate) struct Battery<'a> {
    /// The kind.
    pub kind: &'a Kind,
    /// Resources that discovery must list.
    pub resources: &'a [&'a str],
    /// The document, without metadata.
    pub template: Value,
    /// A merge patch that changes the spec, besides the annotation `patched`.
    pub patch: Value,
    /// What an update does to the spec, besides the annotation `updated`.
    pub update: fn(&mut Value),
    /// A pointer to what patch and update change.
    pub pointer: &'a str,
}

/// `/apis`, `/apis/GROUP` and `/apis/GROUP/VERSION` name the kind.
pub(crate) async fn discovered(cx: &Context, kind: &Kind, resources: &[&str]) -> Result<()> {
    let versioned = |group: &Value| array(group, "/versions").iter().any(|v| v["version"] == *kind.version);
    let groups = cx.rest().get("/apis").await?;
    let group = array(&groups, "/groups").iter().find(|g| g["name"] == *kind.group);
    let group = group.with_context(|| format!("/apis does not list group {}", kind.group))?;
    anyhow::ensure!(versioned(group), "/apis does not list {}", kind.api_version());
    let group = cx.rest().get(&format!("/apis/{}", kind.group)).await?;
    ensure_eq!(text(&group, "/name"), kind.group, "name in /apis/{}", kind.group);
    anyhow::ensure!(versioned(&group), "/apis/{} does not list {}", kind.group, kind.version);
    let found = cx.rest().get(&kind.root()).await?;
    for want in resources {
        let has = array(&found, "/resources").iter().any(|r| r["name"] == *want);
        anyhow::ensure!(has, "{} does not list {want}", kind.root());
    }
    Ok(())
}

/// The three objects that a battery works with.
pub(crate) struct Run {
    /// Where they are.
    pub api: Api,
    /// The name of the one that is changed.
    pub name: String,
    selector: String,
}

impl Battery<'_> {
    /// All of it, for a kind without a status.
    pub(crate) async fn run(&self, cx: &Context) -> Result<()> {
        let run = self.begin(cx).await?;
        run.finish().await
    }

    /// Discovery, creation, reading, watching, patching, updating.
    pub(crate) async fn begin(&self, cx: &Context) -> Result<Run> {
        discovered(cx, self.kind, self.resources).await?;
        let api = cx.api(self.kind);
        let mark = random(8);
        let selector = format!("example-e2e-label={mark}");
        let mut made = self.template.clone();
        made["metadata"] = json!({"generateName": "e2e-example-", "labels": {"example-e2e-label": mark}});
        for _ in 0..2 {
            cx.create(self.kind, &made).await?;
        }
        let created = cx.create(self.kind, &made).await?;
        let name = name_of(&created)?.to_string();
        anyhow::ensure!(name.starts_with("e2e-example-"), "the generated name is {name}");
        let seen = api.get(&name).await?;
        ensure_eq!(seen["metadata"]["uid"], created["metadata"]["uid"], "uid");
        let list = api.list(&[("labelSelector", &selector)]).await?;
        ensure_eq!(array(&list, "/items").len(), 3, "objects in the list");
        let mut watch =
            api.watch(&[("labelSelector", &selector), ("resourceVersion", version_of(&list))]).await?;
        self.change(&api, &name).await?;
        loop {
            let event = watch.within(Duration::from_secs(30), "event of the patch").await?;
            ensure_eq!(event.kind, "MODIFIED", "type of the event");
            if event.object["metadata"]["annotations"]["patched"] == "true" {
                break;
            }
        }
        Ok(Run { api, name, selector })
    }

    async fn change(&self, api: &Api, name: &str) -> Result<()> {
        let mut patch = self.patch.clone();
        patch["metadata"] = json!({"annotations": {"patched": "true"}});
        let patched = api.patch(name, Patch::Merge(patch.clone())).await?;
        ensure_eq!(patched["metadata"]["annotations"]["patched"], json!("true"), "annotation of the patch");
        if !self.pointer.is_empty() {
            ensure_eq!(
                patched.pointer(self.pointer),
                patch.pointer(self.pointer),
                "{} of the patch",
                self.pointer
            );
        }
        let change = self.update;
        let updated = api
            .modify(name, |o| {
                o["metadata"]["annotations"]["updated"] = json!("true");
                change(o);
            })
            .await?;
        ensure_eq!(updated["metadata"]["annotations"]["updated"], json!("true"), "annotation of the update");
        if !self.pointer.is_empty() {
            let mut wanted = json!({});
            change(&mut wanted);
            ensure_eq!(
                updated.pointer(self.pointer),
                wanted.pointer(self.pointer),
                "{} of the update",
                self.pointer
            );
        }
        Ok(())
    }
}

/// An object that was deleted is gone, or is held by a finalizer.
fn on_its_way(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null() && !array(object, "/metadata/finalizers").is_empty()
}

impl Run {
    /// The status subresource with conditions: read, patched, replaced.
    pub(crate) async fn status(&self) -> Result<()> {
        let path = format!("{}/status", self.name);
        let seen = self.api.get(&path).await.context("reading /status")?;
        let whole = self.api.get(&self.name).await?;
        ensure_eq!(seen["metadata"]["uid"], whole["metadata"]["uid"], "uid in /status");
        let one = |kind: &str| {
            json!({"type": kind, "status": "False", "reason": "e2e", "message": "Set from an e2e test",
                   "lastTransitionTime": "2026-01-02T03:04:05Z"})
        };
        let patch = json!({
            "metadata": {"annotations": {"patchedstatus": "true"}},
            "status": {"conditions": [one("PatchStatusFailed")]},
        });
        let patched = self.api.patch(&path, Patch::Merge(patch)).await.context("patching /status")?;
        let has = |o: &Value, kind: &str| array(o, "/status/conditions").iter().any(|c| c["type"] == kind);
        anyhow::ensure!(has(&patched, "PatchStatusFailed"), "no patched condition in {}", patched["status"]);
        ensure_eq!(
            patched["metadata"]["annotations"]["patchedstatus"],
            json!("true"),
            "annotation of the patch"
        );
        let updated = self
            .api
            .modify_at(&self.name, "status", |o| {
                if let Some(all) = o["status"]["conditions"].as_array_mut() {
                    all.push(one("StatusUpdateFailed"));
                }
            })
            .await
            .context("replacing /status")?;
        anyhow::ensure!(has(&updated, "StatusUpdateFailed"), "no new condition in {}", updated["status"]);
        Ok(())
    }

    /// One is deleted, then the collection.
    pub(crate) async fn finish(&self) -> Result<()> {
        self.api.delete(&self.name).await?;
        match self.api.find(&self.name).await? {
            None => {}
            Some(left) => anyhow::ensure!(on_its_way(&left), "the deleted object is there: {left}"),
        }
        let left = self.api.labelled(&self.selector).await?;
        ensure_eq!(left.iter().filter(|o| !on_its_way(o)).count(), 2, "objects after one was deleted");
        self.api.delete_collection(&[("labelSelector", &self.selector)]).await?;
        let left = self.api.labelled(&self.selector).await?;
        ensure_eq!(left.iter().filter(|o| !on_its_way(o)).count(), 0, "objects after deletecollection");
        Ok(())
    }
}
