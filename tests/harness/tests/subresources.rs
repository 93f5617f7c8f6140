//! status, scale, binding, eviction, finalize, token; services; namespaces; pods that go with grace.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment() -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn status_generation_and_scale() {
    let s = TestServer::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let mut object = deployment();
    object["status"] = json!({"replicas": 9});
    let made = s.post(DEPLOYMENTS, &object).await.expect(201);
    assert_eq!(
        (made["metadata"]["generation"].as_i64(), made["status"]["replicas"].as_i64()),
        (Some(1), None)
    );
    let told = s
        .patch(
            &format!("{path}/status"),
            "merge",
            &json!({"status": {"replicas": 2}, "spec": {"replicas": 7}}),
        )
        .await
        .expect(200);
    assert_eq!((told["spec"]["replicas"].as_i64(), told["status"]["replicas"].as_i64()), (Some(2), Some(2)));
    assert_eq!(told["metadata"]["generation"], 1);
    let changed = s
        .patch(&path, "merge", &json!({"spec": {"replicas": 3}, "status": {"replicas": 5}}))
        .await
        .expect(200);
    assert_eq!(
        (changed["metadata"]["generation"].as_i64(), changed["status"]["replicas"].as_i64()),
        (Some(2), Some(2))
    );

    let scale = s.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"], json!({"replicas": 3}));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 4.into();
    assert_eq!(s.put(&format!("{path}/scale"), &wanted).await.expect(200)["spec"]["replicas"], 4);
    assert_eq!(s.put(&format!("{path}/scale"), &wanted).await.status, 409);
    let patched =
        s.patch(&format!("{path}/scale"), "merge", &json!({"spec": {"replicas": 0}})).await.expect(200);
    assert_eq!(patched["spec"], json!({}));
    assert_eq!(s.get(&path).await.expect(200)["spec"]["replicas"], 0);
    wanted["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let mut another = wanted.clone();
    another["metadata"]["uid"] = "another".into();
    let refused = s.put(&format!("{path}/scale"), &another).await.message(409);
    assert!(refused.contains("UID in precondition: another"), "{refused}");
    wanted["spec"]["replicas"] = (-1).into();
    assert!(
        s.put(&format!("{path}/scale"), &wanted)
            .await
            .message(422)
            .contains("must be greater than or equal to 0")
    );

    // Strategic merge finds containers by name.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "new"}]}}}});
    let patched = s.patch(&path, "strategic", &image).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["image"], "new");
    let bad = s.patch(&format!("{path}?fieldValidation=Strict"), "merge", &json!({"spec": {"foo": 1}})).await;
    assert!(bad.message(422).contains("strict decoding error: unknown field \"spec.foo\""), "{}", bad.text());
}

#[tokio::test]
async fn binding_grace_and_eviction() {
    let s = TestServer::start().await;
    s.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    s.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let bound = s.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = s.post(&format!("{PODS}/p/binding"), &binding).await;
    assert!(again.message(409).contains("pod p is already assigned to node \"n\""), "{}", again.text());

    let path = format!("{PODS}/p");
    s.patch(&format!("{path}/status"), "merge", &json!({"status": {"phase": "Running"}})).await.expect(200);
    let going = s.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(
        s.get(&path).await.expect(200)["metadata"]["deletionTimestamp"],
        going["metadata"]["deletionTimestamp"]
    );
    // A longer grace changes nothing, a shorter one does, none removes.
    let same = s.raw("DELETE", &format!("{path}?gracePeriodSeconds=60"), &[], "").await.expect(200);
    assert_eq!(same["metadata"]["deletionGracePeriodSeconds"], 30);
    let sooner = s.raw("DELETE", &format!("{path}?gracePeriodSeconds=5"), &[], "").await.expect(200);
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    s.raw("DELETE", &format!("{path}?gracePeriodSeconds=0"), &[], "").await.expect(200);
    assert_eq!(s.get(&path).await.status, 404);

    // A disruption budget allows one, then none.
    for name in ["a", "b"] {
        s.post(PODS, &pod(name)).await.expect(201);
        let running =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        s.patch(&format!("{PODS}/{name}/status"), "merge", &running).await.expect(200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    s.post(budgets, &budget).await.expect(201);
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    s.patch(&format!("{budgets}/b/status"), "merge", &status).await.expect(200);
    let evict = |name: &str| json!({"metadata": {"name": name}, "deleteOptions": {"gracePeriodSeconds": 0}});
    s.post(&format!("{PODS}/a/eviction"), &evict("a")).await.expect(201);
    assert_eq!(s.get(&format!("{PODS}/a")).await.status, 404);
    let refused = s.post(&format!("{PODS}/b/eviction"), &evict("b")).await;
    assert_eq!(refused.message(429), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "DisruptionBudget");
}

#[tokio::test]
async fn namespaces_go_when_they_are_finalized() {
    let s = TestServer::start().await;
    let made = s.post("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let going = s.delete("/api/v1/namespaces/x").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let mut done = s.get("/api/v1/namespaces/x").await.expect(200);
    done["spec"]["finalizers"] = json!([]);
    s.put("/api/v1/namespaces/x/finalize", &done).await.expect(200);
    assert_eq!(s.get("/api/v1/namespaces/x").await.status, 404);
}

#[tokio::test]
async fn services_get_addresses() {
    let s = TestServer::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = s.post(services, &service).await.expect(201);
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_string();
    assert!(address.starts_with("10.43."), "{address}");
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    let plain =
        s.patch(&format!("{services}/s"), "merge", &json!({"spec": {"type": "ClusterIP"}})).await.expect(200);
    assert_eq!(plain["spec"]["clusterIP"].as_str(), Some(address.as_str()));
    let moved =
        s.patch(&format!("{services}/s"), "merge", &json!({"spec": {"clusterIP": "10.43.77.77"}})).await;
    assert_eq!(moved.status, 422, "{}", moved.text());
    s.delete(&format!("{services}/s")).await.expect(200);
    let again = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": address, "ports": [{"port": 80}]}});
    s.post(services, &again).await.expect(201);
    let headless = json!({"metadata": {"name": "h"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}});
    assert_eq!(s.post(services, &headless).await.expect(201)["spec"]["clusterIPs"], json!(["None"]));
    let external =
        json!({"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    assert!(s.post(services, &external).await.expect(201)["spec"].get("clusterIP").is_none());
}

#[tokio::test]
async fn tokens_and_admission() {
    let s = TestServer::start_with_auth().await;
    let refused = s.post("/api/v1/namespaces/none/configmaps", &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.message(404), "namespaces \"none\" not found");
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    s.post(accounts, &json!({"metadata": {"name": "default"}})).await.expect(201);
    let made = s.post(PODS, &pod("p")).await.expect(201);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert!(made["spec"].get("initContainers").is_none());
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
    let token = s.post(&format!("{accounts}/default/token"), &bound).await.expect(201);
    let token = token["status"]["token"].as_str().unwrap().to_string();
    let bearer = format!("authorization: Bearer {token}");
    let who = s
        .raw_as(None, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &[&bearer], "{}")
        .await
        .expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    let review = s
        .post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": token}}))
        .await
        .expect(201);
    assert_eq!(review["status"]["authenticated"], true);
    // The token dies with its pod.
    s.raw("DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), &[], "").await.expect(200);
    assert_eq!(s.raw_as(None, "GET", "/api", &[&bearer], "").await.status, 401);
    assert_eq!(s.raw_as(None, "GET", "/api", &["authorization: Bearer x"], "").await.status, 401);
    assert!(s.get("/openid/v1/jwks").await.json()["keys"][0].is_object());
    let table = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    assert_eq!(s.raw("POST", path, &[table], body).await.status, 406);
}
