//! The batteries that many tests of API kinds have in common: upstream repeats them file by file.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, name_of, text, version_of};
use crate::context::Context;
use crate::watch::Watch;

const LIMIT: Duration = Duration::from_secs(60);

/// The group is in `/apis`, the version in `/apis/G`, and the resource in `/apis/G/V`.
pub async fn discovered(c: &Context, kind: &Kind) -> Result<()> {
    let listed = |groups: &Value| {
        array(groups, "/groups").iter().any(|g| {
            g["name"] == *kind.group
                && array(g, "/versions").iter().any(|v| v["groupVersion"] == kind.api_version())
        })
    };
    if !kind.group.is_empty() {
        let groups = c.rest().get("/apis").await?;
        anyhow::ensure!(listed(&groups), "/apis lacks {}: {groups}", kind.api_version());
        let group = c.rest().get(&format!("/apis/{}", kind.group)).await?;
        let has = array(&group, "/versions").iter().any(|v| v["version"] == *kind.version);
        anyhow::ensure!(has, "/apis/{} lacks {}: {group}", kind.group, kind.version);
    }
    let resources = c.rest().get(&kind.root()).await?;
    let found = array(&resources, "/resources").iter().find(|r| r["name"] == *kind.plural);
    let Some(found) = found else { anyhow::bail!("{} lacks {}: {resources}", kind.root(), kind.plural) };
    ensure_eq!(found["kind"], json!(kind.kind), "the kind of {} in discovery", kind.plural);
    ensure_eq!(found["namespaced"], json!(kind.namespaced), "the scope of {} in discovery", kind.plural);
    Ok(())
}

/// "should support ... API operations": three objects by generateName, through every verb, with a watch beside it.
/// `status` is a merge patch for the status subresource, if the kind has one.
pub async fn operations(c: &Context, kind: &Kind, body: Value, status: Option<Value>) -> Result<()> {
    discovered(c, kind).await?;
    let api = c.api(kind);
    let label = c.unique("special");
    let selector = format!("special-label={label}");
    let query = [("labelSelector", selector.as_str())];
    let mut body = body;
    body["metadata"]["generateName"] = json!("e2e-example-");
    body["metadata"]["labels"] = json!({"special-label": label});
    let mut made = Vec::new();
    for _ in 0..3 {
        let object = api.create(&body).await?;
        c.cleanup(&api, name_of(&object)?);
        made.push(object);
    }
    let name = name_of(&made[0])?.to_string();
    let seen = api.get(&name).await?;
    ensure_eq!(seen["metadata"]["uid"], made[0]["metadata"]["uid"], "uid of the object read");
    let list = api.list(&query).await?;
    ensure_eq!(array(&list, "/items").len(), 3, "listing by label");
    ensure_eq!(list["kind"], json!(format!("{}List", kind.kind)), "kind of the list");
    if kind.namespaced {
        ensure_eq!(c.api_all(kind).items(&query).await?.len(), 3, "listing over all namespaces");
    }
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    let patched =
        api.patch(&name, Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}))).await?;
    ensure_eq!(patched["metadata"]["annotations"]["patched"], json!("true"), "annotation after the patch");
    let updated = api.modify(&name, |o| o["metadata"]["annotations"]["updated"] = json!("true")).await?;
    ensure_eq!(updated["metadata"]["annotations"]["updated"], json!("true"), "annotation after the update");
    for annotation in ["patched", "updated"] {
        let what = format!("watching for the annotation {annotation}");
        let event = watch
            .until(LIMIT, &what, |e| {
                e.kind == "MODIFIED"
                    && text(&e.object, "/metadata/name") == name
                    && e.object["metadata"]["annotations"][annotation] == "true"
            })
            .await?;
        ensure_eq!(event.object["metadata"]["uid"], made[0]["metadata"]["uid"], "uid in the event");
    }
    if let Some(status) = status {
        status_steps(&api, &name, status).await?;
    }
    api.delete(&name).await?;
    api.wait_gone(&name, LIMIT).await?;
    let event = watch.until(LIMIT, "watching for the deletion", |e| e.kind == "DELETED").await?;
    ensure_eq!(text(&event.object, "/metadata/name"), name, "the object in the DELETED event");
    ensure_eq!(api.items(&query).await?.len(), 2, "objects after one was deleted");
    api.delete_collection(&query).await?;
    api.wait_set(&query, LIMIT, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await
}

/// GET, PATCH and PUT of `/status`: the status changes, an annotation goes with it, the rest stays.
async fn status_steps(api: &Api, name: &str, status: Value) -> Result<()> {
    let path = format!("{name}/status");
    let mut patch = status.clone();
    patch["metadata"] = json!({"annotations": {"patchedstatus": "true"}});
    let patched = api.patch(&path, Patch::Merge(patch)).await?;
    ensure_eq!(patched["status"], status["status"], "status after its patch");
    ensure_eq!(
        patched["metadata"]["annotations"]["patchedstatus"],
        json!("true"),
        "annotation by the status patch"
    );
    let seen = api.get(&path).await?;
    ensure_eq!(seen["metadata"]["uid"], patched["metadata"]["uid"], "uid of the status read");
    ensure_eq!(seen["status"], status["status"], "status read back");
    let updated = api
        .modify_at(name, "status", |o| o["metadata"]["annotations"]["updatedstatus"] = json!("true"))
        .await?;
    ensure_eq!(
        updated["metadata"]["annotations"]["updatedstatus"],
        json!("true"),
        "annotation by the status update"
    );
    Ok(())
}

/// "should run through the lifecycle of ...": create, read, patch, list, update, delete, again, delete the collection.
pub async fn lifecycle(c: &Context, kind: &Kind, body: impl Fn(&str) -> Value) -> Result<()> {
    let api = c.api(kind);
    let name = c.unique("e2e");
    let made = api.create(&body(&name)).await?;
    c.cleanup(&api, &name);
    ensure_eq!(text(&made, "/metadata/name"), name, "name of the created object");
    let seen = api.get(&name).await?;
    ensure_eq!(seen["metadata"]["uid"], made["metadata"]["uid"], "uid of the object read");
    let key = name.as_str();
    let patched = api.patch(key, Patch::Merge(json!({"metadata": {"labels": {key: "patched"}}}))).await?;
    ensure_eq!(patched["metadata"]["labels"][key], json!("patched"), "label after the patch");
    let selector = format!("{key}=patched");
    let listed = api.labelled(&selector).await?;
    ensure_eq!(listed.len(), 1, "objects with the patched label");
    ensure_eq!(text(&listed[0], "/metadata/name"), name, "name of the listed object");
    let updated = api.modify(key, |o| o["metadata"]["labels"][key] = json!("updated")).await?;
    ensure_eq!(updated["metadata"]["labels"][key], json!("updated"), "label after the update");
    ensure_eq!(updated["metadata"]["uid"], made["metadata"]["uid"], "uid after the update");
    ensure_eq!(api.labelled(&selector).await?.len(), 0, "objects with the label before the update");
    api.delete(key).await?;
    api.wait_gone(key, LIMIT).await?;
    let second = c.unique("e2e");
    let mut body = body(&second);
    let labels = body["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    body["metadata"]["labels"] = json!(labels);
    body["metadata"]["labels"][second.as_str()] = json!("collected");
    api.create(&body).await?;
    c.cleanup(&api, &second);
    let selector = format!("{second}=collected");
    let query = [("labelSelector", selector.as_str())];
    ensure_eq!(api.items(&query).await?.len(), 1, "the replacement");
    api.delete_collection(&query).await?;
    api.wait_set(&query, LIMIT, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await?;
    crate::rest::refused(api.get(&second).await, 404, "reading what the collection's deletion removed")
        .map(|_| ())
}

fn revision(object: &Value) -> Result<u64> {
    let text = version_of(object);
    text.parse().map_err(|_| anyhow::anyhow!("resourceVersion {text:?} is no decimal number"))
}

/// A streaming list and watch, as informers open it: it begins with what is there and a bookmark that says so.
async fn informer(api: &Api, selector: &str) -> Result<Watch> {
    let query = [
        ("labelSelector", selector),
        ("sendInitialEvents", "true"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("allowWatchBookmarks", "true"),
    ];
    let mut watch = api.watch(&query).await?;
    let mark = watch.until(LIMIT, "the bookmark after the initial events", |e| e.kind == "BOOKMARK").await?;
    let annotation = text(&mark.object, "/metadata/annotations/k8s.io~1initial-events-end");
    ensure_eq!(annotation, "true", "annotation of the bookmark");
    revision(&mark.object)?;
    Ok(watch)
}

/// Follows one object through two watches: every event is the same object, and its version never goes down.
struct Follower {
    watches: Vec<Watch>,
    last: u64,
    uid: Value,
}

impl Follower {
    /// The events of one step: of these types only, ending with this version.
    async fn step(&mut self, what: &str, object: &Value, kinds: &[&str], end: &str) -> Result<()> {
        let version = revision(object)?;
        for watch in &mut self.watches {
            loop {
                let event = watch.within(Duration::from_secs(5), what).await?;
                if event.kind == "BOOKMARK" {
                    continue;
                }
                anyhow::ensure!(kinds.contains(&event.kind.as_str()), "{what}: an event {}", event.kind);
                ensure_eq!(event.object["metadata"]["uid"], self.uid, "{what}: uid in the event");
                let seen = revision(&event.object)?;
                anyhow::ensure!(seen >= self.last, "{what}: version {seen} after {}", self.last);
                if event.kind == end && seen >= version {
                    break;
                }
            }
        }
        self.last = version;
        Ok(())
    }
}

/// The strict battery of upstream's `test/e2e/framework/conformance`: every verb, with two informers beside it, versions
/// compared as numbers, and all four patch types on the object and on its status.
pub async fn strict(c: &Context, kind: &Kind, body: Value, status: Option<Value>) -> Result<()> {
    discovered(c, kind).await?;
    let (api, name, label) = (c.api(kind), c.unique("e2e"), c.unique("strict"));
    let selector = format!("e2e-strict={label}");
    let watches = vec![informer(&api, &selector).await?, informer(&c.api_all(kind), &selector).await?];
    let mut follower = Follower { watches, last: 0, uid: Value::Null };
    let mut body = body;
    body["metadata"]["name"] = json!(name);
    body["metadata"]["labels"] = json!({"e2e-strict": label});
    let made = api.create_with(&[("fieldValidation", "Strict")], &body).await?;
    c.cleanup(&api, &name);
    follower.uid = made["metadata"]["uid"].clone();
    follower.step("create", &made, &["ADDED", "MODIFIED"], "ADDED").await?;
    let again = crate::rest::refused(api.create(&body).await, 409, "creating it again")?;
    ensure_eq!(again.reason(), "AlreadyExists", "reason of the refusal");
    let seen = api.get(&name).await?;
    ensure_eq!(seen["metadata"]["uid"], follower.uid, "uid of the object read");
    for list in [api.labelled(&selector).await?, c.api_all(kind).labelled(&selector).await?] {
        ensure_eq!(list.len(), 1, "objects listed by label");
        ensure_eq!(list[0]["metadata"]["uid"], follower.uid, "uid of the object listed");
    }
    let updated = api.modify(&name, |o| o["metadata"]["annotations"] = json!({"updated": "true"})).await?;
    follower.step("update", &updated, &["MODIFIED"], "MODIFIED").await?;
    patches(&api, &name, "", None, &mut follower).await?;
    if let Some(status) = status {
        patches(&api, &name, "/status", Some(&status), &mut follower).await?;
        let updated = api
            .modify_at(&name, "status", |o| o["metadata"]["annotations"]["updatedstatus"] = json!("true"))
            .await?;
        follower.step("update of status", &updated, &["MODIFIED"], "MODIFIED").await?;
    }
    let last = api.get(&name).await?;
    let options = json!({"preconditions": {"uid": follower.uid}});
    api.delete_with(&name, options).await?;
    follower.step("delete", &last, &["MODIFIED", "DELETED"], "DELETED").await?;
    crate::rest::refused(api.get(&name).await, 404, "reading the deleted object")?;
    api.create(&body).await?;
    let query = [("labelSelector", selector.as_str())];
    api.delete_collection(&query).await?;
    api.wait_set(&query, LIMIT, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await
}

/// All four patch types, each with an annotation of its own; with a status, that as well.
async fn patches(
    api: &Api,
    name: &str,
    sub: &str,
    status: Option<&Value>,
    follower: &mut Follower,
) -> Result<()> {
    let path = format!("{name}{sub}");
    let types = ["strategic", "merge", "json", "apply"];
    for kind in types {
        let key = format!("{kind}{}", sub.replace('/', "-"));
        let mut change = status.cloned().unwrap_or_else(|| json!({}));
        change["metadata"]["annotations"] = json!({key.as_str(): "patched"});
        let patch = match kind {
            "strategic" => Patch::Strategic(change),
            "merge" => Patch::Merge(change),
            "json" => Patch::Json(
                json!([{"op": "add", "path": format!("/metadata/annotations/{key}"), "value": "patched"}]),
            ),
            _ => {
                change["metadata"]["name"] = json!(name);
                Patch::Apply("e2e-test", api.kind.document(change))
            }
        };
        let what = format!("{kind} patch of {path}");
        let patched = api.patch(&path, patch).await.map_err(|e| e.context(what.clone()))?;
        ensure_eq!(patched["metadata"]["annotations"][&key], json!("patched"), "annotation after the {what}");
        if let Some(status) = status {
            for (field, value) in status["status"].as_object().into_iter().flatten() {
                ensure_eq!(patched["status"][field], *value, "status.{field} after the {what}");
            }
        }
        follower.step(&what, &patched, &["MODIFIED"], "MODIFIED").await?;
    }
    Ok(())
}
