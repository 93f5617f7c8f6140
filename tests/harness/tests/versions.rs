//! One stored object, several versions; slow watchers; every kind answers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use knarr_harness::TestServer;
use std::sync::Arc;

use knarr_apiserver::virtual_kinds::VirtualSource;
use knarr_kinds::kind::KindInfo;
use knarr_kinds::{Kind, Rules, Scope, Verb};
use knarr_machinery::types::{Type, TypeRef};
use knarr_machinery::{ApiError, GroupVersionKind};
use serde_json::{Value, json};

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

struct Computed;

#[async_trait::async_trait]
impl VirtualSource for Computed {
    async fn list(&self, _: &str) -> Result<Vec<Value>, ApiError> {
        Ok(vec![
            json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "usage": {}}),
            json!({"metadata": {"name": "b"}}),
        ])
    }
}

impl Rules for Computed {
    fn validate_name(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }

    fn row(&self, obj: &Value, _: &str) -> Vec<Value> {
        vec![obj["metadata"]["name"].clone()]
    }
}

#[tokio::test]
async fn computed_kinds() {
    let s = TestServer::start().await;
    let gvk = GroupVersionKind::new("metrics.k8s.io", "v1beta1", "NodeMetrics");
    let info = KindInfo {
        list_kind: "NodeMetricsList".into(),
        plural: "nodes".into(),
        singular: "".into(),
        scope: Scope::Cluster,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: vec![Verb::Get, Verb::List],
        subresources: Vec::new(),
        storage: None,
        types: TypeRef { set: Arc::default(), root: Type::Any },
        definition: "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics".into(),
        has_generation: false,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        custom: true,
        gvk,
    };
    s.api.add_virtual(Kind { info: Arc::new(info), rules: Arc::new(Computed) }, Arc::new(Computed));
    let root = "/apis/metrics.k8s.io/v1beta1";
    assert_eq!(s.get(root).await.expect(200)["resources"][0]["name"], "nodes");
    let list = s.get(&format!("{root}/nodes")).await.expect(200);
    assert_eq!(
        (list["kind"].as_str(), list["items"].as_array().unwrap().len()),
        (Some("NodeMetricsList"), 2)
    );
    assert_eq!(list["items"][0]["kind"], "NodeMetrics");
    let some = s.get(&format!("{root}/nodes?labelSelector=x%3Dy")).await.expect(200);
    assert_eq!(some["items"].as_array().unwrap().len(), 1);
    assert_eq!(s.get(&format!("{root}/nodes/b")).await.expect(200)["metadata"]["name"], "b");
    assert_eq!(s.get(&format!("{root}/nodes/c")).await.status, 404);
    assert_eq!(s.post(&format!("{root}/nodes"), &json!({})).await.status, 405);
    for path in ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/metrics.k8s.io/v1beta1", "/apis"] {
        assert_eq!(s.get(path).await.status, 200, "{path}");
    }
    // Component statuses are the readiness checks.
    s.api.checks().add("etcd-0", knarr_apiserver::health::Scope::Always, || Ok(()));
    let statuses = s.get("/api/v1/componentstatuses").await;
    assert_eq!(statuses.json()["items"][0]["conditions"][0]["type"], "Healthy");
    assert!(statuses.headers["warning"].to_str().unwrap().contains("deprecated"));
}
