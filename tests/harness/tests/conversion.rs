//! Conversion webhooks of custom resources, over real TLS on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use knarr_harness::webhook::WebhookServer;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.com/v1/namespaces/default/foos";
const V2: &str = "/apis/example.com/v2/namespaces/default/foos";

/// v1 has `hostPort`, v2 `host` and `port`.
fn convert(_: &str, review: &Value) -> Value {
    let request = &review["request"];
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let one = |object: &Value| {
        let mut object = object.clone();
        assert_ne!(object["apiVersion"], wanted, "what has the version already is not sent");
        object["apiVersion"] = wanted.into();
        let map = object.as_object_mut().unwrap();
        if wanted.ends_with("/v2") {
            let joined = map.remove("hostPort").unwrap_or_default();
            let (host, port) = joined.as_str().unwrap_or("").split_once(':').unwrap_or_default();
            let (host, port) = (host.to_string(), port.to_string());
            map.insert("host".into(), host.into());
            map.insert("port".into(), port.into());
        } else {
            let text = |v: Option<Value>| v.unwrap_or_default().as_str().unwrap_or("").to_string();
            let joined = format!("{}:{}", text(map.remove("host")), text(map.remove("port")));
            map.insert("hostPort".into(), joined.into());
        }
        object["metadata"]["generation"] = 99.into();
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(one).collect();
    json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": {
        "uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}})
}

fn crd(hooks: &WebhookServer, stored: &str) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|f| ((*f).to_string(), text.clone())).collect();
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": name == stored, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])],
        "conversion": {"strategy": "Webhook",
            "webhook": {"clientConfig": hooks.client("/convert"), "conversionReviewVersions": ["v1"]}}}})
}

async fn defined(stored: &str) -> (TestServer, WebhookServer) {
    let (s, hooks) = (TestServer::start().await, WebhookServer::start(convert).await);
    s.post(CRDS, &crd(&hooks, stored)).await.expect(201);
    for _ in 0..200 {
        if s.get(V1).await.status == 200 && s.get(V2).await.status == 200 {
            return (s, hooks);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the definition was never established");
}

fn v1(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}, "hostPort": "localhost:80"})
}

fn is_v2(object: &Value) {
    assert_eq!((&object["host"], &object["port"]), (&json!("localhost"), &json!("80")), "{object}");
    assert_eq!(object["apiVersion"], "example.com/v2", "{object}");
    assert_eq!(
        (&object["hostPort"], &object["metadata"]["generation"]),
        (&Value::Null, &json!(1)),
        "{object}"
    );
}

#[tokio::test]
async fn every_verb_in_every_version() {
    let (s, hooks) = defined("v1").await;
    let made = s.post(V1, &v1("a")).await.expect(201);
    assert_eq!((&made["hostPort"], made["host"].is_null()), (&json!("localhost:80"), true));
    assert!(hooks.calls().is_empty(), "nobody is asked where nothing is converted");
    is_v2(&s.get(&format!("{V2}/a")).await.expect(200));
    let patched = s.patch(&format!("{V2}/a"), "merge", &json!({"port": "81"})).await.expect(200);
    assert_eq!((&patched["host"], &patched["port"]), (&json!("localhost"), &json!("81")));
    assert_eq!(s.get(&format!("{V1}/a")).await.expect(200)["hostPort"], "localhost:81");
    let mut whole = patched.clone();
    whole["port"] = "80".into();
    is_v2_but_generation(&s.put(&format!("{V2}/a"), &whole).await.expect(200));
    let gone = s.delete(&format!("{V2}/a")).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(s.get(&format!("{V1}/a")).await.status, 404);
}

fn is_v2_but_generation(object: &Value) {
    assert_eq!((&object["host"], &object["port"]), (&json!("localhost"), &json!("80")), "{object}");
}

#[tokio::test]
async fn lists_of_mixed_versions() {
    let (s, hooks) = defined("v1").await;
    s.post(V1, &v1("a")).await.expect(201);
    let mut changed = s.get(&format!("{CRDS}/foos.example.com")).await.expect(200);
    changed["spec"] = crd(&hooks, "v2")["spec"].clone();
    s.put(&format!("{CRDS}/foos.example.com"), &changed).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    s.post(V1, &v1("b")).await.expect(201);
    let list = s.get(V1).await.expect(200);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert!(
        items.iter().all(|i| i["hostPort"] == "localhost:80" && i["apiVersion"] == "example.com/v1"),
        "{list}"
    );
    let list = s.get(V2).await.expect(200);
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    items.iter().for_each(is_v2);
    let table =
        s.raw("GET", V2, &["accept: application/json;as=Table;v=v1;g=meta.k8s.io"], "").await.expect(200);
    assert_eq!(table["rows"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn fields_are_those_of_the_version() {
    let (s, _hooks) = defined("v1").await;
    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_string()).collect()
    };
    let mut watch = s.watch(&format!("{V2}?watch=1&fieldSelector=host=h1,port=80")).await;
    let mut joined = s.watch(&format!("{V1}?watch=1&fieldSelector=hostPort=h1:80")).await;
    for (name, host, port) in [("a", "h1", "80"), ("b", "h1", "81"), ("c", "h2", "80")] {
        let object = json!({"apiVersion": "example.com/v2", "kind": "Foo", "metadata": {"name": name},
            "host": host, "port": port});
        s.post(V2, &object).await.expect(201);
    }
    assert_eq!(names(s.get(&format!("{V2}?fieldSelector=host=h1")).await.expect(200)), ["a", "b"]);
    assert_eq!(names(s.get(&format!("{V1}?fieldSelector=hostPort=h1:81")).await.expect(200)), ["b"]);
    let page = s.get(&format!("{V2}?fieldSelector=host=h1&limit=1")).await.expect(200);
    assert_eq!(names(page.clone()), ["a"]);
    let next = page["metadata"]["continue"].as_str().unwrap();
    let rest = s.get(&format!("{V2}?fieldSelector=host=h1&limit=1&continue={next}")).await.expect(200);
    assert_eq!(names(rest), ["b"]);
    assert_eq!((watch.next_name().await.as_str(), joined.next_name().await.as_str()), ("ADDED a", "ADDED a"));
    s.patch(&format!("{V2}/a"), "merge", &json!({"host": "h3"})).await.expect(200);
    assert_eq!(
        (watch.next_name().await.as_str(), joined.next_name().await.as_str()),
        ("DELETED a", "DELETED a")
    );
    s.delete(&format!("{V2}?fieldSelector=host=h1")).await.expect(200);
    assert_eq!(names(s.get(V2).await.expect(200)), ["a", "c"]);
}

#[tokio::test]
async fn a_webhook_that_fails_is_told() {
    let (s, hooks) = defined("v1").await;
    s.post(V1, &v1("a")).await.expect(201);
    drop(hooks);
    let message = s.get(&format!("{V2}/a")).await.message(500);
    assert!(
        message
            .starts_with("conversion webhook for example.com/v1, Kind=Foo failed: Post \"https://localhost"),
        "{message}"
    );
    // The definition goes all the same, and its objects with it.
    s.delete(&format!("{CRDS}/foos.example.com")).await.expect(200);
    for _ in 0..200 {
        if s.get(&format!("{CRDS}/foos.example.com")).await.status == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the definition never went");
}
