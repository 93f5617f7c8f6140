//! Admission webhooks over real TLS on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use knarr_harness::webhook::WebhookServer;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";

fn rule(operations: &[&str], group: &str, version: &str, resource: &str) -> Value {
    json!({"operations": operations, "apiGroups": [group], "apiVersions": [version], "resources": [resource]})
}

fn hook(name: &str, client: Value, rules: Value) -> Value {
    json!({"name": name, "clientConfig": client, "rules": [rules], "sideEffects": "None",
        "admissionReviewVersions": ["v1"]})
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

/// Creates a configuration with a webhook that marks when it is in force, and waits for that.
async fn register(s: &TestServer, hooks: &WebhookServer, kind: &str, name: &str, mut webhooks: Vec<Value>) {
    let mut marker =
        hook("marker.example.com", hooks.client("/deny"), rule(&["CREATE"], "", "v1", "secrets"));
    marker["objectSelector"] = json!({"matchLabels": {"marks": name}});
    webhooks.push(marker);
    let document = json!({"metadata": {"name": name}, "webhooks": webhooks});
    s.post(kind, &document).await.expect(201);
    let secret = json!({"metadata": {"generateName": "marker-", "labels": {"marks": name}}});
    for _ in 0..200 {
        let made = s.post("/api/v1/namespaces/default/secrets?dryRun=All", &secret).await;
        if made.status == 400 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{name} never came into force");
}

async fn server() -> TestServer {
    let s = TestServer::start_with_auth().await;
    let account = json!({"metadata": {"name": "default"}});
    s.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    s
}

/// Refuses, changes, or complains, by path.
fn answer(path: &str, review: &Value) -> Value {
    let object = &review["request"]["object"];
    match path {
        "/deny" => WebhookServer::verdict(review, false, "no"),
        "/data" if object["data"]["bad"] == "yes" => WebhookServer::verdict(review, false, "bad data"),
        "/gone" => WebhookServer::verdict(review, false, "stays"),
        "/stages" if object["data"]["one"] == "yes" => {
            WebhookServer::change(review, &json!([{"op": "add", "path": "/data/two", "value": "yes"}]))
        }
        "/stages" => {
            WebhookServer::change(review, &json!([{"op": "add", "path": "/data/one", "value": "yes"}]))
        }
        "/init" => {
            let added = json!([{"op": "add", "path": "/spec/initContainers", "value": [{"name": "added", "image": "i"}]}]);
            WebhookServer::change(review, &added)
        }
        "/wrong" => json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": "other", "allowed": true}}),
        "/scale" if object["spec"]["replicas"] == 9 => WebhookServer::verdict(review, false, "too many"),
        "/scale" => {
            let fewer = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
            WebhookServer::change(review, &fewer)
        }
        "/warn" => {
            let mut answer = WebhookServer::verdict(review, object["data"]["bad"] != "yes", "bad");
            answer["response"]["warnings"] = json!(["look here"]);
            answer
        }
        _ => WebhookServer::verdict(review, true, ""),
    }
}

#[tokio::test]
async fn validating_webhooks_refuse() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let mut maps =
        hook("data.example.com", hooks.client("/data"), rule(&["CREATE", "UPDATE"], "", "v1", "configmaps"));
    maps["timeoutSeconds"] = 7.into();
    let gone = hook("gone.example.com", hooks.client("/gone"), rule(&["DELETE"], "", "v1", "configmaps"));
    register(&s, &hooks, VALIDATING, "v", vec![maps, gone]).await;
    let refused = s.post(MAPS, &map("a", json!({"bad": "yes"}))).await;
    assert_eq!(refused.message(400), "admission webhook \"data.example.com\" denied the request: bad data");
    s.post(MAPS, &map("a", json!({}))).await.expect(201);
    let patched = s.patch(&format!("{MAPS}/a"), "merge", &json!({"data": {"bad": "yes"}})).await;
    assert!(patched.message(400).contains("bad data"));
    assert!(s.delete(&format!("{MAPS}/a")).await.message(400).contains("\"gone.example.com\" denied"));
    let all = s.delete(MAPS).await;
    assert!(all.message(400).contains("stays"), "deletecollection asks for every object");
    let (path, review) = hooks.calls().into_iter().rfind(|(p, _)| p.starts_with("/data")).unwrap();
    assert_eq!(path, "/data?timeout=7s");
    let request = &review["request"];
    assert_eq!(request["operation"], "UPDATE");
    assert_eq!(request["oldObject"]["metadata"]["name"], "a");
    assert_eq!(request["object"]["kind"], "ConfigMap");
    assert_eq!((&request["name"], &request["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(request["options"]["kind"], "PatchOptions");
    let (_, review) = hooks.calls().into_iter().rfind(|(p, _)| p.starts_with("/gone")).unwrap();
    assert_eq!(review["request"]["object"], Value::Null);
    assert_eq!(review["request"]["options"]["kind"], "DeleteOptions");
    // Configurations go even when a webhook would refuse everything.
    s.delete(&format!("{VALIDATING}/v")).await.expect(200);
}

#[tokio::test]
async fn mutating_webhooks_change_one_after_the_other() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let stage = |n: u8| {
        hook(&format!("stage-{n}.example.com"), hooks.client("/stages"), rule(&["*"], "", "*", "configmaps"))
    };
    let pods = hook("init.example.com", hooks.client("/init"), rule(&["CREATE"], "", "v1", "pods"));
    let mut skipped = stage(3);
    skipped["matchConditions"] = json!([{"name": "never", "expression": "object.metadata.name == 'other'"}]);
    register(&s, &hooks, MUTATING, "m", vec![stage(1), stage(2), skipped, pods]).await;
    let made = s.post(MAPS, &map("a", json!({"zero": "yes"}))).await.expect(201);
    assert_eq!(made["data"], json!({"zero": "yes", "one": "yes", "two": "yes"}));
    assert_eq!(hooks.calls().iter().filter(|(p, _)| p.starts_with("/stages")).count(), 2);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = s.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let added = &made["spec"]["initContainers"][0];
    assert_eq!((&added["name"], &added["terminationMessagePolicy"]), (&json!("added"), &json!("File")));
    // The service account's volume is mounted into what the webhook added: plugins see the object again.
    assert!(added["volumeMounts"][0]["mountPath"].as_str().unwrap().contains("serviceaccount"), "{added}");
}

#[tokio::test]
async fn an_earlier_webhook_is_called_again_when_it_wants() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let all = rule(&["CREATE"], "", "v1", "configmaps");
    let mut first = hook("first.example.com", hooks.client("/first"), all.clone());
    first["reinvocationPolicy"] = "IfNeeded".into();
    let never = hook("never.example.com", hooks.client("/never"), all.clone());
    let last = hook("last.example.com", hooks.client("/stages"), all);
    register(&s, &hooks, MUTATING, "m", vec![first, never, last]).await;
    s.post(MAPS, &map("a", json!({"zero": ""}))).await.expect(201);
    let count = |path: &str| hooks.calls().iter().filter(|(p, _)| p.starts_with(path)).count();
    assert_eq!((count("/first"), count("/never"), count("/stages")), (2, 1, 1));
    assert_eq!(hooks.calls().last().unwrap().1["request"]["object"]["data"]["one"], "yes");
}

#[tokio::test]
async fn failures_follow_the_policy() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let mut ignored =
        hook("ignored.example.com", json!({"url": hooks.url}), rule(&["CREATE"], "", "v1", "configmaps"));
    ignored["failurePolicy"] = "Ignore".into();
    let select = |mut hook: Value, label: &str| {
        hook["objectSelector"] = json!({"matchLabels": {"case": label}});
        hook
    };
    let maps = || rule(&["CREATE"], "", "v1", "configmaps");
    let mut slow = select(hook("slow.example.com", hooks.client("/slow"), maps()), "slow");
    slow["timeoutSeconds"] = 1.into();
    let untrusted = select(
        hook("untrusted.example.com", json!({"url": format!("{}/x", hooks.url)}), maps()),
        "untrusted",
    );
    let absent = json!({"service": {"namespace": "default", "name": "absent", "path": "/x"}});
    let absent = select(hook("absent.example.com", absent, maps()), "absent");
    let wrong = select(hook("wrong.example.com", hooks.client("/wrong"), maps()), "wrong");
    let mut dry = select(hook("dry.example.com", hooks.client("/ok"), maps()), "dry");
    dry["sideEffects"] = "NoneOnDryRun".into();
    let mut failing = select(hook("condition.example.com", hooks.client("/ok"), maps()), "condition");
    failing["matchConditions"] = json!([{"name": "c", "expression": "object.spec.nothing == 1"}]);
    register(&s, &hooks, VALIDATING, "v", vec![ignored, slow, untrusted, absent, wrong, dry, failing]).await;
    for (label, code, texts) in [
        (
            "slow",
            500,
            &[
                "failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://localhost",
                "timeout=1s\": context deadline exceeded",
            ][..],
        ),
        (
            "untrusted",
            500,
            &[
                "failed calling webhook \"untrusted.example.com\"",
                "x509: certificate signed by unknown authority",
            ],
        ),
        (
            "absent",
            500,
            &[
                "Internal error occurred: failed calling webhook",
                "Post \"https://absent.default.svc:443/x?timeout=10s\"",
                "services \"absent\" not found",
            ],
        ),
        ("wrong", 500, &["received invalid webhook response: expected response.uid="]),
        (
            "condition",
            403,
            &["is forbidden", "expression 'object.spec.nothing == 1' resulted in error: no such key: spec"],
        ),
    ] {
        let mut object = map(label, json!({}));
        object["metadata"]["labels"] = json!({"case": label});
        let message = s.post(MAPS, &object).await.message(code);
        for text in texts {
            assert!(message.contains(text), "{label}: {message} lacks {text}");
        }
    }
    let mut object = map("dry", json!({}));
    object["metadata"]["labels"] = json!({"case": "dry"});
    s.post(&format!("{MAPS}?dryRun=All"), &object).await.expect(201);
    let asked = hooks.calls();
    assert_eq!(asked.iter().rfind(|(p, _)| p.starts_with("/ok")).unwrap().1["request"]["dryRun"], true);
    let metrics = s.get("/metrics").await.text();
    assert!(metrics.contains("apiserver_admission_webhook_rejection_count{name=\"slow.example.com\",type=\"validating\",operation=\"CREATE\",error_type=\"calling_webhook_error\",rejection_code=\"503\"} 1"), "{metrics}");
    assert!(metrics.contains("apiserver_admission_webhook_fail_open_count{name=\"ignored.example.com\""));
}

#[tokio::test]
async fn selectors_and_other_versions() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let mut by_namespace =
        hook("ns.example.com", hooks.client("/deny"), rule(&["CREATE"], "", "v1", "configmaps"));
    by_namespace["namespaceSelector"] = json!({"matchLabels": {"watched": "yes"}});
    // Written for v2, asked about v1 as well, unless it is exact.
    let scalers = || rule(&["CREATE"], "autoscaling", "v2", "horizontalpodautoscalers");
    let other = hook("other.example.com", hooks.client("/other"), scalers());
    let mut exact = hook("exact.example.com", hooks.client("/exact"), scalers());
    exact["matchPolicy"] = "Exact".into();
    register(&s, &hooks, VALIDATING, "v", vec![by_namespace, other, exact]).await;
    s.post(MAPS, &map("a", json!({}))).await.expect(201);
    let ns = json!({"metadata": {"name": "watched", "labels": {"watched": "yes"}}});
    s.post("/api/v1/namespaces", &ns).await.expect(201);
    s.post("/api/v1/namespaces/watched/configmaps", &map("a", json!({}))).await.message(400);
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let made =
        s.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &scaler).await.expect(201);
    assert_eq!(made["apiVersion"], "autoscaling/v1");
    let calls = hooks.calls();
    assert!(!calls.iter().any(|(p, _)| p.starts_with("/exact")));
    let review = &calls.iter().find(|(p, _)| p.starts_with("/other")).expect("asked about another version").1;
    let request = &review["request"];
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v2");
    assert_eq!(request["object"]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn warnings_reach_the_client_also_with_a_refusal() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let warns = hook("warn.example.com", hooks.client("/warn"), rule(&["CREATE"], "", "v1", "configmaps"));
    register(&s, &hooks, VALIDATING, "v", vec![warns]).await;
    for (data, status) in [(json!({}), 201), (json!({"bad": "yes"}), 400)] {
        let reply = s.post(MAPS, &map("a", data)).await;
        assert_eq!(reply.status, status, "{}", reply.text());
        let warning = reply.headers.get("warning").map(|w| w.to_str().unwrap().to_string());
        assert_eq!(warning.as_deref(), Some("299 - \"look here\""));
    }
}

#[tokio::test]
async fn custom_resources_are_pruned_after_mutation() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let text = json!({"type": "string"});
    let schema =
        json!({"type": "object", "properties": {"data": {"type": "object", "properties": {"one": text}}}});
    let crd = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    s.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    let stage = |n: u8| {
        hook(
            &format!("stage-{n}.example.com"),
            hooks.client("/stages"),
            rule(&["*"], "example.com", "*", "foos"),
        )
    };
    register(&s, &hooks, MUTATING, "m", vec![stage(1), stage(2)]).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let foo = json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "data": {}});
    let made = s.post(foos, &foo).await.expect(201);
    assert_eq!(made["data"], json!({"one": "yes"}), "what the schema does not describe is dropped");
}

#[tokio::test]
async fn match_conditions_are_compiled_when_they_are_written() {
    let s = server().await;
    let client = json!({"url": "https://localhost/x"});
    let mut bad = hook("bad.example.com", client, rule(&["CREATE"], "", "v1", "configmaps"));
    bad["matchConditions"] =
        json!([{"name": "c", "expression": "... [] bad"}, {"name": "d", "expression": "1"}]);
    for kind in [VALIDATING, MUTATING] {
        let message = s.post(kind, &json!({"metadata": {"name": "x"}, "webhooks": [bad]})).await.message(422);
        assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value: \"... [] bad\": compilation failed: ERROR"), "{message}");
        assert!(
            message.contains(
                "matchConditions[1].expression: Invalid value: \"1\": must evaluate to bool but got int"
            ),
            "{message}"
        );
    }
}

#[tokio::test]
async fn the_scale_is_what_webhooks_of_the_scale_see() {
    let (s, hooks) = (server().await, WebhookServer::start(answer).await);
    let scales = || rule(&["UPDATE"], "apps", "v1", "deployments/scale");
    register(&s, &hooks, MUTATING, "m", vec![hook("scale.example.com", hooks.client("/scale"), scales())])
        .await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    s.post(deployments, &deployment).await.expect(201);
    let scale = format!("{deployments}/d/scale");
    let refused = s.patch(&scale, "merge", &json!({"spec": {"replicas": 9}})).await;
    assert!(refused.message(400).ends_with("too many"));
    let scaled = s.patch(&scale, "merge", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let whole = s.get(&format!("{deployments}/d")).await.expect(200);
    assert_eq!(
        (&whole["spec"]["replicas"], &whole["spec"]["template"]["metadata"]["labels"]["a"]),
        (&json!(3), &json!("b"))
    );
    let review = hooks.calls().last().unwrap().1.clone();
    let request = &review["request"];
    assert_eq!((&request["kind"]["kind"], &request["subResource"]), (&json!("Scale"), &json!("scale")));
    assert_eq!(
        (&request["object"]["spec"]["replicas"], &request["oldObject"]["spec"]["replicas"]),
        (&json!(5), &json!(1))
    );
}
