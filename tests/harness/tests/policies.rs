//! Admission policies in force.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn server() -> TestServer {
    TestServer::start_with_auth().await
}

fn constraints(group: &str, resource: &str) -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["v1"],
        "resources": [resource]}]})
}

async fn bind(s: &TestServer, kinds: &str, name: &str, spec: Value, binding: Value) {
    s.post(&format!("{GROUP}/{kinds}policies"), &json!({"metadata": {"name": name}, "spec": spec}))
        .await
        .expect(201);
    let mut binding = binding;
    binding["policyName"] = name.into();
    let document = json!({"metadata": {"name": format!("{name}-binding")}, "spec": binding});
    s.post(&format!("{GROUP}/{kinds}policybindings"), &document).await.expect(201);
}

/// Tries until the answer has this status; policies come into force a moment later.
async fn until(s: &TestServer, path: &str, object: &Value, status: u16) -> knarr_harness::Reply {
    for _ in 0..200 {
        let reply = s.post(&format!("{path}?dryRun=All"), object).await;
        if reply.status == status {
            return reply;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} never answered {status}");
}

fn deployment(replicas: i64) -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn validations_deny() {
    let s = server().await;
    let spec = json!({
        "matchConstraints": constraints("apps", "deployments"),
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
                      {"name": "odd", "expression": "variables.replicas % 2 == 1"}],
        "validations": [
            {"expression": "variables.replicas > 1", "messageExpression": "'wants more than 1, got ' + string(variables.replicas)"},
            {"expression": "variables.odd", "reason": "Forbidden"},
            {"expression": "namespaceObject.metadata.name == 'default'"}],
    });
    bind(&s, "validatingadmission", "p", spec, json!({"validationActions": ["Deny"]})).await;
    let refused = until(&s, DEPLOYMENTS, &deployment(1), 422).await;
    let status = refused.json();
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(
        status["message"],
        "deployments.apps \"d\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p-binding' denied request: wants more than 1, got 1"
    );
    let message = s.post(DEPLOYMENTS, &deployment(2)).await.message(403);
    assert!(message.ends_with("denied request: failed expression: variables.odd"), "{message}");
    s.post(DEPLOYMENTS, &deployment(3)).await.expect(201);
}

#[tokio::test]
async fn bindings_narrow_warn_and_give_parameters() {
    let s = server().await;
    s.post(MAPS, &json!({"metadata": {"name": "limits"}, "data": {"max": "3"}})).await.expect(201);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": constraints("apps", "deployments"),
        "matchConditions": [{"name": "not-exempt", "expression": "!has(object.metadata.labels) || !('exempt' in object.metadata.labels)"}],
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)", "message": "too many"},
                        {"expression": "authorizer.requestResource.check('create').allowed()"}],
    });
    let deny = json!({"validationActions": ["Deny"],
        "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}});
    bind(&s, "validatingadmission", "p", spec.clone(), deny).await;
    let refused = until(&s, DEPLOYMENTS, &deployment(4), 422).await.message(422);
    assert!(refused.ends_with("denied request: too many"), "{refused}");
    let mut exempt = deployment(4);
    exempt["metadata"]["labels"] = json!({"exempt": "yes"});
    s.post(&format!("{DEPLOYMENTS}?dryRun=All"), &exempt).await.expect(201);
    s.delete(&format!("{MAPS}/limits")).await.expect(200);
    let refused = s.post(DEPLOYMENTS, &deployment(1)).await.message(422);
    assert!(refused.contains("failed to configure binding: no params found"), "{refused}");
    s.delete(&format!("{GROUP}/validatingadmissionpolicybindings/p-binding")).await.expect(200);
    let warn = json!({"validationActions": ["Warn", "Audit"], "policyName": "p",
        "paramRef": {"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Allow"}});
    let labelled = json!({"metadata": {"name": "l", "labels": {"limits": "yes"}}, "data": {"max": "2"}});
    s.post(MAPS, &labelled).await.expect(201);
    s.post(
        &format!("{GROUP}/validatingadmissionpolicybindings"),
        &json!({"metadata": {"name": "w"}, "spec": warn}),
    )
    .await
    .expect(201);
    for _ in 0..200 {
        let reply = s.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment(4)).await;
        if let Some(warning) = reply.headers.get("warning") {
            assert_eq!(reply.status, 201);
            assert_eq!(
                warning.to_str().unwrap(),
                "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'w': too many\""
            );
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no warning ever came");
}

#[tokio::test]
async fn failures_follow_the_policy() {
    let s = server().await;
    let spec = |policy: &str| {
        json!({"failurePolicy": policy, "matchConstraints": constraints("", "configmaps"),
            "validations": [{"expression": "object.spec.nothing == 1"}]})
    };
    bind(&s, "validatingadmission", "open", spec("Ignore"), json!({"validationActions": ["Deny"]})).await;
    bind(&s, "validatingadmission", "shut", spec("Fail"), json!({"validationActions": ["Deny"]})).await;
    let object = json!({"metadata": {"name": "a"}});
    let message = until(&s, MAPS, &object, 422).await.message(422);
    assert!(
        message.contains("ValidatingAdmissionPolicy 'shut'")
            && message.contains("resulted in error: no such key: spec"),
        "{message}"
    );
    // Policies never see each other.
    s.delete(&format!("{GROUP}/validatingadmissionpolicies/shut")).await.expect(200);
    until(&s, MAPS, &object, 201).await;
}

#[tokio::test]
async fn mutations_apply_and_patch() {
    let s = server().await;
    let apply = "Object{metadata: Object.metadata{annotations: {'by': 'policy'}}, spec: Object.spec{replicas: 7, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', imagePullPolicy: 'Never'}]}}}}";
    let patch = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 7}, JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('a/b'), value: string(object.spec.replicas + 1)}]";
    let spec = json!({
        "matchConstraints": constraints("apps", "deployments"),
        "reinvocationPolicy": "Never",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'test', path: '/spec/replicas', value: 1}, JSONPatch{op: 'remove', path: '/spec/replicas'}]"}}],
    });
    bind(&s, "mutatingadmission", "m", spec, json!({})).await;
    for _ in 0..200 {
        let made = s.post(&format!("{DEPLOYMENTS}?dryRun=All"), &deployment(2)).await.expect(201);
        if made["spec"]["replicas"] == 7 {
            assert_eq!(made["metadata"]["annotations"], json!({"by": "policy", "a/b": "8"}));
            let container = &made["spec"]["template"]["spec"]["containers"][0];
            assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!("i"), &json!("Never")));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the deployment was never changed");
}

#[tokio::test]
async fn mutations_that_cannot_be_refuse() {
    let s = server().await;
    let spec = |expression: &str| {
        json!({"matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
    };
    let atomic = "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', args: ['x']}]}}}}";
    bind(&s, "mutatingadmission", "m", spec(atomic), json!({})).await;
    let message = until(&s, DEPLOYMENTS, &deployment(1), 403).await.message(403);
    assert!(message.contains("policy 'm' with binding 'm-binding' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args"), "{message}");
    for (expression, want) in [
        ("Object{spec: 1", "Syntax error"),
        ("1", "must evaluate to Object but got int"),
        ("Thing{}", "undeclared reference to 'Thing'"),
    ] {
        let document = json!({"metadata": {"name": "bad"}, "spec": spec(expression)});
        let message = s.post(&format!("{GROUP}/mutatingadmissionpolicies"), &document).await.message(422);
        assert!(
            message.contains("spec.mutations[0].applyConfiguration.expression") && message.contains(want),
            "{message}"
        );
    }
}
