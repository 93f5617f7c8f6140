//! Upstream's statefulset.go: updates, status, collections, recreation.

use std::time::Duration;

use serde_json::{Value, json};

use super::statefulset_scale::{break_probe, in_sequence, mend_probe, pod_watch};
use super::workloads::*;
use crate::Result;
use crate::api::{Patch, array, name_of, number, text};
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, AGNHOST_PREV};
use crate::kinds::{SERVICES, STATEFUL_SETS};
use crate::pods::{phase, ready};

tests! {
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform rolling updates and roll backs of template modifications" => rolling_update,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should perform canary updates and phased rolling updates of template modifications" => canary,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted statefulset" => recreate,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should have a working scale subresource" => scale,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should list, patch and delete a collection of StatefulSets" => collection,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] should validate Statefulset Status endpoints" => status,
}

/// Label of the pods of these sets.
pub(super) const SELECTOR: &str = "foo=bar,baz=blah";
/// The label that names a pod's revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";

pub(super) fn set_labels() -> Value {
    json!({"foo": "bar", "baz": "blah"})
}

/// A StatefulSet of web servers behind the headless Service `test`, which is created here.
pub(super) async fn stateful(cx: &Context, name: &str, replicas: i64) -> Result<Value> {
    let service = json!({
        "metadata": {"name": "test"},
        "spec": {"clusterIP": "None", "selector": set_labels(), "ports": [{"port": 80, "name": "http", "protocol": "TCP"}]},
    });
    cx.create(&SERVICES, &service).await?;
    Ok(json!({
        "metadata": {"name": name},
        "spec": {
            "serviceName": "test",
            "replicas": replicas,
            "selector": {"matchLabels": set_labels()},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": set_labels()}, "spec": {"containers": [webserver()]}},
        },
    }))
}

/// The readiness of the web server: a file that the test can take away.
pub(super) fn probed(mut set: Value) -> Value {
    set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = json!({
        "httpGet": {"path": "/localhost.crt", "port": 80},
        "periodSeconds": 1, "successThreshold": 1, "failureThreshold": 1,
    });
    set
}

fn ordinal(pod: &Value) -> Option<usize> {
    text(pod, "/metadata/name").rsplit('-').next().and_then(|n| n.parse().ok())
}

/// The pods of the set in order of their ordinals.
pub(super) fn in_order(pods: &[&Value]) -> Vec<Value> {
    let mut pods: Vec<Value> = pods.iter().map(|p| (*p).clone()).collect();
    pods.sort_by_key(ordinal);
    pods
}

/// Waits until exactly so many pods run, all ready or none.
pub(super) async fn wait_pods(cx: &Context, count: usize, want_ready: bool) -> Result<Vec<Value>> {
    let what = format!("{count} running pods, ready: {want_ready}");
    cx.pods()
        .wait_set(&[("labelSelector", SELECTOR)], Duration::from_secs(600), &what, |pods| {
            let fits = |p: &&Value| phase(p) == "Running" && ready(p) == want_ready && alive(p);
            Ok((pods.len() == count && pods.iter().all(fits)).then(|| in_order(pods)))
        })
        .await
}

/// Waits until the status of the set is of its latest generation.
async fn observed(cx: &Context, name: &str) -> Result<Value> {
    let made = cx.api(&STATEFUL_SETS).get(name).await?;
    wait_observed(&cx.api(&STATEFUL_SETS), &made).await
}

fn revisions(set: &Value) -> (&str, &str) {
    (text(set, "/status/currentRevision"), text(set, "/status/updateRevision"))
}

fn on_revision(pods: &[Value], revision: &str) -> Result<()> {
    for pod in pods {
        ensure_eq!(
            pod["metadata"]["labels"][REVISION_LABEL],
            json!(revision),
            "revision of {}",
            name_of(pod)?
        );
    }
    Ok(())
}

fn image(pod: &Value) -> &str {
    text(pod, "/spec/containers/0/image")
}

/// Creates a set and waits for it; its only revision.
async fn first_revision(cx: &Context, set: &Value) -> Result<String> {
    cx.create(&STATEFUL_SETS, set).await?;
    let pods = wait_pods(cx, 3, true).await?;
    let name = name_of(set)?;
    let same = |s: Option<&Value>| {
        Ok(s.is_some_and(|s| revisions(s).0 == revisions(s).1 && !revisions(s).0.is_empty()))
    };
    let seen = cx.api(&STATEFUL_SETS).wait(name, MINUTE, "one revision in status", same).await?;
    let revision = revisions(&seen).0.to_string();
    on_revision(&pods, &revision)?;
    Ok(revision)
}

async fn set_image(cx: &Context, name: &str, image: &str) -> Result<(String, String)> {
    let sets = cx.api(&STATEFUL_SETS);
    sets.modify(name, |s| s["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image)).await?;
    let seen = observed(cx, name).await?;
    let (current, update) = revisions(&seen);
    anyhow::ensure!(
        current != update,
        "the current revision {current} equals the update revision during an update"
    );
    Ok((current.to_string(), update.to_string()))
}

/// Waits until the roll-out is over: all pods of one revision with one image, and the status says so.
async fn rolled(cx: &Context, name: &str, revision: &str, want: &str) -> Result<()> {
    let what = format!("all pods of revision {revision} with {want}");
    cx.pods()
        .wait_set(&[("labelSelector", SELECTOR)], Duration::from_secs(600), &what, |pods| {
            let fits = |p: &&Value| {
                image(p) == want
                    && p["metadata"]["labels"][REVISION_LABEL] == revision
                    && ready(p)
                    && alive(p)
            };
            Ok((pods.len() == 3 && pods.iter().all(fits)).then_some(()))
        })
        .await?;
    let done = |s: Option<&Value>| Ok(s.is_some_and(|s| revisions(s) == (revision, revision)));
    cx.api(&STATEFUL_SETS).wait(name, MINUTE, "the new revision is the current one", done).await.map(|_| ())
}

/// Waits until the pods with ordinals from `partition` on carry the new image, ready; the others must not.
async fn phase_of(cx: &Context, partition: usize, new: &str, old: &str) -> Result<Vec<Value>> {
    let what = format!("pods from {partition} on with {new}");
    cx.pods()
        .wait_set(&[("labelSelector", SELECTOR)], Duration::from_secs(600), &what, |pods| {
            let pods = in_order(pods);
            let below = |p: &&Value| ordinal(p).is_some_and(|n| n < partition);
            if let Some(bad) = pods.iter().filter(below).find(|p| image(p) == new) {
                anyhow::bail!(
                    "{} was updated although the partition is {partition}",
                    text(bad, "/metadata/name")
                );
            }
            let fits = |(i, p): (usize, &Value)| image(p) == if i < partition { old } else { new };
            let settled = pods.iter().all(|p| alive(p) && ready(p)) && pods.iter().enumerate().all(fits);
            Ok((pods.len() == 3 && settled).then_some(pods))
        })
        .await
}

/// Changes the image while the middle pod is not ready, then lets the roll-out finish in reverse order.
async fn roll_to(cx: &Context, name: &str, want: &str) -> Result<(String, String)> {
    let middle = format!("{name}-1");
    break_probe(cx, &middle).await?;
    wait_unready(cx, &middle).await?;
    let mut watch = pod_watch(cx).await?;
    let (current, update) = set_image(cx, name, want).await?;
    mend_probe(cx, &middle).await?;
    let order = [format!("{name}-2"), middle, format!("{name}-0")];
    in_sequence(&mut watch, "ADDED", &order.each_ref().map(String::as_str)).await?;
    rolled(cx, name, &update, want).await?;
    Ok((current, update))
}

async fn rolling_update(cx: Context) -> Result<()> {
    let name = "ss2";
    let set = probed(stateful(&cx, name, 3).await?);
    let first = first_revision(&cx, &set).await?;
    let (current, second) = roll_to(&cx, name, AGNHOST_PREV).await?;
    ensure_eq!(current, first, "current revision during the update");
    // Back to the first template: the first revision is found again, no third one made.
    let (current, back) = roll_to(&cx, name, AGNHOST).await?;
    ensure_eq!(current, second, "current revision during the roll-back");
    ensure_eq!(back, first, "update revision of the roll-back");
    Ok(())
}

async fn wait_unready(cx: &Context, pod: &str) -> Result<()> {
    cx.pods().wait(pod, MINUTE, "not ready", |p| Ok(p.is_some_and(|p| !ready(p)))).await.map(|_| ())
}

async fn partition(cx: &Context, name: &str, value: i64) -> Result<()> {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": value}});
    cx.api(&STATEFUL_SETS).modify(name, |s| s["spec"]["updateStrategy"] = strategy.clone()).await.map(|_| ())
}

async fn canary(cx: Context) -> Result<()> {
    let name = "ss2";
    let mut set = probed(stateful(&cx, name, 3).await?);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 3}});
    let first = first_revision(&cx, &set).await?;
    let (current, update) = set_image(&cx, name, AGNHOST_PREV).await?;
    ensure_eq!(current, first, "current revision");
    // The partition is beyond the replicas: nothing moves.
    let pods = phase_of(&cx, 3, AGNHOST_PREV, AGNHOST).await?;
    on_revision(&pods, &first)?;
    // The canary.
    partition(&cx, name, 2).await?;
    let pods = phase_of(&cx, 2, AGNHOST_PREV, AGNHOST).await?;
    on_revision(&pods[2..], &update)?;
    on_revision(&pods[..2], &first)?;
    // Deleted pods come back on the side of the partition where they were.
    for pod in ["ss2-0", "ss2-2"] {
        let uid = text(&cx.pods().get(pod).await?, "/metadata/uid").to_string();
        cx.pods().delete_now(pod).await?;
        let again = |p: Option<&Value>| Ok(p.is_some_and(|p| text(p, "/metadata/uid") != uid && ready(p)));
        cx.pods().wait(pod, POD_START, "recreated", again).await?;
    }
    let pods = phase_of(&cx, 2, AGNHOST_PREV, AGNHOST).await?;
    on_revision(&pods[2..], &update)?;
    on_revision(&pods[..2], &first)?;
    // In phases to the end.
    for phase in [1_usize, 0] {
        partition(&cx, name, phase as i64).await?;
        let pods = phase_of(&cx, phase, AGNHOST_PREV, AGNHOST).await?;
        on_revision(&pods[phase..], &update)?;
        on_revision(&pods[..phase], &first)?;
    }
    let done = |s: Option<&Value>| Ok(s.is_some_and(|s| revisions(s) == (update.as_str(), update.as_str())));
    cx.api(&STATEFUL_SETS)
        .wait(name, MINUTE, "the update revision is the current one", done)
        .await
        .map(|_| ())
}

async fn recreate(cx: Context) -> Result<()> {
    let node = cx.node().await?;
    let port = json!({"hostPort": 21017, "containerPort": 21017, "name": "conflict"});
    let mut server = webserver();
    server["ports"] = json!([port]);
    let blocker = json!({"metadata": {"name": "test-pod"}, "spec": {"containers": [server], "nodeName": name_of(&node)?}});
    cx.pods().create(&blocker).await?;
    cx.pods().wait_running("test-pod").await?;
    let mut set = stateful(&cx, "ss", 1).await?;
    set["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([port]);
    set["spec"]["template"]["spec"]["nodeName"] = json!(name_of(&node)?);
    let from = cx.pods().list(&[("fieldSelector", "metadata.name=ss-0")]).await?;
    cx.create(&STATEFUL_SETS, &set).await?;
    // The node turns the pod away; the controller deletes the failed pod at least once.
    let version = crate::api::version_of(&from).to_string();
    let mut watch =
        cx.pods().watch(&[("fieldSelector", "metadata.name=ss-0"), ("resourceVersion", &version)]).await?;
    let first = watch.until(POD_START, "the pod was deleted", |e| e.kind == "DELETED").await?;
    let uid = text(&first.object, "/metadata/uid").to_string();
    ensure_eq!(phase(&first.object), "Failed", "phase of the deleted pod");
    cx.pods().delete("test-pod").await?;
    cx.pods().wait_gone("test-pod", crate::context::POD_GONE).await?;
    let again =
        |p: Option<&Value>| Ok(p.is_some_and(|p| phase(p) == "Running" && text(p, "/metadata/uid") != uid));
    cx.pods().wait("ss-0", POD_START, "recreated and running", again).await.map(|_| ())
}

async fn scale(cx: Context) -> Result<()> {
    let set = stateful(&cx, "ss", 1).await?;
    cx.create(&STATEFUL_SETS, &set).await?;
    wait_pods(&cx, 1, true).await?;
    let counted = |s: Option<&Value>| Ok(s.is_some_and(|s| number(s, "/status/replicas") == 1));
    cx.api(&STATEFUL_SETS).wait("ss", MINUTE, "status.replicas", counted).await?;
    scale_battery(&cx, &STATEFUL_SETS, "ss").await
}

async fn collection(cx: Context) -> Result<()> {
    let name = "test-ss";
    let api = cx.api(&STATEFUL_SETS);
    let mut set = stateful(&cx, name, 1).await?;
    set["metadata"]["labels"] = set_labels();
    api.create(&set).await?;
    wait_pods(&cx, 1, true).await?;
    let patch = json!({
        "metadata": {"labels": {"test-ss": "patched"}},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": WEBSERVER, "image": AGNHOST_PREV}]}}},
    });
    let patched = api.patch(name, Patch::Strategic(patch)).await?;
    ensure_eq!(number(&patched, "/spec/replicas"), 2, "spec.replicas of the answer");
    ensure_eq!(text(&patched, "/spec/template/spec/containers/0/image"), AGNHOST_PREV, "image of the answer");
    ensure_eq!(patched["metadata"]["labels"]["test-ss"], json!("patched"), "label of the answer");
    let done = |s: Option<&Value>| {
        Ok(s.is_some_and(|s| {
            number(s, "/status/readyReplicas") == 2 && number(s, "/status/updatedReplicas") == 2
        }))
    };
    api.wait(name, Duration::from_secs(600), "two updated, ready replicas", done).await?;
    let listed = cx.api_all(&STATEFUL_SETS).labelled("test-ss=patched").await?;
    let ours = listed.iter().filter(|s| text(s, "/metadata/namespace") == cx.namespace()).count();
    ensure_eq!(ours, 1, "StatefulSets in the list over all namespaces");
    api.delete_collection(&[("labelSelector", "test-ss=patched")]).await?;
    api.wait_gone(name, MINUTE).await?;
    ensure_eq!(api.labelled("test-ss=patched").await?.len(), 0, "StatefulSets after deletecollection");
    anyhow::ensure!(
        array(&patched, "/spec/template/spec/containers").len() == 1,
        "one container after the patch"
    );
    Ok(())
}

async fn status(cx: Context) -> Result<()> {
    let selector = "e2e=testing";
    let version = list_version(&cx, &STATEFUL_SETS, selector).await?;
    let mut set = stateful(&cx, "ss", 1).await?;
    set["metadata"]["labels"] = json!({"e2e": "testing"});
    cx.create(&STATEFUL_SETS, &set).await?;
    wait_pods(&cx, 1, true).await?;
    status_battery(&cx, &STATEFUL_SETS, "ss", selector, &version).await
}
