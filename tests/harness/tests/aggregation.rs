//! APIs that a service of the cluster answers for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use knarr_harness::webhook::WebhookServer;
use knarr_machinery::UserInfo;
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const ROOT: &str = "/apis/wardle.example.com/v1alpha1";

fn answer(path: &str, request: &Value) -> Value {
    if path == ROOT {
        return json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1",
            "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
                 "verbs": ["create", "get", "list"], "shortNames": ["fl"]},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]});
    }
    json!({"kind": "FlunderList", "apiVersion": "wardle.example.com/v1alpha1", "items": [], "seen": request})
}

fn condition(service: &Value) -> (String, String) {
    let all = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == "Available").cloned().unwrap_or_default();
    (found["status"].as_str().unwrap_or("").into(), found["reason"].as_str().unwrap_or("").into())
}

async fn until(s: &TestServer, status: &str, reason: &str) {
    let mut last = Value::Null;
    for _ in 0..500 {
        last = s.get(&format!("{SERVICES}/{NAME}")).await.expect(200);
        if condition(&last) == (status.into(), reason.into()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never {status} {reason}: {}", last["status"]);
}

#[tokio::test]
async fn requests_go_to_the_service() {
    let (s, backend) = (TestServer::start_with_auth().await, WebhookServer::start(answer).await);
    assert_eq!(s.get(&format!("{ROOT}/flunders")).await.status, 404);
    let service = json!({"metadata": {"name": NAME}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "caBundle": backend.bundle,
        "service": {"namespace": "default", "name": "aggregated", "port": backend.port}}});
    s.post(SERVICES, &service).await.expect(201);
    until(&s, "False", "ServiceNotFound").await;
    let unavailable = s.get(&format!("{ROOT}/flunders")).await;
    assert_eq!(unavailable.message(503), "service unavailable");
    let named = json!({"metadata": {"name": "aggregated"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    s.post("/api/v1/namespaces/default/services", &named).await.expect(201);
    until(&s, "True", "Passed").await;
    let mut jane = UserInfo::component("jane", &["system:masters"]);
    jane.extra.insert("example.com/k".into(), vec!["v".into()]);
    let forged = ["x-remote-user: root", "authorization: Bearer secret"];
    let path = format!("{ROOT}/namespaces/default/flunders?limit=5");
    let seen = s.raw_as(Some(jane), "GET", &path, &forged, "").await.expect(200);
    assert_eq!(seen["kind"], "FlunderList");
    let headers = &seen["seen"]["headers"];
    assert_eq!(headers["x-remote-user"], json!(["jane"]));
    assert_eq!(headers["x-remote-group"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(headers["x-remote-extra-example%2ecom%2fk"], json!(["v"]), "{headers}");
    assert_eq!(headers["authorization"], Value::Null);
    assert_eq!(backend.calls().last().unwrap().0, path);
    let nobody = UserInfo::component("nobody", &[]);
    assert_eq!(s.raw_as(Some(nobody), "GET", &path, &[], "").await.status, 403, "authorization comes first");
}

#[tokio::test]
async fn discovery_knows_them_while_they_are_there() {
    let (s, backend) = (TestServer::start_with_auth().await, WebhookServer::start(answer).await);
    let named = json!({"metadata": {"name": "aggregated"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    s.post("/api/v1/namespaces/default/services", &named).await.expect(201);
    let service = json!({"metadata": {"name": NAME}, "spec": {"group": "wardle.example.com", "version": "v1alpha1",
        "groupPriorityMinimum": 2000, "versionPriority": 200, "insecureSkipTLSVerify": true,
        "service": {"namespace": "default", "name": "aggregated", "port": backend.port}}});
    s.post(SERVICES, &service).await.expect(201);
    until(&s, "True", "Passed").await;
    let has_group =
        |list: Value| list["groups"].as_array().unwrap().iter().any(|g| g["name"] == "wardle.example.com");
    assert!(has_group(s.get("/apis").await.expect(200)));
    assert_eq!(
        s.get("/apis/wardle.example.com").await.expect(200)["preferredVersion"]["version"],
        "v1alpha1"
    );
    assert_eq!(s.get(ROOT).await.expect(200)["resources"][0]["name"], "flunders");
    let accept = ["accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"];
    let all = s.raw("GET", "/apis", &accept, "").await.expect(200);
    let group =
        all["items"].as_array().unwrap().iter().find(|i| i["metadata"]["name"] == "wardle.example.com");
    let resource = &group.expect("aggregated discovery has the group")["versions"][0]["resources"][0];
    assert_eq!((&resource["resource"], &resource["shortNames"]), (&json!("flunders"), &json!(["fl"])));
    assert_eq!(resource["subresources"][0]["subresource"], "status");
    s.get("/openapi/v3").await.expect(200);
    s.get("/openapi/v2").await.expect(200);
    s.delete(&format!("{SERVICES}/{NAME}")).await.expect(200);
    for _ in 0..200 {
        if !has_group(s.get("/apis").await.expect(200)) {
            assert_eq!(s.get(ROOT).await.status, 404);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the group never went");
}
