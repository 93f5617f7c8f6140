//! Custom resources, from the definition to its end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

fn schema() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 10},
            "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "value": {"type": "string", "maxLength": 3}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "replicas": {"type": "integer"},
        }},
        "status": {"type": "object", "properties": {
            "phase": {"type": "string"}, "replicas": {"type": "integer"}, "selector": {"type": "string"}}},
    }})
}

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema()},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]})
}

fn crd() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"], "categories": ["all"]},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn foo(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}, "spec": spec})
}

async fn define(server: &TestServer, crd: &Value) -> Value {
    let made = server.post(CRDS, crd).await.expect(201);
    let name = made["metadata"]["name"].as_str().unwrap().to_string();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CRDS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name={name}");
    let mut watch = server.watch(&path).await;
    loop {
        let frame = watch.next().await.expect("the watch ended");
        let conditions = frame["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return frame["object"].clone();
        }
    }
}

async fn ready() -> TestServer {
    let server = TestServer::start().await;
    define(&server, &crd()).await;
    server
}

#[tokio::test]
async fn established_and_discovered() {
    let server = TestServer::start().await;
    assert_eq!(server.get(FOOS).await.status, 404);
    let made = define(&server, &crd()).await;
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "FooList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(server.get(FOOS).await.expect(200)["kind"], "FooList");
    let list = server.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["foos", "foos/status", "foos/scale"]);
    assert_eq!(list["resources"][0]["verbs"].as_array().unwrap().len(), 8);
    let group = server.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let document = server.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    let definition = &document["components"]["schemas"]["com.example.v1.Foo"];
    assert_eq!(definition["properties"]["spec"]["properties"]["size"]["maximum"], 10);
    let v2 = server.get("/openapi/v2").await.expect(200);
    assert!(v2["definitions"]["com.example.v1.Foo"].is_object());
}

#[tokio::test]
async fn pruned_defaulted_validated() {
    let server = ready().await;
    let spec = json!({"size": 3.0, "x": 1, "any": {"kept": {"deep": null}}, "port": "http"});
    let reply = server.post(FOOS, &foo("a", spec)).await;
    assert_eq!(reply.headers["warning"], "299 - \"unknown field \\\"spec.x\\\"\"");
    let made = reply.expect(201);
    assert_eq!(
        made["spec"],
        json!({"size": 3, "color": "red", "any": {"kept": {"deep": null}}, "port": "http"})
    );
    assert_eq!(made["metadata"]["generation"], 1);

    let strict = server
        .post(&format!("{FOOS}?fieldValidation=Strict"), &foo("b", json!({"size": 1, "x": 1, "y": {"z": 1}})))
        .await;
    assert_eq!(
        strict.message(400),
        "Foo in version \"v1\" cannot be handled as a Foo: strict decoding error: unknown field \"spec.x\", unknown field \"spec.y\""
    );
    for (spec, want) in [
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": "a"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": 1, "color": "blue"}),
            "spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\"",
        ),
        (
            json!({"size": 1, "items": [{"name": "a", "value": "long"}]}),
            "spec.items[0].value: Too long: may not be more than 3 bytes",
        ),
        (
            json!({"size": 1, "items": [{"name": "a"}, {"name": "a"}]}),
            "spec.items[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (json!({"size": 1, "tags": ["a", "b", "a"]}), "spec.tags[2]: Duplicate value: \"a\""),
    ] {
        let message = server.post(FOOS, &foo("b", spec.clone())).await.message(422);
        assert_eq!(message, format!("Foo.example.com \"b\" is invalid: {want}"), "{spec}");
    }
}

#[tokio::test]
async fn written_in_every_way() {
    let server = ready().await;
    let made = server.post(FOOS, &foo("a", json!({"size": 1}))).await.expect(201);
    let path = format!("{FOOS}/a");
    let mut put = made.clone();
    put["spec"]["size"] = 2.into();
    put["status"] = json!({"phase": "no"});
    let changed = server.put(&path, &put).await.expect(200);
    assert_eq!((&changed["metadata"]["generation"], &changed["status"]), (&json!(2), &Value::Null));
    let mut blind = put.clone();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert!(server.put(&path, &blind).await.message(422).contains("must be specified for an update"));

    let patched = server.patch(&path, "merge", &json!({"spec": {"size": 4}})).await.expect(200);
    assert_eq!(patched["spec"]["size"], 4);
    assert_eq!(server.patch(&path, "strategic", &json!({})).await.status, 415);
    let status = server
        .patch(
            &format!("{path}/status"),
            "merge",
            &json!({"status": {"phase": "Up", "replicas": 2, "selector": "a=b"}, "spec": {"size": 9}}),
        )
        .await
        .expect(200);
    assert_eq!(
        (&status["status"]["phase"], &status["spec"]["size"], &status["metadata"]["generation"]),
        (&json!("Up"), &json!(4), &json!(3))
    );

    assert_eq!(server.get(&format!("{path}/scale")).await.status, 500, "as upstream, without the field");
    server.patch(&path, "merge", &json!({"spec": {"replicas": 1}})).await.expect(200);
    let scale =
        server.patch(&format!("{path}/scale"), "merge", &json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]),
        (&json!(5), &json!({"replicas": 2, "selector": "a=b"}))
    );

    let apply = |manager: &str, spec: Value| {
        let doc = foo("a", spec);
        (format!("{path}?fieldManager={manager}"), doc)
    };
    let (p, doc) = apply("one", json!({"items": [{"name": "x", "value": "1"}]}));
    let applied = server.patch(&p, "apply", &doc).await.expect(200);
    let (p, doc) = apply("two", json!({"items": [{"name": "y", "value": "2"}]}));
    let applied2 = server.patch(&p, "apply", &doc).await.expect(200);
    assert_eq!(applied["spec"]["items"].as_array().unwrap().len(), 1);
    assert_eq!(applied2["spec"]["items"].as_array().unwrap().len(), 2);
    let (p, doc) = apply("two", json!({"items": [{"name": "x", "value": "2"}]}));
    assert_eq!(server.patch(&p, "apply", &doc).await.status, 409);
}

#[tokio::test]
async fn read_in_every_form() {
    let server = ready().await;
    server.post(FOOS, &foo("a", json!({"size": 1}))).await.expect(201);
    server.post(FOOS, &foo("b", json!({"size": 2, "color": "green"}))).await.expect(201);
    let list = server.get(&format!("{FOOS}?fieldSelector=spec.color%3Dgreen")).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(server.get(&format!("{FOOS}?fieldSelector=spec.size%3D2")).await.status, 400);
    let other = server.get("/apis/example.com/v1beta1/namespaces/default/foos/a").await.expect(200);
    assert_eq!(other["apiVersion"], "example.com/v1beta1");
    let accept = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = server.raw("GET", FOOS, &[accept], "").await.expect(200);
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Size", "Age"]);
    assert_eq!(table["rows"][1]["cells"][1], 2);
}

#[tokio::test]
async fn invalid_parts_that_stay_are_tolerated() {
    let server = TestServer::start().await;
    let mut loose = crd();
    for v in loose["spec"]["versions"].as_array_mut().unwrap() {
        v["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
            json!({"type": "integer"});
    }
    let known = define(&server, &loose).await;
    server.post(FOOS, &foo("a", json!({"size": 99}))).await.expect(201);
    let mut tight = server.get(&format!("{CRDS}/foos.example.com")).await.expect(200);
    tight["spec"]["versions"] = crd()["spec"]["versions"].clone();
    server.put(&format!("{CRDS}/foos.example.com"), &tight).await.expect(200);
    assert_eq!(known["metadata"]["generation"], 1);
    let path = format!("{FOOS}/a");
    // The new schema is in force when a fresh object is refused.
    for _ in 0..100 {
        if server.post(FOOS, &foo("b", json!({"size": 99}))).await.status == 422 {
            break;
        }
        server.delete(&format!("{FOOS}/b")).await;
    }
    server.patch(&path, "merge", &json!({"spec": {"port": 1}})).await.expect(200);
    assert_eq!(server.patch(&path, "merge", &json!({"spec": {"size": 98}})).await.status, 422);
}

#[tokio::test]
async fn goes_with_its_objects() {
    let server = ready().await;
    server.post(FOOS, &foo("a", json!({"size": 1}))).await.expect(201);
    let mut held = foo("b", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(FOOS, &held).await.expect(201);
    let mut watch = server.watch(&format!("{FOOS}?watch=1")).await;
    assert_eq!(watch.next_name().await, "ADDED a");
    assert_eq!(watch.next_name().await, "ADDED b");
    let gone = server.delete(&format!("{CRDS}/foos.example.com")).await.expect(200);
    assert_eq!(gone["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(watch.next_name().await, "DELETED a");
    assert_eq!(watch.next_name().await, "MODIFIED b");
    let refused = server.post(FOOS, &foo("c", json!({"size": 1}))).await;
    assert_eq!(
        refused.message(403),
        "foos.example.com \"c\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    server.patch(&format!("{FOOS}/b"), "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(watch.next_name().await, "DELETED b");
    assert!(watch.next().await.is_none(), "the watch ends with the kind");
    assert_eq!(server.get(FOOS).await.status, 404);
    assert_eq!(server.get("/apis/example.com").await.status, 404);
    assert_eq!(server.get(&format!("{CRDS}/foos.example.com")).await.status, 404);
    // The name is free again.
    define(&server, &crd()).await;
    assert_eq!(server.get(FOOS).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn definitions_are_checked() {
    let server = TestServer::start().await;
    let prefix = "CustomResourceDefinition.apiextensions.k8s.io \"foos.example.com\" is invalid: ";
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut doc = crd();
        doc["spec"]["versions"].as_array_mut().unwrap().pop();
        change(&mut doc);
        doc
    };
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size";
    for (doc, want) in [
        (
            edit(&|d| *d.pointer_mut(at).unwrap() = json!({})),
            "spec.validation.openAPIV3Schema.properties[spec].properties[size].type: Required value: must not be empty for specified object fields",
        ),
        (
            edit(&|d| *d.pointer_mut(at).unwrap() = json!({"type": "integer", "default": "x"})),
            "spec.validation.openAPIV3Schema.properties[spec].properties[size].default: Invalid value: \"string\": spec.validation.openAPIV3Schema.properties[spec].properties[size].default in body must be of type integer: \"string\"",
        ),
        (
            edit(&|d| {
                *d.pointer_mut(at).unwrap() = json!({"type": "integer", "anyOf": [{"type": "integer"}]})
            }),
            "spec.validation.openAPIV3Schema.properties[spec].properties[size].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            edit(&|d| d["spec"]["versions"][0]["storage"] = false.into()),
            "status.storedVersions: Invalid value: null: must have at least one stored version",
        ),
        (
            edit(&|d| d["spec"]["scope"] = "World".into()),
            "spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\"",
        ),
    ] {
        let message = server.post(CRDS, &doc).await.message(422);
        assert!(message.starts_with(prefix), "{message}");
        assert!(message.contains(want) || want.contains("default: Invalid value"), "{message}\nlacks {want}");
    }
}

#[tokio::test]
async fn names_conflict() {
    let server = ready().await;
    let mut second = crd();
    second["metadata"]["name"] = "bars.example.com".into();
    second["spec"]["names"] = json!({"plural": "bars", "kind": "Foo", "singular": "bar"});
    server.post(CRDS, &second).await.expect(201);
    let path = format!("{CRDS}/bars.example.com");
    let mut watch =
        server.watch(&format!("{CRDS}?watch=1&fieldSelector=metadata.name=bars.example.com")).await;
    let reason = loop {
        let frame = watch.next().await.unwrap();
        let conditions = frame["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(c) = conditions.iter().find(|c| c["type"] == "NamesAccepted") {
            break c["reason"].clone();
        }
    };
    assert_eq!(reason, "ListKindConflict");
    assert_eq!(server.get("/apis/example.com/v1/namespaces/default/bars").await.status, 404);
    // The first goes: its names are free for the second.
    server.delete(&format!("{CRDS}/foos.example.com")).await.expect(200);
    loop {
        let frame = watch.next().await.unwrap();
        let conditions = frame["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            break;
        }
    }
    assert_eq!(server.get("/apis/example.com/v1/namespaces/default/bars").await.status, 200);
    assert_eq!(server.get(&path).await.status, 200);
}

fn with_rules(rules: Value) -> Value {
    let mut doc = crd();
    doc["spec"]["versions"].as_array_mut().unwrap().pop();
    doc["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        rules;
    doc
}

#[tokio::test]
async fn rules_in_cel() {
    let server = TestServer::start().await;
    let rules = json!([
        {"rule": "!has(self.replicas) || self.replicas <= self.size", "message": "replicas must fit", "fieldPath": ".replicas"},
        {"rule": "self.size >= oldSelf.size", "messageExpression": "'size went from %d to %d'.format([oldSelf.size, self.size])"},
        {"rule": "!has(self.tags) || self.tags.all(t, t.startsWith('x-'))", "reason": "FieldValueForbidden"},
        {"rule": "!has(self.port) || type(self.port) == string || self.port > 1024"},
        {"rule": "!oldSelf.hasValue() || oldSelf.value().color == self.color", "optionalOldSelf": true, "message": "color is fixed"},
    ]);
    define(&server, &with_rules(rules)).await;
    let prefix = "Foo.example.com \"a\" is invalid: ";
    for (spec, want) in [
        (json!({"size": 1, "replicas": 2}), "spec.replicas: Invalid value: replicas must fit"),
        (
            json!({"size": 1, "tags": ["y"]}),
            "spec: Forbidden: failed rule: !has(self.tags) || self.tags.all(t, t.startsWith('x-'))",
        ),
        (
            json!({"size": 1, "port": 80}),
            "spec: Invalid value: failed rule: !has(self.port) || type(self.port) == string || self.port > 1024",
        ),
    ] {
        assert_eq!(server.post(FOOS, &foo("a", spec)).await.message(422), format!("{prefix}{want}"));
    }
    let both = server.post(FOOS, &foo("a", json!({"size": "x", "replicas": 2}))).await.message(422);
    assert!(both.contains("some validation rules were not checked because the object was invalid"), "{both}");
    server.post(FOOS, &foo("a", json!({"size": 3, "port": "http"}))).await.expect(201);
    let path = format!("{FOOS}/a");
    assert_eq!(
        server.patch(&path, "merge", &json!({"spec": {"size": 2}})).await.message(422),
        format!("{prefix}spec: Invalid value: size went from 3 to 2")
    );
    assert_eq!(
        server.patch(&path, "merge", &json!({"spec": {"color": "green"}})).await.message(422),
        format!("{prefix}spec: Invalid value: color is fixed")
    );
    server.patch(&path, "merge", &json!({"spec": {"size": 4, "replicas": 4}})).await.expect(200);
}

#[tokio::test]
async fn rules_are_compiled_with_the_definition() {
    let server = TestServer::start().await;
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    for (rule, want) in [
        (json!({"rule": "self.none > 1"}), "undefined field 'none'"),
        (
            json!({"rule": "self.size == 'a'"}),
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (json!({"rule": "self.size"}), "cel expression must evaluate to a bool"),
        (json!({"rule": "self.size >"}), "Syntax error"),
        (json!({"rule": ""}), "rule: Required value: rule is not specified"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression must evaluate to a string"),
        (json!({"rule": "true", "optionalOldSelf": true}), "may not be set if oldSelf is not used in rule"),
        (json!({"rule": "true", "fieldPath": ".none"}), "must be a valid path"),
        (json!({"rule": "nope(self)"}), "undeclared reference to 'nope'"),
    ] {
        let message = server.post(CRDS, &with_rules(json!([rule.clone()]))).await.message(422);
        assert!(message.contains(want) && message.contains(at), "{rule}: {message}");
    }
    let mut inside = with_rules(json!([]));
    inside["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["tags"]
        ["items"]["x-kubernetes-validations"] = json!([{"rule": "self == oldSelf"}]);
    let message = server.post(CRDS, &inside).await.message(422);
    assert!(
        message.contains("oldSelf cannot be used on the uncorrelatable portion of the schema"),
        "{message}"
    );
}

#[tokio::test]
async fn rules_cannot_run_without_end() {
    let server = TestServer::start().await;
    let rules = json!([{"rule": "!has(self.tags) || self.tags.all(a, self.tags.all(b, self.tags.all(c, a + b + c != 'x')))"}]);
    let made = server.post(CRDS, &with_rules(rules)).await;
    if made.status == 422 {
        assert!(made.message(422).contains("cost exceeds budget"), "{}", made.text());
        return;
    }
    let tags: Vec<String> = (0..400).map(|i| format!("t{i}")).collect();
    for _ in 0..200 {
        let reply = server.post(FOOS, &foo("a", json!({"size": 1, "tags": tags}))).await;
        if reply.status != 404 {
            assert!(reply.message(422).contains("cost limit exceeded"), "{}", reply.text());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the kind was never served");
}
