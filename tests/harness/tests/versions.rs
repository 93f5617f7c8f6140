//! One stored object, several versions; slow watchers; every kind answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use knarr_kinds::{Scope, Verb};
use serde_json::json;

#[tokio::test]
async fn events_in_two_groups() {
    let s = TestServer::start().await;
    let new = "/apis/events.k8s.io/v1/namespaces/default/events";
    let old = "/api/v1/namespaces/default/events";
    let mut watch = s.watch(&format!("{old}?watch=1&fieldSelector=involvedObject.name%3Dp")).await;
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reason": "R",
        "note": "hello", "action": "A", "type": "Normal", "reportingController": "c/x", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    s.post(new, &event).await.expect(201);
    let seen = watch.next().await.unwrap();
    assert_eq!(seen["object"]["message"], "hello");
    assert_eq!(s.get(&format!("{old}/e")).await.expect(200)["involvedObject"]["name"], "p");
    assert_eq!(s.get(&format!("{new}/e")).await.expect(200)["note"], "hello");
    let listed = s.get(new).await.expect(200);
    assert_eq!(
        (listed["kind"].as_str(), listed["items"][0]["note"].as_str()),
        (Some("EventList"), Some("hello"))
    );
    let proto = s.raw("GET", new, &["accept: application/vnd.kubernetes.protobuf"], "").await;
    assert_eq!(proto.status, 200);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_so() {
    let s = TestServer::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let version = s.get(maps).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    let mut stuck = s.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    let big = "x".repeat(900_000);
    for i in 0..25 {
        s.post(maps, &json!({"metadata": {"name": format!("m{i}")}, "data": {"k": big}})).await.expect(201);
    }
    let end = stuck.next().await.unwrap();
    assert_eq!(
        (end["type"].as_str(), end["object"]["code"].as_i64(), end["object"]["reason"].as_str()),
        (Some("ERROR"), Some(410), Some("Expired"))
    );
    assert!(stuck.next().await.is_none());
    // So is a watch that begins before what is remembered.
    let mut late = s.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    let end = late.next().await.unwrap();
    assert!(end["object"]["message"].as_str().unwrap().starts_with("too old resource version"), "{end}");
    let huge = s.post(maps, &json!({"metadata": {"name": "h"}, "data": {"k": "x".repeat(4 << 20)}})).await;
    assert_eq!(huge.message(413), "Request entity too large: limit is 3145728");
}

/// Lists, Tables and protobuf lists of every kind; each of them refuses an empty object in words of its own.
#[tokio::test]
async fn every_kind_answers() {
    let s = TestServer::start().await;
    for kind in knarr_kinds::builtins() {
        let info = &kind.info;
        if info.storage.is_none() {
            continue;
        }
        let root = if info.gvk.group.is_empty() {
            "/api/v1".to_string()
        } else {
            format!("/apis/{}/{}", info.gvk.group, info.gvk.version)
        };
        let path = match info.scope {
            Scope::Namespaced => format!("{root}/namespaces/default/{}", info.plural),
            Scope::Cluster => format!("{root}/{}", info.plural),
        };
        let list = s.get(&path).await.expect(200);
        assert_eq!(list["kind"].as_str(), Some(&*info.list_kind), "{path}");
        let table = s
            .raw("GET", &path, &["accept: application/json;as=Table;v=v1;g=meta.k8s.io"], "")
            .await
            .expect(200);
        assert_eq!(table["columnDefinitions"].as_array().unwrap().len(), info.columns.len(), "{path}");
        let proto = s.raw("GET", &path, &["accept: application/vnd.kubernetes.protobuf"], "").await;
        assert_eq!((proto.status, &proto.body[..4]), (200, &b"k8s\0"[..]), "{path}");
        if info.verbs.contains(&Verb::Create) {
            let refused = s.post(&path, &json!({})).await;
            assert_eq!(refused.status, 422, "{path}: {}", refused.text());
            let created = s.post(&path, &json!({"metadata": {"name": "x"}})).await;
            assert!(matches!(created.status, 201 | 422), "{path}: {}", created.text());
            if created.status == 201 {
                s.raw("DELETE", &format!("{path}/x?gracePeriodSeconds=0"), &[], "").await.expect(200);
            }
        }
    }
}
