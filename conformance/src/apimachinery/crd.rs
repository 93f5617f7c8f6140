//! Custom resource definitions of the tests.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, array, condition, text};
use crate::context::{Context, random};
use crate::kinds::CUSTOM_RESOURCES;

/// A kind that the test has defined.
pub(super) struct Custom {
    /// The definition's name.
    pub name: String,
    /// The group.
    pub group: String,
    /// The plural.
    pub plural: String,
    /// The kind.
    pub kind: String,
    namespaced: bool,
}

impl Custom {
    /// The kind at one of its versions.
    pub(super) fn at(&self, version: &str) -> Kind {
        Kind::custom(&self.group, version, &self.plural, &self.kind, self.namespaced)
    }

    /// Its objects at a version, in the test's namespace.
    pub(super) fn api(&self, cx: &Context, version: &str) -> Api {
        cx.api(&self.at(version))
    }
}

/// A schema that takes everything.
pub(super) fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A served version.
pub(super) fn version(name: &str, storage: bool, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

/// The document of a definition with a random name in a group.
pub(super) fn document(cx: &Context, group: &str, namespaced: bool, versions: Value) -> (Custom, Value) {
    let singular = format!("e2e-test-{}-{}-crd", cx.namespace(), random(4));
    let plural = format!("{singular}s");
    let kind = format!("E{}", &singular[1..]);
    let name = format!("{plural}.{group}");
    let body = json!({
        "metadata": {"name": name},
        "spec": {
            "group": group,
            "names": {"plural": plural, "singular": singular, "kind": kind, "listKind": format!("{kind}List")},
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "versions": versions,
        },
    });
    (Custom { name, group: group.to_string(), plural, kind, namespaced }, body)
}

/// Creates a definition and waits until its kinds are served.
pub(super) async fn define(cx: &Context, custom: &Custom, body: &Value) -> Result<Value> {
    let made = cx.create(&CUSTOM_RESOURCES, body).await?;
    established(cx, custom).await?;
    for version in array(&made, "/spec/versions").iter().filter(|v| v["served"] == true) {
        served(cx, custom, text(version, "/name")).await?;
    }
    Ok(made)
}

/// Creates a definition of one group with these versions.
pub(super) async fn defined(cx: &Context, group: &str, namespaced: bool, versions: Value) -> Result<Custom> {
    let (custom, body) = document(cx, group, namespaced, versions);
    define(cx, &custom, &body).await?;
    Ok(custom)
}

/// Waits for the condition Established.
pub(super) async fn established(cx: &Context, custom: &Custom) -> Result<()> {
    let done = |d: Option<&Value>| Ok(d.is_some_and(|d| condition(d, "Established")["status"] == "True"));
    let limit = Duration::from_secs(30);
    cx.api(&CUSTOM_RESOURCES).wait(&custom.name, limit, "established", done).await.map(|_| ())
}

/// Waits until a version is served, and can be watched.
pub(super) async fn served(cx: &Context, custom: &Custom, version: &str) -> Result<()> {
    let api = Api { namespace: None, ..custom.api(cx, version) };
    let what = format!("{} is served", api.path());
    crate::watch::poll(Duration::from_secs(30), Duration::from_millis(300), &what, || async {
        let list = api.list(&[]).await?;
        ensure_eq!(text(&list, "/kind"), format!("{}List", custom.kind), "kind of the list");
        api.watch(&[("resourceVersion", crate::api::version_of(&list))]).await?;
        Ok(Some(()))
    })
    .await
}

/// A group of this test's own.
pub(super) fn group(cx: &Context) -> String {
    format!("{}.example.com", cx.unique("group"))
}
