//! Upstream's daemon_set.go: rolling update and roll-back.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::daemon_set::{NAME, SELECTOR, daemon_set, wait_everywhere};
use super::workloads::*;
use crate::Result;
use crate::api::{Patch, name_of, number, text};
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, AGNHOST_PREV};
use crate::kinds::{CONTROLLER_REVISIONS, DAEMON_SETS};
use crate::pods::ready;

tests! {
    "[sig-apps] Daemon set should update pod when spec was updated and update strategy is RollingUpdate [Serial]" => rolling_update,
    "[sig-apps] Daemon set should rollback without unnecessary restarts [Serial]" => rollback,
}

const HASH: &str = "controller-revision-hash";

fn image(pod: &Value) -> &str {
    text(pod, "/spec/containers/0/image")
}

/// Waits for so many revisions; the hash of the newest, whose number must be `count`, which all pods must bear.
async fn revision(cx: &Context, count: i64) -> Result<()> {
    let what = format!("{count} ControllerRevisions");
    let newest = cx
        .api(&CONTROLLER_REVISIONS)
        .wait_set(&[("labelSelector", SELECTOR)], MINUTE, &what, |all| {
            if all.len() as i64 != count {
                return Ok(None);
            }
            Ok(all.iter().max_by_key(|r| number(r, "/revision")).map(|r| (*r).clone()))
        })
        .await?;
    ensure_eq!(number(&newest, "/revision"), count, "number of the newest revision");
    let hash = text(&newest, &format!("/metadata/labels/{HASH}")).to_string();
    anyhow::ensure!(!hash.is_empty(), "the revision has no label {HASH}");
    for pod in cx.pods().labelled(SELECTOR).await? {
        ensure_eq!(pod["metadata"]["labels"][HASH], json!(hash), "revision of {}", name_of(&pod)?);
    }
    Ok(())
}

/// Waits until all pods carry the image and are ready; not more than `unavailable` may be missing on the way.
async fn images(cx: &Context, want: &str, unavailable: usize) -> Result<()> {
    let nodes = cx.nodes().await?.len();
    let what = format!("all daemon pods with {want}");
    cx.pods()
        .wait_set(&[("labelSelector", SELECTOR)], POD_START, &what, |pods| {
            let up = pods.iter().filter(|p| alive(p) && ready(p)).count();
            anyhow::ensure!(
                nodes - up.min(nodes) <= unavailable,
                "{} daemon pods unavailable at once",
                nodes - up
            );
            let done = pods.len() == nodes && up == nodes && pods.iter().all(|p| image(p) == want);
            Ok(done.then_some(()))
        })
        .await
}

async fn rolling_update(cx: Context) -> Result<()> {
    let mut set = daemon_set();
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    cx.create(&DAEMON_SETS, &set).await?;
    wait_everywhere(&cx).await?;
    revision(&cx, 1).await?;
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": AGNHOST_PREV}]}}}});
    cx.api(&DAEMON_SETS).patch(NAME, Patch::Strategic(patch)).await?;
    images(&cx, AGNHOST_PREV, 1).await?;
    wait_everywhere(&cx).await?;
    revision(&cx, 2).await
}

async fn set_image(cx: &Context, image: &str) -> Result<()> {
    cx.api(&DAEMON_SETS)
        .modify(NAME, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image))
        .await
        .map(|_| ())
}

async fn rollback(cx: Context) -> Result<()> {
    let nodes = cx.nodes().await?.len();
    anyhow::ensure!(nodes > 1, "this test needs at least two nodes that take pods, the cluster has {nodes}");
    let mut set = daemon_set();
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    cx.create(&DAEMON_SETS, &set).await?;
    wait_everywhere(&cx).await?;
    let missing = "foo:non-existent";
    set_image(&cx, missing).await?;
    let pods = cx
        .pods()
        .wait_set(&[("labelSelector", SELECTOR)], POD_START, "a pod of the new template", |pods| {
            let started = pods.iter().any(|p| image(p) == missing);
            Ok(started.then(|| pods.iter().map(|p| (*p).clone()).collect::<Vec<_>>()))
        })
        .await?;
    let odd = pods.iter().find(|p| image(p) != missing && image(p) != AGNHOST);
    anyhow::ensure!(odd.is_none(), "a pod with another image: {odd:?}");
    let kept: BTreeSet<&str> =
        pods.iter().filter(|p| image(p) == AGNHOST && alive(p)).map(|p| text(p, "/metadata/name")).collect();
    anyhow::ensure!(!kept.is_empty(), "no pod of the old template is left in the middle of the roll-out");
    set_image(&cx, AGNHOST).await?;
    images(&cx, AGNHOST, nodes).await?;
    wait_everywhere(&cx).await?;
    let now = cx.pods().labelled(SELECTOR).await?;
    let now: BTreeSet<&str> = now.iter().map(|p| text(p, "/metadata/name")).collect();
    let lost: Vec<_> = kept.difference(&now).collect();
    anyhow::ensure!(lost.is_empty(), "pods of the old template were restarted by the roll-back: {lost:?}");
    Ok(())
}
