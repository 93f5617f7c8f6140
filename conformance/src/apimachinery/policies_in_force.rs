//! Upstream's validatingadmissionpolicy.go and mutatingadmissionpolicy.go: what policies do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Kind, Patch, name_of, number};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{
    DEPLOYMENTS, MUTATING_POLICIES, MUTATING_POLICY_BINDINGS, NAMESPACES, REPLICA_SETS, VALIDATING_POLICIES,
    VALIDATING_POLICY_BINDINGS,
};
use crate::rest::refusal;

tests! {
    "[sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate against a Deployment" => validates,
    "[sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should allow expressions to refer variables." => variables,
    "[sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment" => mutates_replicas,
    "[sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate a Deployment with annotations" => mutates_annotations,
}

const LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(300);

fn workload(name: &str, replicas: i64) -> Value {
    let labels = json!({"app": "test"});
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "agnhost", "image": AGNHOST, "args": ["pause"]}]},
        }},
    })
}

/// Creates a policy for Deployments of this test, and its binding.
async fn policy(
    cx: &Context,
    kinds: (&Kind, &Kind),
    operations: &[&str],
    mut spec: Value,
    mut binding: Value,
) -> Result<()> {
    let unique = cx.namespace();
    let label = json!({"metadata": {"labels": {unique: "true"}}});
    cx.api(&NAMESPACES).patch(unique, Patch::Merge(label)).await?;
    spec["matchConstraints"] = json!({
        "namespaceSelector": {"matchLabels": {unique: "true"}},
        "resourceRules": [{
            "operations": operations, "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
        }],
    });
    let name = format!("{unique}.policy.example.com");
    cx.create(kinds.0, &json!({"metadata": {"name": name}, "spec": spec})).await?;
    binding["policyName"] = json!(name);
    binding["matchResources"] = json!({"namespaceSelector": {"matchLabels": {unique: "true"}}});
    let name = format!("{unique}.binding.example.com");
    cx.create(kinds.1, &json!({"metadata": {"name": name}, "spec": binding})).await.map(|_| ())
}

async fn validating(cx: &Context, spec: Value) -> Result<()> {
    let deny = json!({"validationActions": ["Deny"]});
    policy(cx, (&VALIDATING_POLICIES, &VALIDATING_POLICY_BINDINGS), &["CREATE", "UPDATE"], spec, deny).await
}

/// Waits until a Deployment of that many replicas is refused; the message.
async fn refused(cx: &Context, replicas: i64) -> Result<String> {
    let api = cx.api(&DEPLOYMENTS);
    crate::watch::poll(LIMIT, STEP, "the marker is denied", || async {
        match api.create(&workload("marker-deployment", replicas)).await {
            Ok(made) => {
                api.delete(name_of(&made)?).await?;
                api.wait_gone("marker-deployment", LIMIT).await?;
                anyhow::bail!("the marker was admitted")
            }
            Err(e) => match refusal(&e) {
                Some(status) if status.reason() == "Invalid" => Ok(Some(status.message().to_string())),
                _ => Err(e),
            },
        }
    })
    .await
}

async fn admitted(cx: &Context) -> Result<()> {
    cx.api(&DEPLOYMENTS).create(&workload("replicated", 3)).await?;
    // The policy is for Deployments only.
    cx.api(&REPLICA_SETS).create(&workload("non-replicated", 1)).await.map(|_| ())
}

async fn validates(cx: Context) -> Result<()> {
    let own = format!("namespaceObject.metadata.name == '{}'", cx.namespace());
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas > 1",
         "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)"},
        {"expression": own, "message": "Internal error! Other namespace should not be allowed."},
    ]});
    validating(&cx, spec).await?;
    let message = refused(&cx, 1).await?;
    ensure_contains!(message, "wants replicas > 1, got 1", "message of the refusal");
    admitted(&cx).await
}

async fn variables(cx: Context) -> Result<()> {
    let spec = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"},
        ],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}],
    });
    validating(&cx, spec).await?;
    let message = refused(&cx, 1).await?;
    ensure_contains!(message, "variables.replicas > 1", "message of the refusal");
    let message = refused(&cx, 2).await?;
    ensure_contains!(message, "variables.oddReplicas", "message of the refusal");
    admitted(&cx).await
}

/// A Deployment that the policy has changed.
async fn mutated(cx: &Context, expression: &str, fits: fn(&Value) -> bool) -> Result<()> {
    let spec = json!({
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
    });
    let kinds = (&MUTATING_POLICIES, &MUTATING_POLICY_BINDINGS);
    policy(cx, kinds, &["CREATE", "UPDATE"], spec, json!({})).await?;
    let api = cx.api(&DEPLOYMENTS);
    crate::watch::poll(LIMIT, STEP, "a Deployment is mutated", || async {
        let name = cx.unique("test-deployment");
        let made = api.create_with(&[("dryRun", "All")], &workload(&name, 2)).await?;
        anyhow::ensure!(
            fits(&made),
            "it is {} {}",
            made["metadata"]["annotations"],
            made["spec"]["replicas"]
        );
        Ok(Some(()))
    })
    .await?;
    let made = api.create(&workload("test-deployment", 2)).await?;
    anyhow::ensure!(fits(&made), "the Deployment was not mutated: {}", made["metadata"]["annotations"]);
    api.delete_with("test-deployment", json!({"propagationPolicy": "Background"})).await.map(|_| ())
}

async fn mutates_replicas(cx: Context) -> Result<()> {
    mutated(&cx, "Object{spec: Object.spec{replicas: 1337}}", |d| number(d, "/spec/replicas") == 1337).await
}

async fn mutates_annotations(cx: Context) -> Result<()> {
    let expression = "Object{metadata: Object.metadata{annotations: {\"mutated-by\": \"admission-policy\"}}}";
    mutated(&cx, expression, |d| d["metadata"]["annotations"]["mutated-by"] == "admission-policy").await
}
