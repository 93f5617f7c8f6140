//! What the tests of admission webhooks share: the server, configurations, and the wait until they are in force.

use std::time::Duration;

use serde_json::{Value, json};

use super::serving::{self, Server};
use crate::Result;
use crate::api::{Kind, Patch, name_of};
use crate::context::Context;
use crate::kinds::{CONFIG_MAPS, MUTATING_WEBHOOKS, NAMESPACES, VALIDATING_WEBHOOKS};
use crate::rest::refusal;

/// A test with its webhook server and the namespace in which configurations are tried.
pub(super) struct Hooks {
    /// The test.
    pub cx: Context,
    /// The server.
    pub server: Server,
    /// The label value of this test's namespaces and objects.
    pub unique: String,
    markers: String,
}

/// How long a configuration may take to be in force.
const LIMIT: Duration = Duration::from_secs(60);

impl Hooks {
    /// Deploys the server.
    pub(super) async fn start(cx: Context) -> Result<Self> {
        let unique = cx.namespace().to_string();
        let label = json!({"metadata": {"labels": {unique.as_str(): "true"}}});
        cx.api(&NAMESPACES).patch(cx.namespace(), Patch::Merge(label)).await?;
        let server = serving::admission(&cx).await?;
        let markers = cx.new_namespace("markers").await?;
        let label = json!({"metadata": {"labels": {format!("{unique}-markers"): "true"}}});
        cx.api(&NAMESPACES).patch(&markers, Patch::Merge(label)).await?;
        Ok(Self { cx, server, unique, markers })
    }

    /// A webhook of this test's namespace.
    pub(super) fn hook(&self, name: &str, path: &str, rules: Value) -> Value {
        json!({
            "name": name,
            "clientConfig": self.server.client(path),
            "rules": rules,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1", "v1beta1"],
            "namespaceSelector": {"matchLabels": {self.unique.as_str(): "true"}},
        })
    }

    /// A webhook of this test's cluster-wide objects, which bear its label.
    pub(super) fn cluster_hook(&self, name: &str, path: &str, rules: Value) -> Value {
        let mut hook = self.hook(name, path, rules);
        hook["namespaceSelector"] = Value::Null;
        hook["objectSelector"] = json!({"matchLabels": {self.unique.as_str(): "true"}});
        hook
    }

    /// The webhook by which a test sees that a configuration is in force.
    fn marker(&self) -> Value {
        let mut hook =
            self.hook("marker-is-ready.k8s.io", "/always-deny", rules(&["CREATE"], "", "v1", "configmaps"));
        hook["namespaceSelector"] = json!({"matchLabels": {format!("{}-markers", self.unique): "true"}});
        hook["objectSelector"] = json!({"matchLabels": {self.unique.as_str(): "true"}});
        hook
    }

    /// Creates a configuration of these webhooks; not yet in force.
    pub(super) async fn create(
        &self,
        kind: &Kind,
        name: &str,
        webhooks: Vec<Value>,
        labels: Value,
    ) -> Result<Value> {
        let mut webhooks = webhooks;
        webhooks.push(self.marker());
        let body = json!({"metadata": {"name": name, "labels": labels}, "webhooks": webhooks});
        self.cx.create(kind, &body).await
    }

    /// Creates a configuration and waits until it is in force.
    pub(super) async fn register(&self, kind: &Kind, webhooks: Vec<Value>) -> Result<String> {
        let name = self.cx.unique("e2e-webhook");
        self.create(kind, &name, webhooks, Value::Null).await?;
        self.in_force().await?;
        Ok(name)
    }

    /// A validating configuration that is in force.
    pub(super) async fn validating(&self, webhooks: Vec<Value>) -> Result<String> {
        self.register(&VALIDATING_WEBHOOKS, webhooks).await
    }

    /// A mutating configuration that is in force.
    pub(super) async fn mutating(&self, webhooks: Vec<Value>) -> Result<String> {
        self.register(&MUTATING_WEBHOOKS, webhooks).await
    }

    /// Waits until the marker's webhook denies.
    pub(super) async fn in_force(&self) -> Result<()> {
        let api = self.cx.api_in(&CONFIG_MAPS, &self.markers);
        let body = json!({"metadata": {"generateName": "marker-", "labels": {self.unique.as_str(): "true"}}});
        crate::watch::poll(
            LIMIT,
            Duration::from_millis(300),
            "the webhook configuration is in force",
            || async {
                match api.create(&body).await {
                    Ok(made) => {
                        api.delete(name_of(&made)?).await?;
                        anyhow::bail!("a marker was admitted")
                    }
                    Err(e) if refusal(&e).is_some_and(|s| s.message().contains("denied")) => Ok(Some(())),
                    Err(e) => Err(e),
                }
            },
        )
        .await
    }
}

/// One rule.
pub(super) fn rules(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
    json!([{"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]}])
}

/// The refusal that a webhook causes, with each of these texts.
pub(super) fn denied<T>(result: Result<T>, what: &str, texts: &[&str]) -> Result<()> {
    let error = match result {
        Ok(_) => anyhow::bail!("{what}: expected the webhook to deny it, but it succeeded"),
        Err(e) => e,
    };
    let message = refusal(&error).map(|s| s.message().to_string());
    let Some(message) = message else { return Err(error.context(what.to_string())) };
    for text in texts {
        ensure_contains!(message, *text, "{what}: message of the refusal");
    }
    Ok(())
}

/// A ConfigMap with data.
pub(super) fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

/// Data that the validating webhook does not take.
pub(super) fn unwanted() -> Value {
    json!({"webhook-e2e-test": "webhook-disallow"})
}
