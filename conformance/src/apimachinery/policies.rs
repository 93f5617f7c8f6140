//! Upstream's validatingadmissionpolicy.go and mutatingadmissionpolicy.go: the API.

use serde_json::{Value, json};

use super::battery::Battery;
use crate::Result;
use crate::context::Context;
use crate::kinds::{
    MUTATING_POLICIES, MUTATING_POLICY_BINDINGS, VALIDATING_POLICIES, VALIDATING_POLICY_BINDINGS,
};

tests! {
    "[sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations" => validating,
    "[sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations" => validating_binding,
    "[sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicy API operations" => mutating,
    "[sig-api-machinery] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should support MutatingAdmissionPolicyBinding API operations" => mutating_binding,
}

fn constraints() -> Value {
    json!({"resourceRules": [{
        "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
    }]})
}

fn fails(object: &mut Value) {
    object["spec"]["failurePolicy"] = json!("Fail");
}

async fn validating(cx: Context) -> Result<()> {
    let battery = Battery {
        kind: &VALIDATING_POLICIES,
        resources: &["validatingadmissionpolicies", "validatingadmissionpolicies/status"],
        template: json!({"spec": {
            "matchConstraints": constraints(),
            "validations": [{"expression": "object.spec.replicas <= 100"}],
        }}),
        patch: json!({"spec": {"failurePolicy": "Ignore"}}),
        update: fails,
        pointer: "/spec/failurePolicy",
    };
    let run = battery.begin(&cx).await?;
    run.status().await?;
    run.finish().await
}

async fn mutating(cx: Context) -> Result<()> {
    let expression =
        "Object{metadata: Object.metadata{annotations: {\"my-foo-annotation\": \"myAnnotationValue\"}}}";
    let battery = Battery {
        kind: &MUTATING_POLICIES,
        resources: &["mutatingadmissionpolicies"],
        template: json!({"spec": {
            "reinvocationPolicy": "Never",
            "matchConstraints": constraints(),
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        }}),
        patch: json!({"spec": {"failurePolicy": "Ignore"}}),
        update: fails,
        pointer: "/spec/failurePolicy",
    };
    battery.run(&cx).await
}

async fn validating_binding(cx: Context) -> Result<()> {
    let battery = Battery {
        kind: &VALIDATING_POLICY_BINDINGS,
        resources: &["validatingadmissionpolicybindings"],
        template: json!({"spec": {"policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"]}}),
        patch: json!({}),
        update: |_| {},
        pointer: "",
    };
    battery.run(&cx).await
}

async fn mutating_binding(cx: Context) -> Result<()> {
    let battery = Battery {
        kind: &MUTATING_POLICY_BINDINGS,
        resources: &["mutatingadmissionpolicybindings"],
        template: json!({"spec": {"policyName": "replicalimit-policy.example.com"}}),
        patch: json!({}),
        update: |_| {},
        pointer: "",
    };
    battery.run(&cx).await
}
