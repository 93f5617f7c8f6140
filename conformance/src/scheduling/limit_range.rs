//! Upstream: `test/e2e/scheduling/limit_range.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, text, version_of};
use crate::context::{Context, random};
use crate::images::PAUSE;
use crate::kinds::LIMIT_RANGES;
use crate::quantity::milli;
use crate::rest::refused;
use crate::watch::poll;

tests! {
    "[sig-scheduling] LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied." => defaults,
    "[sig-scheduling] LimitRange should list, patch and delete a LimitRange by collection" => collection,
}

fn amounts(cpu: &str, memory: &str, storage: &str) -> Value {
    let all = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
    let given = all.iter().filter(|(_, v)| !v.is_empty());
    given.map(|(k, v)| ((*k).to_string(), json!(v))).collect::<serde_json::Map<_, _>>().into()
}

fn range(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"limits": [{
        "type": "Container",
        "min": amounts("50m", "100Mi", "100Gi"),
        "max": amounts("500m", "500Mi", "500Gi"),
        "default": amounts("500m", "500Mi", "500Gi"),
        "defaultRequest": amounts("100m", "200Mi", "200Gi"),
    }]}})
}

fn test_pod(name: &str, requests: Value, limits: Value) -> Value {
    let main =
        json!({"name": "pause", "image": PAUSE, "resources": {"requests": requests, "limits": limits}});
    // The amounts of storage fit no node: the pods are not meant to run.
    json!({"metadata": {"name": name}, "spec": {"containers": [main], "nodeSelector": {"e2e-no-such-label": "true"}}})
}

fn same(seen: &Value, wanted: &Value, what: &str) -> Result<()> {
    for (key, value) in wanted.as_object().into_iter().flatten() {
        let seen =
            milli(seen[key].as_str().unwrap_or("")).map_err(|e| e.context(format!("{what}: {key}")))?;
        ensure_eq!(seen, milli(value.as_str().unwrap_or(""))?, "{what}: {key}");
    }
    ensure_eq!(
        seen.as_object().map_or(0, serde_json::Map::len),
        wanted.as_object().map_or(0, serde_json::Map::len),
        "{what}: resources"
    );
    Ok(())
}

async fn has(c: &Context, pod: &Value, requests: Value, limits: Value) -> Result<()> {
    let made = c.pods().create(pod).await?;
    let seen = c.pods().get(crate::api::name_of(&made)?).await?;
    let resources = &seen["spec"]["containers"][0]["resources"];
    same(&resources["requests"], &requests, "requests")?;
    same(&resources["limits"], &limits, "limits")
}

async fn defaults(c: Context) -> Result<()> {
    let (api, value) = (c.api(&LIMIT_RANGES), random(10));
    let selector = format!("time={value}");
    let query = [("labelSelector", selector.as_str())];
    let list = api.list(&query).await?;
    ensure_eq!(crate::api::array(&list, "/items").len(), 0, "ranges before the test");
    let mut watch = api.watch(&[query[0], ("resourceVersion", version_of(&list))]).await?;
    api.create(&range("limit-range", json!({"time": value}))).await?;
    watch.until(Duration::from_secs(60), "the new range", |e| e.kind == "ADDED").await?;
    let seen = api.get("limit-range").await?;
    let (limits, requests) = (amounts("500m", "500Mi", "500Gi"), amounts("100m", "200Mi", "200Gi"));
    same(&seen["spec"]["limits"][0]["default"], &limits, "default limits")?;
    same(&seen["spec"]["limits"][0]["defaultRequest"], &requests, "default requests")?;
    has(&c, &test_pod("pod-no-resources", json!({}), json!({})), requests, limits).await?;
    let partial = test_pod("pod-partial-resources", amounts("", "150Mi", "150Gi"), amounts("300m", "", ""));
    has(&c, &partial, amounts("300m", "150Mi", "150Gi"), amounts("300m", "500Mi", "500Gi")).await?;
    let small = test_pod("pfpod", amounts("10m", "50Mi", "50Gi"), json!({}));
    let big = |name: &str| test_pod(name, amounts("600m", "600Mi", "600Gi"), json!({}));
    refused(c.pods().create(&small).await, 403, "a pod below the minimum")?;
    anyhow::ensure!(c.pods().create(&big("pfpod")).await.is_err(), "a pod above the maximum was accepted");
    let less = amounts("9m", "49Mi", "49Gi");
    api.modify("limit-range", |r| r["spec"]["limits"][0]["min"] = less.clone()).await?;
    same(&api.get("limit-range").await?["spec"]["limits"][0]["min"], &less, "the minimum after the update")?;
    poll(Duration::from_secs(30), Duration::from_secs(1), "a pod below the former minimum", || async {
        c.pods().create(&small).await.map(Some)
    })
    .await?;
    anyhow::ensure!(c.pods().create(&big("pfpod2")).await.is_err(), "a pod above the maximum was accepted");
    api.delete("limit-range").await?;
    api.wait_gone("limit-range", Duration::from_secs(60)).await?;
    // A request above the former default limit is fine now that there is no default.
    poll(Duration::from_secs(60), Duration::from_secs(2), "a pod above the former maximum", || async {
        c.pods().create(&big("pfpod2")).await.map(Some)
    })
    .await
    .map(|_| ())
}

async fn collection(c: Context) -> Result<()> {
    let (api, name) = (c.api(&LIMIT_RANGES), c.unique("e2e-limitrange"));
    let key = name.as_str();
    let labels = json!({"e2e-test": name, key: "created"});
    api.create(&range(key, labels.clone())).await?;
    let other = c.new_namespace("limitrange").await?;
    c.api_in(&LIMIT_RANGES, &other).create(&range(key, labels)).await?;
    let both = format!("e2e-test={key}");
    ensure_eq!(c.api_all(&LIMIT_RANGES).labelled(&both).await?.len(), 2, "ranges over all namespaces");
    let mut limits = range(key, json!({}))["spec"]["limits"].clone();
    limits[0]["min"] = amounts("9m", "49Mi", "49Gi");
    let patch = json!({"metadata": {"labels": {key: "patched"}}, "spec": {"limits": limits}});
    let patched = api.patch(key, Patch::Strategic(patch)).await?;
    ensure_eq!(patched["metadata"]["labels"][key], json!("patched"), "label after the patch");
    same(
        &patched["spec"]["limits"][0]["min"],
        &amounts("9m", "49Mi", "49Gi"),
        "the minimum after the patch",
    )?;
    let selector = format!("{key}=patched");
    let query = [("labelSelector", selector.as_str())];
    api.delete_collection(&query).await?;
    api.wait_set(&query, Duration::from_secs(60), "nothing left of the collection", |l| {
        Ok(l.is_empty().then_some(()))
    })
    .await?;
    let left = c.api_all(&LIMIT_RANGES).labelled(&both).await?;
    ensure_eq!(left.len(), 1, "ranges after the deletion");
    ensure_eq!(text(&left[0], "/metadata/namespace"), other, "the namespace of the range that stays");
    Ok(())
}
