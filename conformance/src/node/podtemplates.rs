//! Upstream: `test/e2e/common/node/podtemplates.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, text};
use crate::context::Context;
use crate::images::BUSYBOX;
use crate::kinds::POD_TEMPLATES;
use crate::rest::refused;

tests! {
    "[sig-node] PodTemplates should run the lifecycle of PodTemplates" => lifecycle,
    "[sig-node] PodTemplates should delete a collection of pod templates" => collection,
    "[sig-node] PodTemplates should replace a pod template" => replace,
}

fn template(name: &str, labels: Value) -> Value {
    let containers = json!([{"name": "nginx", "image": BUSYBOX}]);
    json!({"metadata": {"name": name, "labels": labels}, "template": {"spec": {"containers": containers}}})
}

async fn lifecycle(c: Context) -> Result<()> {
    let (api, name) = (c.api(&POD_TEMPLATES), c.unique("nginx-pod-template"));
    let mut watch = api.watch(&[("labelSelector", "podtemplate-static=true")]).await?;
    api.create(&template(&name, json!({"podtemplate-static": "true"}))).await?;
    let limit = Duration::from_secs(30);
    watch
        .until(limit, "the new template", |e| e.kind == "ADDED" && text(&e.object, "/metadata/name") == name)
        .await?;
    let all = c.api_all(&POD_TEMPLATES).labelled("podtemplate-static=true").await?;
    anyhow::ensure!(all.iter().any(|t| text(t, "/metadata/name") == name), "not listed over all namespaces");
    let patch = json!({"metadata": {"labels": {"podtemplate": "patched"}}});
    api.patch(&name, Patch::Strategic(patch)).await?;
    let seen = api.get(&name).await?;
    ensure_eq!(text(&seen, "/metadata/labels/podtemplate"), "patched", "label after the patch");
    watch.until(limit, "the patched template", |e| e.kind == "MODIFIED").await?;
    api.delete(&name).await?;
    watch.until(limit, "the deleted template", |e| e.kind == "DELETED").await?;
    let all = api.labelled("podtemplate-static=true").await?;
    ensure_eq!(all.len(), 0, "templates after the deletion");
    refused(api.get(&name).await, 404, "reading the deleted template").map(|_| ())
}

async fn collection(c: Context) -> Result<()> {
    let api = c.api(&POD_TEMPLATES);
    for n in 1..4 {
        api.create(&template(&format!("test-podtemplate-{n}"), json!({"podtemplate-set": "true"}))).await?;
    }
    let query = [("labelSelector", "podtemplate-set=true")];
    ensure_eq!(api.items(&query).await?.len(), 3, "templates with the label");
    api.delete_collection(&query).await?;
    let limit = Duration::from_secs(60);
    api.wait_set(&query, limit, "nothing left of the collection", |l| Ok(l.is_empty().then_some(()))).await
}

async fn replace(c: Context) -> Result<()> {
    let (api, name) = (c.api(&POD_TEMPLATES), c.unique("podtemplate"));
    api.create(&template(&name, json!({"podtemplate-set": "true"}))).await?;
    let updated = api.modify(&name, |t| t["metadata"]["annotations"] = json!({"updated": "true"})).await?;
    ensure_eq!(updated["metadata"]["annotations"]["updated"], json!("true"), "annotation after the update");
    ensure_eq!(
        api.get(&name).await?["metadata"]["annotations"]["updated"],
        json!("true"),
        "annotation read back"
    );
    Ok(())
}
