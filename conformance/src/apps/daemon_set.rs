//! Upstream's daemon_set.go: placement, failed pods, collections, status.

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Patch, name_of, number, text, version_of};
use crate::context::{Context, POD_START};
use crate::images::AGNHOST;
use crate::kinds::{DAEMON_SETS, NODES};
use crate::pods::{container, phase, ready};

tests! {
    "[sig-apps] Daemon set should run and stop simple daemon [Serial]" => simple,
    "[sig-apps] Daemon set should run and stop complex daemon [Serial]" => complex,
    "[sig-apps] Daemon set should retry creating failed daemon pods [Serial]" => retries_failed,
    "[sig-apps] Daemon set should list and delete a collection of DaemonSets [Serial]" => collection,
    "[sig-apps] Daemon set should verify changes to a daemon set status [Serial]" => status,
}

/// Name of the set of these tests.
pub(super) const NAME: &str = "daemon-set";
/// Label of its pods.
pub(super) const SELECTOR: &str = "daemonset-name=daemon-set";
const COLOR: &str = "daemonset-color";

/// A DaemonSet that serves its pods' names.
pub(super) fn daemon_set() -> Value {
    let labels = json!({"daemonset-name": NAME});
    let mut server = container("app", AGNHOST, &["serve-hostname"]);
    server["ports"] = json!([{"containerPort": 9376}]);
    let mut template = template(&labels, server);
    template["spec"]["securityContext"] = json!({});
    json!({
        "metadata": {"name": NAME, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    })
}

/// The nodes that run an available pod of the set, sorted; a node with two of them is there twice.
pub(super) fn nodes_of(pods: &[&Value]) -> Vec<String> {
    let up = pods.iter().filter(|p| alive(p) && phase(p) == "Running" && ready(p));
    let mut nodes: Vec<String> = up.map(|p| text(p, "/spec/nodeName").to_string()).collect();
    nodes.sort();
    nodes
}

/// Waits until the set runs exactly on these nodes, one pod each.
pub(super) async fn wait_on(cx: &Context, mut nodes: Vec<String>) -> Result<()> {
    nodes.sort();
    let what = format!("daemon pods on {nodes:?}");
    let done = |pods: &[&Value]| {
        let all: Vec<&Value> = pods.iter().copied().filter(|p| alive(p)).collect();
        Ok((nodes_of(pods) == nodes && all.len() == nodes.len()).then_some(()))
    };
    cx.pods().wait_set(&[("labelSelector", SELECTOR)], POD_START, &what, done).await
}

/// Waits until the set runs on every node that takes pods.
pub(super) async fn wait_everywhere(cx: &Context) -> Result<()> {
    let mut names = Vec::new();
    for node in cx.nodes().await? {
        names.push(name_of(&node)?.to_string());
    }
    anyhow::ensure!(!names.is_empty(), "no node takes pods");
    wait_on(cx, names).await
}

/// The counts in the status agree with each other and with the number of pods.
async fn check_status(cx: &Context) -> Result<()> {
    let done = |d: Option<&Value>| {
        let Some(d) = d else { return Ok(false) };
        let want = number(d, "/status/desiredNumberScheduled");
        Ok(number(d, "/status/currentNumberScheduled") == want
            && number(d, "/status/numberReady") == want
            && number(d, "/status/numberMisscheduled") == 0)
    };
    cx.api(&DAEMON_SETS).wait(NAME, MINUTE, "desired, current and ready pods agree", done).await.map(|_| ())
}

async fn simple(cx: Context) -> Result<()> {
    cx.create(&DAEMON_SETS, &daemon_set()).await?;
    wait_everywhere(&cx).await?;
    check_status(&cx).await?;
    let pods = cx.pods().labelled(SELECTOR).await?;
    let victim = pods.first().ok_or_else(|| anyhow::anyhow!("no daemon pods"))?;
    cx.pods().delete(name_of(victim)?).await?;
    cx.pods().wait_gone(name_of(victim)?, crate::context::POD_GONE).await?;
    wait_everywhere(&cx).await
}

async fn color(cx: &Context, node: &str, value: Value) -> Result<Value> {
    cx.api(&NODES).patch(node, Patch::Strategic(json!({"metadata": {"labels": {COLOR: value}}}))).await
}

async fn complex(cx: Context) -> Result<()> {
    let node = name_of(&cx.node().await?)?.to_string();
    let outcome = colored(&cx, &node).await;
    color(&cx, &node, Value::Null).await?;
    outcome
}

async fn colored(cx: &Context, node: &str) -> Result<()> {
    let mut set = daemon_set();
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({COLOR: "blue"});
    cx.create(&DAEMON_SETS, &set).await?;
    wait_on(cx, Vec::new()).await?;
    let blue = color(cx, node, json!("blue")).await?;
    ensure_eq!(blue["metadata"]["labels"][COLOR], json!("blue"), "label of the node");
    wait_on(cx, vec![node.to_string()]).await?;
    check_status(cx).await?;
    color(cx, node, json!("green")).await?;
    wait_on(cx, Vec::new()).await?;
    let patch = json!({"spec": {
        "template": {"spec": {"nodeSelector": {COLOR: "green"}}},
        "updateStrategy": {"type": "RollingUpdate"},
    }});
    cx.api(&DAEMON_SETS).patch(NAME, Patch::Strategic(patch)).await?;
    wait_on(cx, vec![node.to_string()]).await?;
    check_status(cx).await
}

async fn retries_failed(cx: Context) -> Result<()> {
    cx.create(&DAEMON_SETS, &daemon_set()).await?;
    wait_everywhere(&cx).await?;
    check_status(&cx).await?;
    let pods = cx.pods().labelled(SELECTOR).await?;
    let mut victim = pods.into_iter().next().ok_or_else(|| anyhow::anyhow!("no daemon pods"))?;
    let (name, uid) = (name_of(&victim)?.to_string(), text(&victim, "/metadata/uid").to_string());
    victim["metadata"]["resourceVersion"] = Value::Null;
    victim["status"]["phase"] = json!("Failed");
    let failed = cx.pods().update_sub(&name, "status", &crate::kinds::PODS.document(victim)).await?;
    ensure_eq!(phase(&failed), "Failed", "phase in the answer");
    let gone = |p: Option<&Value>| Ok(p.is_none_or(|p| text(p, "/metadata/uid") != uid));
    cx.pods().wait(&name, POD_START, "the failed pod is deleted", gone).await?;
    wait_everywhere(&cx).await
}

async fn collection(cx: Context) -> Result<()> {
    let api = cx.api(&DAEMON_SETS);
    cx.create(&DAEMON_SETS, &daemon_set()).await?;
    wait_everywhere(&cx).await?;
    let listed = cx.api_all(&DAEMON_SETS).labelled(SELECTOR).await?;
    let ours = listed.iter().filter(|d| text(d, "/metadata/namespace") == cx.namespace()).count();
    ensure_eq!(ours, 1, "DaemonSets in the list over all namespaces");
    api.delete_collection(&[("labelSelector", SELECTOR)]).await?;
    api.wait_gone(NAME, POD_START).await?;
    ensure_eq!(api.labelled(SELECTOR).await?.len(), 0, "DaemonSets after deletecollection");
    Ok(())
}

async fn status(cx: Context) -> Result<()> {
    let list = cx.api(&DAEMON_SETS).list(&[("labelSelector", SELECTOR)]).await?;
    let version = version_of(&list).to_string();
    cx.create(&DAEMON_SETS, &daemon_set()).await?;
    wait_everywhere(&cx).await?;
    status_battery(&cx, &DAEMON_SETS, NAME, SELECTOR, &version).await
}
