//! The batteries that many tests of API kinds have in common: upstream repeats them file by file.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, name_of, text, version_of};
use crate::context::Context;

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
