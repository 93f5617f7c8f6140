//! Upstream's crd_watch.go.

use std::time::Duration;

use serde_json::{Value, json};

use super::crd::{self, anything, version};
use crate::Result;
use crate::api::{Api, Patch, text, version_of};
use crate::context::Context;
use crate::watch::Watch;

tests! {
    "[sig-api-machinery] CustomResourceDefinition Watch [Privileged:ClusterAdmin] CustomResourceDefinition Watch watch on custom resource definition objects" => watch,
}

const LIMIT: Duration = Duration::from_secs(30);

async fn on(api: &Api, from: &str, name: &str) -> Result<Watch> {
    let selector = format!("metadata.name={name}");
    api.watch(&[("fieldSelector", &selector), ("resourceVersion", from)]).await
}

async fn saw(watch: &mut Watch, kind: &str, name: &str) -> Result<Value> {
    let event = watch.within(LIMIT, &format!("{kind} {name}")).await?;
    ensure_eq!((event.kind.as_str(), text(&event.object, "/metadata/name")), (kind, name), "event");
    Ok(event.object)
}

async fn watch(cx: Context) -> Result<()> {
    let custom = crd::defined(&cx, &crd::group(&cx), false, json!([version("v1", true, anything())])).await?;
    let api = custom.api(&cx, "v1");
    let from = version_of(&api.list(&[]).await?).to_string();
    let mut first = on(&api, &from, "name1").await?;
    let mut second = on(&api, &from, "name2").await?;
    let body = |name: &str| json!({"metadata": {"name": name}, "content": {"key": "value"}, "num": {"num1": 9223372036854775807_i64}});
    api.create(&body("name1")).await?;
    let seen = saw(&mut first, "ADDED", "name1").await?;
    ensure_eq!(seen["num"]["num1"], json!(9223372036854775807_i64), "a large number in the event");
    api.create(&body("name2")).await?;
    saw(&mut second, "ADDED", "name2").await?;
    for (watch, name) in [(&mut first, "name1"), (&mut second, "name2")] {
        api.patch(name, Patch::Merge(json!({"dummy": "test"}))).await?;
        let seen = saw(watch, "MODIFIED", name).await?;
        ensure_eq!(text(&seen, "/dummy"), "test", "the patched field in the event");
    }
    for (watch, name) in [(&mut first, "name1"), (&mut second, "name2")] {
        api.delete(name).await?;
        saw(watch, "DELETED", name).await?;
    }
    for (watch, other) in [(&mut first, "name1"), (&mut second, "name2")] {
        watch.silent(Duration::from_secs(3), &format!("watch of {other}")).await?;
    }
    Ok(())
}
