//! Upstream's watch.go.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, text, version_of};
use crate::context::Context;
use crate::kinds::CONFIG_MAPS;
use crate::watch::Watch;

tests! {
    "[sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps" => notifications,
    "[sig-api-machinery] Watchers should be able to start watching from a specific resource version" => from_version,
    "[sig-api-machinery] Watchers should be able to restart watching from the last resource version observed by the previous watch" => restart,
    "[sig-api-machinery] Watchers should observe an object deletion if it stops meeting the requirements of the selector" => leaving,
    "[sig-api-machinery] Watchers should receive events on concurrent watches in same order" => same_order,
}

const LABEL: &str = "watch-this-configmap";
const LIMIT: Duration = Duration::from_secs(120);
/// How long no event must come where none may.
const QUIET: Duration = Duration::from_secs(10);

fn map(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {LABEL: label}}})
}

async fn watching(api: &Api, version: &str, labels: &[&str]) -> Result<Watch> {
    let selector = format!("{LABEL} in ({})", labels.join(","));
    let mut query = vec![("labelSelector", selector.as_str())];
    if !version.is_empty() {
        query.push(("resourceVersion", version));
    }
    api.watch(&query).await
}

async fn mutate(api: &Api, name: &str, count: &str) -> Result<Value> {
    api.modify(name, |m| m["data"]["mutation"] = json!(count)).await
}

/// The next event of each watch must be of that type, with the map's data.
async fn expect(watches: &mut [&mut Watch], kind: &str, object: &Value) -> Result<()> {
    for watch in watches {
        let name = text(object, "/metadata/name");
        let event = watch.within(LIMIT, &format!("{kind} {name}")).await?;
        ensure_eq!(event.kind, kind, "type of the event of {name}");
        ensure_eq!(text(&event.object, "/metadata/name"), name, "object of the event");
        ensure_eq!(event.object["data"], object["data"], "data of the event {kind} {name}");
    }
    Ok(())
}

async fn notifications(cx: Context) -> Result<()> {
    let api = cx.api(&CONFIG_MAPS);
    let (a, b) = ("multiple-watchers-A", "multiple-watchers-B");
    let version = version_of(&api.list(&[]).await?).to_string();
    let mut on_a = watching(&api, &version, &[a]).await?;
    let mut on_b = watching(&api, &version, &[b]).await?;
    let mut on_both = watching(&api, &version, &[a, b]).await?;
    let name = "e2e-watch-test-configmap-a";
    let made = api.create(&map(name, a)).await?;
    expect(&mut [&mut on_a, &mut on_both], "ADDED", &made).await?;
    let first = mutate(&api, name, "1").await?;
    expect(&mut [&mut on_a, &mut on_both], "MODIFIED", &first).await?;
    let second = mutate(&api, name, "2").await?;
    expect(&mut [&mut on_a, &mut on_both], "MODIFIED", &second).await?;
    api.delete(name).await?;
    expect(&mut [&mut on_a, &mut on_both], "DELETED", &second).await?;
    on_b.silent(QUIET, "the watch of B while A changed").await?;
    let name = "e2e-watch-test-configmap-b";
    let made = api.create(&map(name, b)).await?;
    expect(&mut [&mut on_b, &mut on_both], "ADDED", &made).await?;
    api.delete(name).await?;
    expect(&mut [&mut on_b, &mut on_both], "DELETED", &made).await?;
    on_a.silent(QUIET, "the watch of A while B changed").await
}

async fn from_version(cx: Context) -> Result<()> {
    let api = cx.api(&CONFIG_MAPS);
    let (name, label) = ("e2e-watch-test-resource-version", "from-resource-version");
    api.create(&map(name, label)).await?;
    let first = mutate(&api, name, "1").await?;
    let second = mutate(&api, name, "2").await?;
    api.delete(name).await?;
    let mut watch = watching(&api, version_of(&first), &[label]).await?;
    expect(&mut [&mut watch], "MODIFIED", &second).await?;
    expect(&mut [&mut watch], "DELETED", &second).await
}

async fn restart(cx: Context) -> Result<()> {
    let api = cx.api(&CONFIG_MAPS);
    let (name, label) = ("e2e-watch-test-watch-closed", "watch-closed-and-restarted");
    let version = version_of(&api.list(&[]).await?).to_string();
    let mut watch = watching(&api, &version, &[label]).await?;
    let made = api.create(&map(name, label)).await?;
    let first = mutate(&api, name, "1").await?;
    expect(&mut [&mut watch], "ADDED", &made).await?;
    let last = watch.within(LIMIT, "MODIFIED").await?;
    ensure_eq!(last.object["data"], first["data"], "data of the last event");
    drop(watch);
    let second = mutate(&api, name, "2").await?;
    let mut watch = watching(&api, version_of(&last.object), &[label]).await?;
    api.delete(name).await?;
    expect(&mut [&mut watch], "MODIFIED", &second).await?;
    expect(&mut [&mut watch], "DELETED", &second).await
}

async fn leaving(cx: Context) -> Result<()> {
    let api = cx.api(&CONFIG_MAPS);
    let (name, label) = ("e2e-watch-test-label-changed", "label-changed-and-restored");
    let version = version_of(&api.list(&[]).await?).to_string();
    let mut watch = watching(&api, &version, &[label]).await?;
    let made = api.create(&map(name, label)).await?;
    let first = mutate(&api, name, "1").await?;
    api.modify(name, |m| m["metadata"]["labels"][LABEL] = json!("wrong-value")).await?;
    expect(&mut [&mut watch], "ADDED", &made).await?;
    expect(&mut [&mut watch], "MODIFIED", &first).await?;
    expect(&mut [&mut watch], "DELETED", &first).await?;
    mutate(&api, name, "2").await?;
    watch.silent(QUIET, "changes of an object that does not match").await?;
    let back = api.modify(name, |m| m["metadata"]["labels"][LABEL] = json!(label)).await?;
    let third = mutate(&api, name, "3").await?;
    api.delete(name).await?;
    expect(&mut [&mut watch], "ADDED", &back).await?;
    expect(&mut [&mut watch], "MODIFIED", &third).await?;
    expect(&mut [&mut watch], "DELETED", &third).await
}

/// Creates, changes and deletes maps until it is aborted.
async fn produce(api: Api) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for index in 0_u64.. {
        match rand::random_range(0..3) {
            0 => {
                let name = format!("cm-{index}");
                api.create(&json!({"metadata": {"name": name}})).await?;
                names.push(name);
            }
            1 if !names.is_empty() => {
                let at = rand::random_range(0..names.len());
                api.modify(&names[at], |m| m["data"]["step"] = json!(index.to_string())).await?;
            }
            2 if !names.is_empty() => {
                let at = rand::random_range(0..names.len());
                api.delete(&names.swap_remove(at)).await?;
            }
            _ => continue,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn same_order(cx: Context) -> Result<()> {
    let namespace = cx.new_namespace("watched").await?;
    let api = cx.api_in(&CONFIG_MAPS, &namespace);
    // As upstream's framework: the map that every namespace gets is there before the test begins. The state at the
    // beginning comes in the order of names, so nothing else may be in it.
    api.wait("kube-root-ca.crt", LIMIT, "the map with the cluster's CA", |m| Ok(m.is_some())).await?;
    let first = api.watch(&[("resourceVersion", "0")]).await?;
    let producer = tokio::spawn(produce(api.clone()));
    let outcome = in_order(&api, first).await;
    producer.abort();
    if let Ok(produced) = producer.await {
        produced?;
    }
    outcome
}

async fn in_order(api: &Api, first: Watch) -> Result<()> {
    let mut watches: Vec<Watch> = vec![first];
    let mut version = String::new();
    for round in 0..100 {
        if round > 0 {
            watches.push(api.watch(&[("resourceVersion", &version)]).await?);
        }
        let mut first = None;
        for (index, watch) in watches.iter_mut().enumerate() {
            let what = format!("round {round}, watch {index}");
            let event = watch.within(LIMIT, &what).await?;
            anyhow::ensure!(event.kind != "ERROR", "{what}: {}", event.object);
            let seen = version_of(&event.object).to_string();
            let wanted = first.get_or_insert_with(|| seen.clone());
            ensure_eq!(seen, *wanted, "{what}: resource version of the event");
        }
        version = first.unwrap_or_default();
    }
    Ok(())
}
