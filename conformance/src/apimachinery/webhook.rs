//! Upstream's webhook.go: denying and mutating built-in kinds.

use serde_json::{Value, json};

use super::battery::discovered;
use super::hooks::{Hooks, denied, map, rules, unwanted};
use crate::Result;
use crate::api::{Patch, array, text};
use crate::cli::kubectl::run_with;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{CONFIG_MAPS, CUSTOM_RESOURCES, MUTATING_WEBHOOKS, NAMESPACES, VALIDATING_WEBHOOKS};
use crate::rest::refused;

tests! {
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should include webhook resources in discovery documents" => discovery,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny pod and configmap creation" => denies,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should be able to deny attaching pod" => denies_attach,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should unconditionally reject operations on fail closed webhook" => fail_closed,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate configmap" => mutates_map,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate pod and apply defaults after mutation" => mutates_pod,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should not be able to mutate or prevent deletion of webhook configuration objects" => spares_configurations,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should deny crd creation" => denies_crd,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should honor timeout" => timeouts,
    "[sig-api-machinery] AdmissionWebhook [Privileged:ClusterAdmin] should mutate everything except 'skip-me' configmaps" => skips,
}

async fn discovery(cx: Context) -> Result<()> {
    for (kind, name) in [
        (&MUTATING_WEBHOOKS, "mutatingwebhookconfigurations"),
        (&VALIDATING_WEBHOOKS, "validatingwebhookconfigurations"),
    ] {
        discovered(&cx, kind, &[name]).await?;
    }
    Ok(())
}

fn pod(name: &str, container: &str, label: &str) -> Value {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": container, "image": AGNHOST}]}});
    if !label.is_empty() {
        pod["metadata"]["labels"] = json!({"webhook-e2e-test": label});
    }
    pod
}

const DATA: &str = "the configmap contains unwanted key and value";

async fn denies(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let pods = hooks.hook(
        "deny-unwanted-pod-container-name-and-label.k8s.io",
        "/pods",
        rules(&["CREATE"], "", "v1", "pods"),
    );
    let mut maps = hooks.hook(
        "deny-unwanted-configmap-data.k8s.io",
        "/configmaps",
        rules(&["CREATE", "UPDATE", "DELETE"], "", "v1", "configmaps"),
    );
    maps["namespaceSelector"]["matchExpressions"] =
        json!([{"key": "skip-webhook-admission", "operator": "NotIn", "values": ["yes"]}]);
    // Without certificates it cannot be called, but it must not: failures are ignored.
    let mut open = hooks.hook("fail-open.k8s.io", "/configmaps", rules(&["CREATE"], "", "v1", "configmaps"));
    open["clientConfig"]["caBundle"] = Value::Null;
    open["failurePolicy"] = json!("Ignore");
    hooks.validating(vec![pods, maps, open]).await?;
    denies_pods(&hooks).await?;
    denies_maps(&hooks).await
}

async fn denies_pods(hooks: &Hooks) -> Result<()> {
    let pods = hooks.cx.pods();
    let both = ["the pod contains unwanted container name", "the pod contains unwanted label"];
    let bad = pods.create(&pod("disallowed-pod", "webhook-disallow", "webhook-disallow")).await;
    denied(bad, "a pod that is not wanted", &both)?;
    let hanging = pods.create(&pod("hanging-pod", "wait-forever", "wait-forever")).await;
    denied(hanging, "a pod on which the webhook hangs", &["webhook", "deadline"])?;
    refused(pods.get("hanging-pod").await, 404, "the pod on which the webhook hangs").map(|_| ())
}

async fn denies_maps(hooks: &Hooks) -> Result<()> {
    let maps = hooks.cx.api(&CONFIG_MAPS);
    denied(
        maps.create(&map("disallowed-configmap", unwanted())).await,
        "a ConfigMap that is not wanted",
        &[DATA],
    )?;
    maps.create(&map("allowed-configmap", json!({"admit": "this"}))).await?;
    let mut seen = maps.get("allowed-configmap").await?;
    seen["data"] = unwanted();
    denied(maps.update(&seen).await, "an update that is not wanted", &[DATA])?;
    let patch = Patch::Strategic(json!({"data": unwanted()}));
    denied(maps.patch("allowed-configmap", patch).await, "a patch that is not wanted", &[DATA])?;
    let skipped = hooks.cx.new_namespace("exempted").await?;
    let labels =
        json!({"metadata": {"labels": {"skip-webhook-admission": "yes", hooks.unique.as_str(): "true"}}});
    hooks.cx.api(&NAMESPACES).patch(&skipped, Patch::Merge(labels)).await?;
    let api = hooks.cx.api_in(&CONFIG_MAPS, &skipped);
    // The label takes a moment to reach who selects by it.
    let limit = std::time::Duration::from_secs(30);
    crate::watch::poll(limit, std::time::Duration::from_millis(500), "an exempted namespace", || async {
        api.create(&map("disallowed-configmap", unwanted())).await.map(Some)
    })
    .await
    .map(|_| ())
}

async fn denies_attach(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let hook =
        hooks.hook("deny-attaching-pod.k8s.io", "/pods/attach", rules(&["CONNECT"], "", "v1", "pods/attach"));
    hooks.validating(vec![hook]).await?;
    let made = json!({
        "metadata": {"name": "to-be-attached-pod"},
        "spec": {"containers": [{"name": "container1", "image": AGNHOST, "args": ["pause"]}]},
    });
    hooks.cx.start(&made).await?;
    let ran = run_with(&hooks.cx, &["attach", "to-be-attached-pod", "-i", "-c=container1"], "").await?;
    anyhow::ensure!(ran.code != 0, "kubectl attach succeeded although the webhook denies it");
    ensure_contains!(
        ran.err,
        "attaching to pod 'to-be-attached-pod' is not allowed",
        "what kubectl attach says"
    );
    Ok(())
}

async fn fail_closed(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let namespace = hooks.cx.new_namespace("fail-closed").await?;
    let label = format!("{}-fail-closed", hooks.unique);
    let patch = json!({"metadata": {"labels": {label.as_str(): "true"}}});
    hooks.cx.api(&NAMESPACES).patch(&namespace, Patch::Merge(patch)).await?;
    let mut hook =
        hooks.hook("fail-closed.k8s.io", "/configmaps", rules(&["CREATE"], "", "v1", "configmaps"));
    hook["clientConfig"]["caBundle"] = Value::Null;
    hook["failurePolicy"] = json!("Fail");
    hook["namespaceSelector"] = json!({"matchLabels": {label.as_str(): "true"}});
    hooks.validating(vec![hook]).await?;
    let made = hooks.cx.api_in(&CONFIG_MAPS, &namespace).create(&map("foo", json!({}))).await;
    let refusal = refused(made, 500, "a ConfigMap whose webhook cannot be called")?;
    ensure_eq!(refusal.reason(), "InternalError", "reason of the refusal");
    Ok(())
}

/// Two webhooks, the second of which needs what the first adds.
fn stages(hooks: &Hooks, group: &str, version: &str, resource: &str, path: &str) -> Vec<Value> {
    let rules = rules(&["CREATE", "UPDATE"], group, version, resource);
    let name = |stage: u8| format!("adding-data-stage-{stage}.k8s.io");
    vec![hooks.hook(&name(1), path, rules.clone()), hooks.hook(&name(2), path, rules)]
}

async fn mutates_map(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    hooks.mutating(stages(&hooks, "", "v1", "configmaps", "/mutating-configmaps")).await?;
    let body = map("to-be-mutated", json!({"mutation-start": "yes"}));
    let made = hooks.cx.api(&CONFIG_MAPS).create(&body).await?;
    let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    ensure_eq!(made["data"], wanted, "data of the mutated ConfigMap");
    Ok(())
}

async fn mutates_pod(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let hook =
        hooks.hook("adding-init-container.k8s.io", "/mutating-pods", rules(&["CREATE"], "", "v1", "pods"));
    hooks.mutating(vec![hook]).await?;
    let made = hooks.cx.pods().create(&pod("webhook-to-be-mutated", "example", "")).await?;
    let added = array(&made, "/spec/initContainers");
    ensure_eq!(added.len(), 1, "init containers of the mutated pod");
    ensure_eq!(text(&added[0], "/name"), "webhook-added-init-container", "name of the init container");
    ensure_eq!(text(&added[0], "/terminationMessagePolicy"), "File", "default of terminationMessagePolicy");
    Ok(())
}

async fn spares_configurations(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let resources = json!(["validatingwebhookconfigurations", "mutatingwebhookconfigurations"]);
    let rule = |operation: &str| {
        json!([{"operations": [operation], "apiGroups": ["admissionregistration.k8s.io"], "apiVersions": ["*"],
                "resources": resources}])
    };
    let deny =
        hooks.cluster_hook("deny-webhook-configuration-deletions.k8s.io", "/always-deny", rule("DELETE"));
    hooks.validating(vec![deny]).await?;
    let label =
        hooks.cluster_hook("add-label-to-webhook-configurations.k8s.io", "/add-label", rule("CREATE"));
    hooks.mutating(vec![label]).await?;
    for kind in [&VALIDATING_WEBHOOKS, &MUTATING_WEBHOOKS] {
        let mut hook = hooks.cluster_hook(
            "dummy-webhook.k8s.io",
            "/always-allow",
            rules(&["CREATE"], "", "v1", "invalid"),
        );
        hook["failurePolicy"] = json!("Ignore");
        let name = hooks.cx.unique("dummy");
        let labels = json!({hooks.unique.as_str(): "true"});
        let body = json!({"metadata": {"name": name, "labels": labels}, "webhooks": [hook]});
        let made = hooks.cx.create(kind, &body).await?;
        anyhow::ensure!(
            made["metadata"]["labels"]["added-label"].is_null(),
            "a webhook mutated a {}",
            kind.kind
        );
        hooks.cx.api(kind).delete(&name).await?;
    }
    Ok(())
}

async fn denies_crd(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let rules = rules(&["CREATE"], "apiextensions.k8s.io", "*", "customresourcedefinitions");
    hooks.validating(vec![hooks.cluster_hook("deny-crd-with-unwanted-label.k8s.io", "/crd", rules)]).await?;
    let group = super::crd::group(&hooks.cx);
    let versions = json!([super::crd::version("v1", true, super::crd::anything())]);
    let (_, mut body) = super::crd::document(&hooks.cx, &group, true, versions);
    body["metadata"]["labels"] =
        json!({hooks.unique.as_str(): "true", "webhook-e2e-test": "webhook-disallow"});
    let made = hooks.cx.create(&CUSTOM_RESOURCES, &body).await;
    denied(made, "a definition that is not wanted", &["the crd contains unwanted label"])
}

/// Tries to create a ConfigMap under a webhook that takes five seconds.
async fn slow(hooks: &Hooks, timeout: Option<i64>, policy: &str, fails: bool) -> Result<()> {
    let name = "allow-configmap-with-delay-webhook.k8s.io";
    let mut hook = hooks.hook(name, "/always-allow-delay-5s", rules(&["CREATE"], "", "v1", "configmaps"));
    hook["objectSelector"] = json!({"matchLabels": {hooks.unique.as_str(): "true"}});
    hook["failurePolicy"] = json!(policy);
    if let Some(seconds) = timeout {
        hook["timeoutSeconds"] = json!(seconds);
    }
    let configuration = hooks.validating(vec![hook]).await?;
    let mut body = map(&hooks.cx.unique("e2e-test-slow-webhook"), json!({}));
    body["metadata"]["labels"] = json!({hooks.unique.as_str(): "true"});
    let made = hooks.cx.api(&CONFIG_MAPS).create(&body).await;
    hooks.cx.api(&VALIDATING_WEBHOOKS).delete(&configuration).await?;
    if !fails {
        return made.map(|_| ());
    }
    let failed = "failed calling webhook \"allow-configmap-with-delay-webhook.k8s.io\"";
    denied(made, "a request whose webhook takes too long", &["deadline exceeded", failed])
}

async fn timeouts(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    slow(&hooks, Some(1), "Fail", true).await?;
    slow(&hooks, Some(1), "Ignore", false).await?;
    slow(&hooks, Some(10), "Fail", false).await?;
    slow(&hooks, None, "Fail", false).await
}

async fn skips(cx: Context) -> Result<()> {
    let hooks = Hooks::start(cx).await?;
    let mut webhooks = stages(&hooks, "", "v1", "configmaps", "/mutating-configmaps");
    for hook in &mut webhooks {
        hook["matchConditions"] =
            json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    }
    hooks.mutating(webhooks).await?;
    let maps = hooks.cx.api(&CONFIG_MAPS);
    let start = json!({"mutation-start": "yes"});
    let made = maps.create(&map("skip-me", start.clone())).await?;
    ensure_eq!(made["data"], start, "data of the ConfigMap that is skipped");
    let made = maps.create(&map("to-be-mutated", start)).await?;
    let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    ensure_eq!(made["data"], wanted, "data of the other ConfigMap");
    Ok(())
}
