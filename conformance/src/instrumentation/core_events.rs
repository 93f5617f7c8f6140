//! Upstream's core_events.go.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, name_of, number, text};
use crate::context::Context;
use crate::kinds::EVENTS;

tests! {
    "[sig-instrumentation] Events should manage the lifecycle of an event" => lifecycle,
    "[sig-instrumentation] Events should delete a collection of events" => collection,
}

fn event(cx: &Context, name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {label: "true"}},
        "message": "This is a test event", "reason": "Test", "type": "Normal", "count": 1,
        "involvedObject": {"namespace": cx.namespace()},
    })
}

/// What two documents have in common apart from what the server counts.
fn same(mut a: Value, mut b: Value) -> bool {
    for o in [&mut a, &mut b] {
        o["metadata"]["resourceVersion"] = Value::Null;
        o["metadata"]["managedFields"] = Value::Null;
    }
    a == b
}

async fn listed(cx: &Context, name: &str) -> Result<bool> {
    let all = cx.api_all(&EVENTS).labelled("testevent-constant=true").await?;
    Ok(all
        .iter()
        .any(|e| text(e, "/metadata/name") == name && text(e, "/metadata/namespace") == cx.namespace()))
}

async fn lifecycle(cx: Context) -> Result<()> {
    let name = "event-test";
    let api = cx.api(&EVENTS);
    api.create(&event(&cx, name, "testevent-constant")).await?;
    anyhow::ensure!(listed(&cx, name).await?, "the event is not in the list over all namespaces");
    let message = "This is a test event - patched";
    api.patch(name, Patch::Strategic(json!({"message": message}))).await?;
    let patched = api.get(name).await?;
    ensure_eq!(text(&patched, "/message"), message, "message of the patched event");
    let mut wanted = patched.clone();
    wanted["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    api.update(&wanted).await?;
    let updated = api.get(name).await?;
    ensure_eq!(number(&updated, "/series/count"), 100, "count of the series");
    anyhow::ensure!(
        same(updated.clone(), wanted.clone()),
        "the event was not replaced: want {wanted}, saw {updated}"
    );
    api.delete(name).await?;
    anyhow::ensure!(!listed(&cx, name).await?, "the deleted event is in the list over all namespaces");
    Ok(())
}

async fn collection(cx: Context) -> Result<()> {
    let api = cx.api(&EVENTS);
    for name in ["test-event-1", "test-event-2", "test-event-3"] {
        let made = api.create(&event(&cx, name, "testevent-set")).await?;
        ensure_eq!(name_of(&made)?, name, "name of the event");
    }
    ensure_eq!(api.labelled("testevent-set=true").await?.len(), 3, "events of the set");
    api.delete_collection(&[("labelSelector", "testevent-set=true")]).await?;
    let none = |all: &[&Value]| Ok(all.is_empty().then_some(()));
    let limit = std::time::Duration::from_secs(60);
    api.wait_set(&[("labelSelector", "testevent-set=true")], limit, "no event of the set is left", none).await
}
