//! Upstream's controller_revision.go.

use serde_json::{Value, json};

use super::daemon_set::{NAME, SELECTOR, daemon_set, wait_everywhere};
use super::workloads::*;
use crate::Result;
use crate::api::{Patch, name_of, number, text};
use crate::context::{Context, random};
use crate::kinds::{CONTROLLER_REVISIONS, DAEMON_SETS};

tests! {
    "[sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision [Serial]" => lifecycle,
}

/// Waits until the set has exactly so many revisions.
async fn count(cx: &Context, want: usize) -> Result<Vec<Value>> {
    let what = format!("{want} ControllerRevisions");
    cx.api(&CONTROLLER_REVISIONS)
        .wait_set(&[("labelSelector", SELECTOR)], MINUTE, &what, |all| {
            Ok((all.len() == want).then(|| all.iter().map(|r| (*r).clone()).collect()))
        })
        .await
}

/// A second revision of the same data with the next number.
fn second(initial: &Value, set: &Value) -> Value {
    let hash = random(8);
    json!({
        "metadata": {
            "name": format!("{NAME}-{hash}"),
            "labels": {"daemonset-name": NAME, "controller-revision-hash": hash},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": NAME, "uid": set["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "data": initial["data"],
        "revision": number(initial, "/revision") + 1,
    })
}

async fn lifecycle(cx: Context) -> Result<()> {
    let api = cx.api(&CONTROLLER_REVISIONS);
    let set = cx.create(&DAEMON_SETS, &daemon_set()).await?;
    wait_everywhere(&cx).await?;
    let ours = |all: Vec<Value>| -> Vec<Value> {
        all.into_iter().filter(|r| text(r, "/metadata/namespace") == cx.namespace()).collect()
    };
    ensure_eq!(ours(cx.api_all(&DAEMON_SETS).labelled(SELECTOR).await?).len(), 1, "DaemonSets in the list");
    let found = ours(cx.api_all(&CONTROLLER_REVISIONS).labelled(SELECTOR).await?);
    ensure_eq!(found.len(), 1, "ControllerRevisions in the list over all namespaces");
    let owner = controller_of(&found[0]);
    ensure_eq!(text(owner, "/kind"), "DaemonSet", "kind of the revision's owner");
    ensure_eq!(owner["uid"], set["metadata"]["uid"], "uid of the revision's owner");
    let initial = api.get(name_of(&found[0])?).await?;
    let name = name_of(&initial)?;
    let patch = Patch::Strategic(json!({"metadata": {"labels": {name: "patched"}}}));
    ensure_eq!(
        api.patch(name, patch).await?["metadata"]["labels"][name],
        json!("patched"),
        "label of the patch"
    );
    let own = api.create(&second(&initial, &set)).await?;
    count(&cx, 2).await?;
    api.delete(name).await?;
    // The set takes the other revision for its template instead of making a third one.
    let left = count(&cx, 1).await?;
    ensure_eq!(name_of(&left[0])?, name_of(&own)?, "the revision that is left");
    let name = name_of(&own)?;
    let updated = api.modify(name, |r| r["metadata"]["labels"][name] = json!("updated")).await?;
    ensure_eq!(updated["metadata"]["labels"][name], json!("updated"), "label of the update");
    let patch = json!({"spec": {
        "template": {"spec": {"terminationGracePeriodSeconds": 1}},
        "updateStrategy": {"type": "RollingUpdate"},
    }});
    cx.api(&DAEMON_SETS).patch(NAME, Patch::Strategic(patch)).await?;
    count(&cx, 2).await?;
    api.delete_collection(&[("labelSelector", &format!("{name}=updated"))]).await?;
    let left = count(&cx, 1).await?;
    ensure_eq!(number(&left[0], "/revision"), 3, "number of the current revision");
    Ok(())
}
