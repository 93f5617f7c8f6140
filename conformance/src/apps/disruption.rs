//! Upstream's disruption.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Patch, array, name_of, number, text};
use crate::context::{Context, POD_GONE, POD_START};
use crate::images::PAUSE;
use crate::kinds::DISRUPTION_BUDGETS;
use crate::pods::{phase, ready};
use crate::rest::{is_code, refusal};

tests! {
    "[sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets" => collection,
    "[sig-apps] DisruptionController should create a PodDisruptionBudget" => create,
    "[sig-apps] DisruptionController should observe PodDisruptionBudget status updated" => observes,
    "[sig-apps] DisruptionController should update/patch PodDisruptionBudget status" => status,
    "[sig-apps] DisruptionController should block an eviction until the PDB is updated to allow it" => eviction,
}

const NAME: &str = "foo";

fn budget(name: &str, spec: Value, labels: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"foo": "bar"}});
    json!({"metadata": {"name": name, "labels": labels}, "spec": spec})
}

/// Waits until the controller has worked out the budget.
async fn processed(cx: &Context, name: &str) -> Result<Value> {
    let done = |b: Option<&Value>| {
        Ok(b.is_some_and(|b| number(b, "/status/observedGeneration") >= number(b, "/metadata/generation")))
    };
    cx.api(&DISRUPTION_BUDGETS).wait(name, MINUTE, "observed by the controller", done).await
}

async fn make(cx: &Context, spec: Value) -> Result<Value> {
    cx.create(&DISRUPTION_BUDGETS, &budget(NAME, spec, json!({"foo": "bar"}))).await?;
    processed(cx, NAME).await
}

async fn pods(cx: &Context, count: usize) -> Result<()> {
    for index in 0..count {
        let pod = json!({
            "metadata": {"name": format!("rs-{index}"), "labels": {"foo": "bar"}},
            "spec": {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "donothing", "image": PAUSE}]},
        });
        cx.pods().create(&pod).await?;
    }
    let what = format!("{count} pods run");
    cx.pods()
        .wait_set(&[("labelSelector", "foo=bar")], POD_START, &what, |all| {
            Ok((all.iter().filter(|p| phase(p) == "Running" && ready(p)).count() == count).then_some(()))
        })
        .await
}

async fn collection(cx: Context) -> Result<()> {
    let mark = crate::context::random(8);
    let selector = format!("e2e-pdb={mark}");
    let labels = json!({"e2e-pdb": mark});
    let other = cx.new_namespace("other").await?;
    let api = cx.api(&DISRUPTION_BUDGETS);
    let two = json!({"minAvailable": 2});
    api.create(&budget("foo", two.clone(), labels.clone())).await?;
    api.create(&budget("foo2", json!({"minAvailable": "1%"}), labels.clone())).await?;
    cx.api_in(&DISRUPTION_BUDGETS, &other).create(&budget("foo3", two, labels)).await?;
    for name in ["foo", "foo2"] {
        processed(&cx, name).await?;
    }
    let everywhere = cx.api_all(&DISRUPTION_BUDGETS);
    ensure_eq!(everywhere.labelled(&selector).await?.len(), 3, "budgets over all namespaces");
    ensure_eq!(api.labelled(&selector).await?.len(), 2, "budgets in the namespace");
    api.delete_collection(&[("labelSelector", &selector)]).await?;
    let none = |all: &[&Value]| Ok(all.is_empty().then_some(()));
    api.wait_set(&[("labelSelector", &selector)], MINUTE, "no budget is left", none).await?;
    let left = everywhere.labelled(&selector).await?;
    ensure_eq!(left.len(), 1, "budgets of the other namespace");
    ensure_eq!(text(&left[0], "/metadata/namespace"), other, "namespace of the budget that is left");
    Ok(())
}

async fn create(cx: Context) -> Result<()> {
    let api = cx.api(&DISRUPTION_BUDGETS);
    make(&cx, json!({"minAvailable": "1%"})).await?;
    let updated = api.modify(NAME, |b| b["spec"]["minAvailable"] = json!("2%")).await?;
    ensure_eq!(updated["spec"]["minAvailable"], json!("2%"), "minAvailable of the update");
    processed(&cx, NAME).await?;
    let patched = api.patch(NAME, Patch::Strategic(json!({"spec": {"minAvailable": "3%"}}))).await?;
    ensure_eq!(patched["spec"]["minAvailable"], json!("3%"), "minAvailable of the patch");
    processed(&cx, NAME).await?;
    api.delete(NAME).await?;
    api.wait_gone(NAME, MINUTE).await
}

async fn observes(cx: Context) -> Result<()> {
    make(&cx, json!({"minAvailable": 1})).await?;
    pods(&cx, 3).await?;
    let done = |b: Option<&Value>| Ok(b.is_some_and(|b| number(b, "/status/disruptionsAllowed") > 0));
    let seen = cx.api(&DISRUPTION_BUDGETS).wait(NAME, POD_START, "disruptions are allowed", done).await?;
    ensure_eq!(number(&seen, "/status/desiredHealthy"), 1, "status.desiredHealthy");
    Ok(())
}

async fn status(cx: Context) -> Result<()> {
    let api = cx.api(&DISRUPTION_BUDGETS);
    make(&cx, json!({"minAvailable": 1})).await?;
    pods(&cx, 1).await?;
    let done = |b: Option<&Value>| Ok(b.is_some_and(|b| number(b, "/status/currentHealthy") == 1));
    api.wait(NAME, MINUTE, "the pod is counted", done).await?;
    let updated = api
        .modify_at(NAME, "status", |b| b["status"]["disruptedPods"] = json!({"rs-0": "2026-01-02T03:04:05Z"}))
        .await?;
    ensure_eq!(
        text(&updated, "/status/disruptedPods/rs-0"),
        "2026-01-02T03:04:05Z",
        "disruptedPods of the update"
    );
    ensure_eq!(updated["spec"]["minAvailable"], json!(1), "spec after an update of the status");
    let path = format!("{NAME}/status");
    // The controller drops names whose time is over; a patch that removes one that is gone is fine too.
    let patch = Patch::Merge(json!({"status": {"disruptedPods": {"rs-0": null}}}));
    let patched = api.patch(&path, patch).await?;
    ensure_eq!(text(&patched, "/status/disruptedPods/rs-0"), "", "disruptedPods of the patch");
    let seen = api.get(&path).await?;
    ensure_eq!(seen["metadata"]["uid"], updated["metadata"]["uid"], "uid in /status");
    Ok(())
}

async fn evict(cx: &Context, pod: &str) -> Result<Value> {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": cx.namespace()}});
    cx.pods().create_sub(pod, "eviction", &body).await
}

/// The eviction must be refused because of the budget.
async fn blocked(cx: &Context, pod: &str) -> Result<()> {
    let error = match evict(cx, pod).await {
        Ok(_) => anyhow::bail!("the eviction of {pod} went through although the budget forbids it"),
        Err(e) if is_code(&e, 429) => e,
        Err(e) => return Err(e),
    };
    let status = refusal(&error).map(|s| s.status.clone()).unwrap_or_default();
    ensure_eq!(text(&status, "/reason"), "TooManyRequests", "reason of the refusal");
    let caused = array(&status, "/details/causes").iter().any(|c| c["reason"] == "DisruptionBudget");
    anyhow::ensure!(caused, "the refusal has no cause DisruptionBudget: {status}");
    Ok(())
}

/// The eviction must go through within a minute, and the pod must go.
async fn evicted(cx: &Context, pod: &str) -> Result<()> {
    let what = format!("eviction of {pod}");
    crate::watch::poll(MINUTE, Duration::from_millis(500), &what, || async {
        evict(cx, pod).await.map(Some)
    })
    .await?;
    cx.pods().wait_gone(pod, POD_GONE).await
}

/// A pod of the set that is ready.
async fn locate(cx: &Context) -> Result<String> {
    let pods = cx.pods().labelled("foo=bar").await?;
    let found = pods.iter().find(|p| phase(p) == "Running" && ready(p) && alive(p));
    Ok(name_of(found.ok_or_else(|| anyhow::anyhow!("no ready pod in {pods:?}"))?)?.to_string())
}

async fn eviction(cx: Context) -> Result<()> {
    let api = cx.api(&DISRUPTION_BUDGETS);
    make(&cx, json!({"minAvailable": 3})).await?;
    pods(&cx, 3).await?;
    let counted = |b: Option<&Value>| Ok(b.is_some_and(|b| number(b, "/status/currentHealthy") == 3));
    api.wait(NAME, MINUTE, "three healthy pods", counted).await?;
    let pod = locate(&cx).await?;
    blocked(&cx, &pod).await?;
    api.modify(NAME, |b| b["spec"]["minAvailable"] = json!(2)).await?;
    processed(&cx, NAME).await?;
    evicted(&cx, &pod).await?;
    let pod = locate(&cx).await?;
    let left = |b: Option<&Value>| Ok(b.is_some_and(|b| number(b, "/status/currentHealthy") == 2));
    api.wait(NAME, MINUTE, "two healthy pods", left).await?;
    blocked(&cx, &pod).await?;
    let patched = api.patch(NAME, Patch::Strategic(json!({"spec": {"minAvailable": 1}}))).await?;
    ensure_eq!(patched["spec"]["minAvailable"], json!(1), "minAvailable of the patch");
    processed(&cx, NAME).await?;
    evicted(&cx, &pod).await?;
    // Without the budget nothing holds the last one.
    let pod = locate(&cx).await?;
    blocked(&cx, &pod).await?;
    api.delete(NAME).await?;
    api.wait_gone(NAME, MINUTE).await?;
    evicted(&cx, &pod).await
}
