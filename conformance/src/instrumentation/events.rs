//! Upstream's events.go: the events.k8s.io API, which shows the same objects as the core one.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Patch, name_of, number, text};
use crate::context::Context;
use crate::kinds::{EVENTS, EVENTS_V1};

tests! {
    "[sig-instrumentation] Events API should ensure that an event can be fetched, patched, deleted, and listed" => lifecycle,
    "[sig-instrumentation] Events API should delete a collection of events" => collection,
}

fn event(cx: &Context, name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {label: "true"}},
        "regarding": {"namespace": cx.namespace()},
        "eventTime": "2017-09-19T13:49:16.000000Z",
        "note": format!("This is {name}"),
        "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node",
    })
}

fn bare(mut event: Value) -> Value {
    event["metadata"]["resourceVersion"] = Value::Null;
    event["metadata"]["managedFields"] = Value::Null;
    event
}

async fn listed(cx: &Context, api: &Api, name: &str) -> Result<bool> {
    let all = api.items(&[]).await?;
    Ok(all
        .iter()
        .any(|e| text(e, "/metadata/name") == name && text(e, "/metadata/namespace") == cx.namespace()))
}

/// Exactly the event is selected by that field.
async fn selected(api: &Api, selector: &str, name: &str) -> Result<()> {
    let found = api.items(&[("fieldSelector", selector)]).await?;
    let names: Vec<&str> = found.iter().map(|e| text(e, "/metadata/name")).collect();
    ensure_eq!(names, vec![name], "{} with field selector {selector}", api.kind.api_version());
    Ok(())
}

async fn lifecycle(cx: Context) -> Result<()> {
    let name = "event-test";
    let api = cx.api(&EVENTS_V1);
    api.create(&event(&cx, name, "testevent-constant")).await?;
    for place in [cx.api_all(&EVENTS_V1), api.clone()] {
        anyhow::ensure!(listed(&cx, &place, name).await?, "the event is not listed at {}", place.path());
    }
    selected(&cx.api(&EVENTS), "source=test-controller", name).await?;
    selected(&api, "reportingController=test-controller", name).await?;
    let first = api.get(name).await?;
    // Only the series of such an event may change.
    let series = json!({"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"});
    api.patch(name, Patch::Strategic(json!({"series": series}))).await?;
    let patched = api.get(name).await?;
    let mut wanted = first.clone();
    wanted["series"] = series;
    ensure_eq!(bare(patched.clone()), bare(wanted), "the patched event");
    let mut wanted = patched;
    wanted["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    api.update(&wanted).await?;
    let updated = api.get(name).await?;
    ensure_eq!(number(&updated, "/series/count"), 100, "count of the series");
    ensure_eq!(bare(updated), bare(wanted), "the updated event");
    // The core API shows the same object in its own form.
    let core = cx.api(&EVENTS).get(name).await?;
    ensure_eq!(text(&core, "/message"), "This is event-test", "message in the core API");
    ensure_eq!(text(&core, "/reportingComponent"), "test-controller", "reportingComponent in the core API");
    api.delete(name).await?;
    for place in [cx.api_all(&EVENTS_V1), api] {
        anyhow::ensure!(!listed(&cx, &place, name).await?, "the deleted event is listed at {}", place.path());
    }
    Ok(())
}

async fn collection(cx: Context) -> Result<()> {
    let api = cx.api(&EVENTS_V1);
    for name in ["test-event-1", "test-event-2", "test-event-3"] {
        let made = api.create(&event(&cx, name, "testevent-set")).await?;
        ensure_eq!(name_of(&made)?, name, "name of the event");
    }
    ensure_eq!(api.labelled("testevent-set=true").await?.len(), 3, "events of the set");
    api.delete_collection(&[("labelSelector", "testevent-set=true")]).await?;
    ensure_eq!(
        api.labelled("testevent-set=true").await?.len(),
        0,
        "events of the set after deletecollection"
    );
    Ok(())
}
