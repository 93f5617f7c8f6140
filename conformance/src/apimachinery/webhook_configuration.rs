//! Upstream's webhook.go: changing, listing and deleting configurations, match conditions.

use std::time::Duration;

use serde_json::{Value, json};

use super::hooks::{Hooks, denied, map, rules, unwanted};
use crate::Result;
use crate::api::{Kind, Patch, name_of};
use crate::context::Context;
use crate::kinds::{CONFIG_MAPS, MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS};
use crate::rest::refused;

tests! {
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a validating webhook should work" => changes_validating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] patching/updating a mutating webhook should work" => changes_mutating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing validating webhooks should work" => lists_validating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] listing mutating webhooks should work" => lists_mutating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update validating webhook configurations with match conditions" => conditions_validating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to create and update mutating webhook configurations with match conditions" => conditions_mutating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject validating webhook configurations with invalid match conditions" => invalid_validating,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should reject mutating webhook configurations with invalid match conditions" => invalid_mutating,
}

const LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(500);

/// Creates a ConfigMap and deletes it again; what it was.
async fn attempt(hooks: &Hooks, data: Value) -> Result<Value> {
    let api = hooks.cx.api(&CONFIG_MAPS);
    let made = api.create(&map(&hooks.cx.unique("attempt"), data)).await?;
    api.delete(name_of(&made)?).await?;
    Ok(made)
}

/// Waits until a ConfigMap that is not wanted is denied, or admitted.
async fn denies(hooks: &Hooks, want: bool) -> Result<()> {
    let what = format!("the ConfigMap is denied: {want}");
    crate::watch::poll(LIMIT, STEP, &what, || async {
        match attempt(hooks, unwanted()).await {
            Ok(_) => Ok((!want).then_some(())),
            Err(e) if want => denied::<()>(Err(e), "creation", &["denied"]).map(Some),
            Err(e) => Err(e),
        }
    })
    .await
}

/// Waits until a ConfigMap is mutated, or left alone.
async fn mutates(hooks: &Hooks, want: bool) -> Result<()> {
    let what = format!("the ConfigMap is mutated: {want}");
    crate::watch::poll(LIMIT, STEP, &what, || async {
        let made = attempt(hooks, json!({"mutation-start": "yes"})).await?;
        Ok((made["data"]["mutation-stage-1"].is_string() == want).then_some(()))
    })
    .await
}

fn validating(hooks: &Hooks) -> Value {
    hooks.hook(
        "deny-unwanted-configmap-data.k8s.io",
        "/configmaps",
        rules(&["CREATE"], "", "v1", "configmaps"),
    )
}

fn mutating(hooks: &Hooks) -> Value {
    hooks.hook(
        "adding-configmap-data-stage-1.k8s.io",
        "/mutating-configmaps",
        rules(&["CREATE"], "", "v1", "configmaps"),
    )
}

/// The first webhook no longer applies to creations, by an update; then it does again, by a patch.
async fn away(hooks: &Hooks, kind: &Kind, name: &str) -> Result<()> {
    let api = hooks.cx.api(kind);
    let updated =
        api.modify(name, |c| c["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"])).await?;
    ensure_eq!(
        updated["webhooks"][0]["rules"][0]["operations"],
        json!(["UPDATE"]),
        "operations of the update"
    );
    Ok(())
}

async fn back(hooks: &Hooks, kind: &Kind, name: &str) -> Result<()> {
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    let patched = hooks.cx.api(kind).patch(name, Patch::Json(patch)).await?;
    ensure_eq!(
        patched["webhooks"][0]["rules"][0]["operations"],
        json!(["CREATE"]),
        "operations of the patch"
    );
    Ok(())
}

async fn changes_validating(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let name = hooks.validating(vec![validating(&hooks)]).await?;
    denied(attempt(&hooks, unwanted()).await, "a ConfigMap that is not wanted", &["denied"])?;
    away(&hooks, &VALIDATING_WEBHOOKS, &name).await?;
    denies(&hooks, false).await?;
    back(&hooks, &VALIDATING_WEBHOOKS, &name).await?;
    denies(&hooks, true).await
}

async fn changes_mutating(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let name = hooks.mutating(vec![mutating(&hooks)]).await?;
    away(&hooks, &MUTATING_WEBHOOKS, &name).await?;
    mutates(&hooks, false).await?;
    back(&hooks, &MUTATING_WEBHOOKS, &name).await?;
    mutates(&hooks, true).await
}

/// Ten configurations with a label.
async fn ten(hooks: &Hooks, kind: &Kind, hook: &Value) -> Result<String> {
    let selector = format!("e2e-list-test-webhooks={}", hooks.unique);
    for _ in 0..10 {
        let labels = json!({"e2e-list-test-webhooks": hooks.unique});
        hooks.create(kind, &hooks.cx.unique("e2e-list"), vec![hook.clone()], labels).await?;
    }
    let listed = hooks.cx.api(kind).labelled(&selector).await?;
    ensure_eq!(listed.len(), 10, "{} with {selector}", kind.plural);
    hooks.in_force().await?;
    Ok(selector)
}

async fn lists_validating(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let selector = ten(&hooks, &VALIDATING_WEBHOOKS, &validating(&hooks)).await?;
    denies(&hooks, true).await?;
    hooks.cx.api(&VALIDATING_WEBHOOKS).delete_collection(&[("labelSelector", &selector)]).await?;
    denies(&hooks, false).await
}

async fn lists_mutating(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let selector = ten(&hooks, &MUTATING_WEBHOOKS, &mutating(&hooks)).await?;
    mutates(&hooks, true).await?;
    hooks.cx.api(&MUTATING_WEBHOOKS).delete_collection(&[("labelSelector", &selector)]).await?;
    mutates(&hooks, false).await
}

/// A configuration that is only stored, with match conditions.
fn stored(cx: &Context, conditions: &Value) -> Value {
    json!({
        "metadata": {"name": cx.unique("e2e-match-conditions")},
        "webhooks": [{
            "name": "configmap-webhook.k8s.io",
            "clientConfig": {"service": {"namespace": cx.namespace(), "name": "e2e-test-webhook", "path": "/configmaps", "port": 8443}},
            "rules": rules(&["CREATE"], "", "v1", "configmaps"),
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "namespaceSelector": {"matchLabels": {cx.namespace(): "true"}},
            "matchConditions": conditions,
        }],
    })
}

async fn conditions(cx: &Context, kind: &Kind) -> Result<()> {
    let first = json!([{"name": "expression-1", "expression": "object.metadata.namespace == 'production'"}]);
    let made = cx.create(kind, &stored(cx, &first)).await?;
    let (api, name) = (cx.api(kind), name_of(&made)?.to_string());
    let seen = api.get(&name).await?;
    ensure_eq!(seen["webhooks"][0]["matchConditions"], first, "match conditions that are stored");
    let second = json!([
        {"name": "expression-1", "expression": "object.metadata.namespace == 'production'"},
        {"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"},
    ]);
    api.modify(&name, |c| c["webhooks"][0]["matchConditions"] = second.clone()).await?;
    let seen = api.get(&name).await?;
    ensure_eq!(seen["webhooks"][0]["matchConditions"], second, "match conditions after the update");
    Ok(())
}

async fn conditions_validating(cx: Context) -> Result<()> {
    conditions(&cx, &VALIDATING_WEBHOOKS).await
}

async fn conditions_mutating(cx: Context) -> Result<()> {
    conditions(&cx, &MUTATING_WEBHOOKS).await
}

async fn invalid(cx: &Context, kind: &Kind) -> Result<()> {
    let bad = json!([{"name": "invalid-expression-1", "expression": "... [] bad expression"}]);
    let refusal = refused(cx.create(kind, &stored(cx, &bad)).await, 422, "an invalid match condition")?;
    ensure_contains!(refusal.message(), "compilation failed", "message of the refusal");
    Ok(())
}

async fn invalid_validating(cx: Context) -> Result<()> {
    invalid(&cx, &VALIDATING_WEBHOOKS).await
}

async fn invalid_mutating(cx: Context) -> Result<()> {
    invalid(&cx, &MUTATING_WEBHOOKS).await
}
