//! The verbs, over HTTP, on a memory datastore.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn create_get_update_patch_delete() {
    let s = TestServer::start().await;
    let made = s.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(made["metadata"]["uid"].as_str().unwrap().len() == 36);
    assert!(made["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let path = format!("{MAPS}/a");
    assert_eq!(s.get(&path).await.expect(200), made);
    assert_eq!(s.post(MAPS, &map("a", json!({}))).await.message(409), "configmaps \"a\" already exists");

    let mut changed = made.clone();
    changed["data"]["k"] = "w".into();
    let updated = s.put(&path, &changed).await.expect(200);
    assert_eq!(updated["data"]["k"], "w");
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(
        s.put(&path, &changed).await.message(409),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // A write that changes nothing is none.
    let same = s.put(&path, &updated).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], updated["metadata"]["resourceVersion"]);

    let patched = s.patch(&path, "merge", &json!({"data": {"k": null, "n": "1"}})).await.expect(200);
    assert_eq!(patched["data"], json!({"n": "1"}));
    let patched =
        s.patch(&path, "json", &json!([{"op": "add", "path": "/data/x", "value": "y"}])).await.expect(200);
    assert_eq!(patched["data"], json!({"n": "1", "x": "y"}));

    let gone = s.delete(&path).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    assert_eq!(s.get(&path).await.message(404), "configmaps \"a\" not found");
    assert_eq!(s.delete(&path).await.status, 404);
}

#[tokio::test]
async fn generate_name_and_dry_run() {
    let s = TestServer::start().await;
    let mut object = map("", json!({}));
    object["metadata"] = json!({"generateName": "gen-"});
    let a = s.post(MAPS, &object).await.expect(201);
    let name = a["metadata"]["name"].as_str().unwrap().to_string();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    s.post(&format!("{MAPS}?dryRun=All"), &map("dry", json!({}))).await.expect(201);
    assert_eq!(s.get(&format!("{MAPS}/dry")).await.status, 404);
    s.raw("DELETE", &format!("{MAPS}/{name}?dryRun=All"), &[], "").await.expect(200);
    s.get(&format!("{MAPS}/{name}")).await.expect(200);
    assert_eq!(s.post(&format!("{MAPS}?dryRun=x"), &map("dry", json!({}))).await.status, 422);
}

#[tokio::test]
async fn lists_and_pages() {
    let s = TestServer::start().await;
    for i in 0..5 {
        let mut object = map(&format!("m{i}"), json!({}));
        object["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        s.post(MAPS, &object).await.expect(201);
    }
    let all = s.get(MAPS).await.expect(200);
    assert_eq!((all["kind"].as_str(), all["items"].as_array().unwrap().len()), (Some("ConfigMapList"), 5));
    assert!(all["items"][0].get("kind").is_none());
    let odd = s.get(&format!("{MAPS}?labelSelector=odd%3Dtrue")).await.expect(200);
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
    let one = s.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm3")).await.expect(200);
    assert_eq!(one["items"][0]["metadata"]["name"], "m3");
    assert_eq!(s.get(&format!("{MAPS}?fieldSelector=foo%3Dm3")).await.status, 400);

    let first = s.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap().to_string();
    // What comes later does not show in the pages of the first list.
    s.post(MAPS, &map("m21", json!({}))).await.expect(201);
    let second = s.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let names: Vec<&str> =
        second["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m2", "m3"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = s.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(third["items"].as_array().unwrap().len(), 1);
    assert!(third["metadata"].get("continue").is_none());

    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact =
        s.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(exact["items"].as_array().unwrap().len(), 5);
    let newer = s
        .get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan"))
        .await
        .expect(200);
    assert_eq!(newer["items"].as_array().unwrap().len(), 6);
    let future = s.get(&format!("{MAPS}?resourceVersion=99999")).await;
    assert!(
        future.message(504).contains("Too large resource version: 99999, current: "),
        "{}",
        future.text()
    );
    assert_eq!(s.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.status, 422);
    assert_eq!(s.get(&format!("{MAPS}?continue=abc")).await.status, 400);
}

#[tokio::test]
async fn tokens_of_forgotten_states_end() {
    let store = knarr_datastore::Datastore::open("memory://").await.unwrap();
    let s = TestServer::start_on(store.clone()).await;
    for name in ["a", "b", "c"] {
        s.post(MAPS, &map(name, json!({}))).await.expect(201);
    }
    let first = s.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap().to_string();
    // No map changes any more: the state is forgotten all the same.
    s.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "later"}})).await.expect(201);
    s.get(&format!("{MAPS}?limit=1&continue={token}")).await.expect(200);
    store.compact(store.revision()).await.unwrap();
    let gone = s.get(&format!("{MAPS}?limit=1&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    let next = gone["metadata"]["continue"].as_str().unwrap();
    let second = s.get(&format!("{MAPS}?limit=1&continue={next}")).await.expect(200);
    assert_eq!(second["items"][0]["metadata"]["name"], "b");
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn watches() {
    let s = TestServer::start().await;
    s.post(MAPS, &map("old", json!({}))).await.expect(201);
    let version = s.get(MAPS).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut since = s.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    let mut state = s.watch(&format!("{MAPS}?watch=1")).await;
    let mut streaming = s
        .watch(&format!(
            "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ))
        .await;
    let mut labelled =
        s.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&labelSelector=x%3Dy")).await;
    assert_eq!(state.next_name().await, "ADDED old");
    assert_eq!(streaming.next_name().await, "ADDED old");
    let bookmark = streaming.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");

    s.post(MAPS, &map("new", json!({}))).await.expect(201);
    let path = format!("{MAPS}/new");
    s.patch(&path, "merge", &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    s.patch(&path, "merge", &json!({"data": {"a": "b"}})).await.expect(200);
    s.patch(&path, "merge", &json!({"metadata": {"labels": {"x": null}}})).await.expect(200);
    s.delete(&path).await.expect(200);
    for stream in [&mut since, &mut state, &mut streaming] {
        for want in ["ADDED new", "MODIFIED new", "MODIFIED new", "MODIFIED new", "DELETED new"] {
            assert_eq!(stream.next_name().await, want);
        }
    }
    for want in ["ADDED new", "MODIFIED new", "DELETED new"] {
        assert_eq!(labelled.next_name().await, want);
    }
    let mut short = s.watch(&format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1")).await;
    let mut seen = 0;
    while short.next().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn finalizers_and_propagation() {
    let s = TestServer::start().await;
    let mut object = map("f", json!({}));
    object["metadata"]["finalizers"] = json!(["example.com/f"]);
    s.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/f");
    let marked = s.delete(&path).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    s.get(&path).await.expect(200);
    s.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(s.get(&path).await.status, 404);

    for (policy, finalizer) in [("Orphan", "orphan"), ("Foreground", "foregroundDeletion")] {
        s.post(MAPS, &map("p", json!({}))).await.expect(201);
        let path = format!("{MAPS}/p");
        let marked = s.raw("DELETE", &format!("{path}?propagationPolicy={policy}"), &[], "").await;
        assert_eq!(marked.json()["metadata"]["finalizers"], json!([finalizer]), "{policy}");
        s.patch(&path, "merge", &json!({"metadata": {"finalizers": []}})).await.expect(200);
    }
    let body = json!({"preconditions": {"uid": "x"}});
    s.post(MAPS, &map("p", json!({}))).await.expect(201);
    let refused = s.raw("DELETE", &format!("{MAPS}/p"), &[], body.to_string()).await;
    assert!(refused.message(409).contains("the UID in the precondition (x) does not match"));
}

#[tokio::test]
async fn refusals() {
    let s = TestServer::start().await;
    let check = async |method: &str, path: &str, headers: &[&str], body: &str, status: u16, text: &str| {
        let reply = s.raw(method, path, headers, body.to_string()).await;
        let message = reply.message(status);
        assert!(message.contains(text), "{method} {path}: {message}");
    };
    for path in ["/api/v1/nothing", "/nothing"] {
        let reply = s.get(path).await;
        assert_eq!((reply.status, reply.text().as_str()), (404, "404 page not found\n"), "{path}");
    }
    check(
        "PUT",
        "/api/v1/configmaps",
        &[],
        "",
        405,
        "the server does not allow this method on the requested resource",
    )
    .await;
    check(
        "POST",
        MAPS,
        &["content-type: text/plain"],
        "x",
        415,
        "the body of the request was in an unknown format",
    )
    .await;
    check(
        "PATCH",
        &format!("{MAPS}/a"),
        &["content-type: application/json"],
        "{}",
        415,
        "application/merge-patch+json",
    )
    .await;
    check("POST", MAPS, &[], "{", 400, "").await;
    check(
        "POST",
        MAPS,
        &[],
        &"x".repeat(3 * 1024 * 1024 + 1),
        413,
        "Request entity too large: limit is 3145728",
    )
    .await;
    check("GET", MAPS, &["accept: text/html"], "", 406, "only the following media types are accepted").await;
    check("POST", MAPS, &[], r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#, 400, "").await;
    check(
        "POST",
        MAPS,
        &[],
        r#"{"metadata":{"name":"a","namespace":"b"}}"#,
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    )
    .await;
    check("POST", MAPS, &[], r#"{"metadata":{}}"#, 422, "name or generateName is required").await;
    check(
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &[],
        r#"{"metadata":{"name":"a"},"foo":1}"#,
        400,
        "strict decoding error: unknown field \"foo\"",
    )
    .await;
    let warned = s.raw("POST", MAPS, &[], r#"{"metadata":{"name":"w"},"foo":1}"#).await;
    assert_eq!(warned.status, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"foo\\\"\"");
    assert_eq!(s.raw_as(None, "GET", MAPS, &[], "").await.message(401), "Unauthorized");
    assert_eq!(s.raw_as(None, "GET", "/readyz", &[], "").await.text(), "ok");
    let nobody = knarr_machinery::UserInfo::component("jane", &[]);
    let refused = s.raw_as(Some(nobody), "GET", MAPS, &[], "").await;
    assert_eq!(
        refused.message(403),
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn shapes() {
    let s = TestServer::start().await;
    s.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    let table =
        s.raw("GET", MAPS, &["accept: application/json;as=Table;v=v1;g=meta.k8s.io"], "").await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = s
        .raw(
            "GET",
            &format!("{MAPS}/a"),
            &["accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"],
            "",
        )
        .await
        .expect(200);
    assert_eq!((partial["kind"].as_str(), partial.get("data")), (Some("PartialObjectMetadata"), None));
    let pretty = s.raw("GET", &format!("{MAPS}/a?pretty=true"), &[], "").await;
    assert!(pretty.text().contains("\n  \"kind\""), "{}", pretty.text());
    let yaml = s.raw("GET", &format!("{MAPS}/a"), &["accept: application/yaml"], "").await;
    assert!(yaml.text().contains("kind: ConfigMap"));
    let proto =
        s.raw("GET", &format!("{MAPS}/a"), &["accept: application/vnd.kubernetes.protobuf"], "").await;
    assert!(proto.body.starts_with(b"k8s\0"));
    let (protobuf, body) = (["content-type: application/vnd.kubernetes.protobuf"], proto.body.to_vec());
    let made = s.raw("PUT", &format!("{MAPS}/a"), &protobuf, body.clone()).await.expect(200);
    // What was read names its resourceVersion, which a new object may not have.
    s.delete(&format!("{MAPS}/a")).await.expect(200);
    let refused = s.raw("POST", MAPS, &protobuf, body).await;
    assert_eq!(refused.message(500), "resourceVersion should not be set on objects to be created");
    assert_eq!(made["data"]["k"], "v");
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yy\ndata:\n  a: b\n";
    let made = s.raw("POST", MAPS, &["content-type: application/yaml"], yaml).await.expect(201);
    assert_eq!(made["data"]["a"], "b");
}

#[tokio::test]
async fn protobuf_lists_and_watches() {
    let s = TestServer::start().await;
    s.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    let list = s.raw("GET", MAPS, &["accept: application/vnd.kubernetes.protobuf"], "").await;
    let (gvk, value) = knarr_schema::proto::decode(&list.body, &|g| knarr_schema::type_of(g)).unwrap();
    assert_eq!((gvk.kind.as_ref(), value["items"][0]["data"]["k"].as_str()), ("ConfigMapList", Some("v")));
    let partial =
        "accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = s.raw("GET", MAPS, &[partial], "").await;
    let lookup =
        |_: &_| knarr_schema::builtin_type("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList");
    let (gvk, value) = knarr_schema::proto::decode(&list.body, &lookup).unwrap();
    assert_eq!(
        (gvk.kind.as_ref(), value["items"][0]["metadata"]["name"].as_str()),
        ("PartialObjectMetadataList", Some("a"))
    );

    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true");
    for (accept, kind) in [
        ("accept: application/vnd.kubernetes.protobuf", "ConfigMap"),
        (
            "accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            "PartialObjectMetadata",
        ),
    ] {
        let stream = s.raw("GET", &path, &[accept], "").await;
        let mut rest = &stream.body[..];
        let mut seen = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let (event, object) = knarr_schema::proto::open_watch_event(&rest[4..4 + length]).unwrap();
            let (gvk, _, _) = knarr_schema::proto::open(object).unwrap();
            seen.push(format!("{event} {}", gvk.kind));
            rest = &rest[4 + length..];
        }
        assert_eq!(seen, [format!("ADDED {kind}"), format!("BOOKMARK {kind}")]);
    }
    let missing =
        s.raw("GET", &format!("{MAPS}/none"), &["accept: application/vnd.kubernetes.protobuf"], "").await;
    assert_eq!(
        (missing.status, knarr_schema::proto::open(&missing.body).unwrap().0.kind.as_ref()),
        (404, "Status")
    );
    let broken = s
        .raw("POST", MAPS, &["content-type: application/vnd.kubernetes.protobuf"], list.body[..20].to_vec())
        .await;
    assert_eq!(broken.status, 400, "{}", broken.text());
}

#[tokio::test]
async fn gzip_and_streamed_lists() {
    let s = TestServer::start().await;
    let big = "x".repeat(100_000);
    for i in 0..8 {
        s.post(MAPS, &map(&format!("b{i}"), json!({"k": big}))).await.expect(201);
    }
    let plain = s.get(MAPS).await.expect(200);
    assert_eq!(plain["items"].as_array().unwrap().len(), 8);
    let zipped = s.raw("GET", MAPS, &["accept-encoding: gzip"], "").await;
    assert_eq!(zipped.headers["content-encoding"], "gzip");
    assert!(zipped.body.len() < 100_000);
}

#[tokio::test]
async fn discovery_and_openapi() {
    let s = TestServer::start().await;
    let aggregated =
        "accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let found = s.raw("GET", "/apis", &[aggregated], "").await;
    assert!(found.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let etag = found.headers["etag"].to_str().unwrap().to_string();
    let again = s.raw("GET", "/apis", &[aggregated, &format!("if-none-match: {etag}")], "").await;
    assert_eq!(again.status, 304);
    assert_eq!(s.get("/apis").await.expect(200)["kind"], "APIGroupList");
    assert_eq!(s.get("/api").await.expect(200)["kind"], "APIVersions");
    assert_eq!(s.get("/api/v1").await.expect(200)["kind"], "APIResourceList");
    assert_eq!(s.get("/apis/apps").await.expect(200)["kind"], "APIGroup");
    assert_eq!(s.get("/apis/none").await.status, 404);
    assert_eq!(s.get("/version").await.expect(200)["minor"], "37");
    let index = s.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_string();
    let document = s.get(&url).await.expect(200);
    assert!(document["components"]["schemas"]["io.k8s.api.core.v1.ConfigMap"].is_object());
    assert_eq!(s.get("/openapi/v3/api/v1?hash=old").await.status, 301);
    let v2 = s
        .raw(
            "GET",
            "/openapi/v2",
            &["accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf"],
            "",
        )
        .await;
    assert_eq!(v2.status, 200);
    let health = s.get("/readyz?verbose").await;
    assert!(health.text().ends_with("readyz check passed\n"), "{}", health.text());
    assert!(s.get("/metrics").await.text().contains("apiserver_request_total"));
}
