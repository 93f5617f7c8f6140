//! The documents made from the stock kinds and one custom kind hold together.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use knarr_kinds::kind::{Kind, KindInfo};
use knarr_machinery::GroupVersion;
use knarr_openapi::discovery::{
    Form, Root, aggregated, api_group, api_group_list, api_resource_list, api_versions,
};
use knarr_openapi::{Catalog, content_hash, v2_protobuf};
use serde_json::{Value, json};

fn kinds() -> Vec<Kind> {
    let mut all = knarr_kinds::builtins().to_vec();
    all.push(common::custom_kind());
    all
}

fn cron_tab(_: &KindInfo) -> Option<Value> {
    Some(json!({
        "type": "object",
        "description": "Runs things.",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["cronSpec", "port"],
                "properties": {
                    "template": {"type": "object", "x-kubernetes-embedded-resource": true},
                    "cronSpec": {"type": "string", "default": "* * * * *", "nullable": true},
                    "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
            },
        },
    }))
}

fn catalog(kinds: &[Kind]) -> Catalog<'_> {
    Catalog { kinds, version: "v1.37.0+test", custom_schema: &cron_tab }
}

/// Every `$ref` of a document leads somewhere inside it.
fn check_references(doc: &Value, inside: &Value) {
    match inside {
        Value::Object(map) => {
            for (key, v) in map {
                if let ("$ref", Some(target)) = (key.as_str(), v.as_str()) {
                    let pointer = target.strip_prefix('#').unwrap();
                    assert!(doc.pointer(pointer).is_some(), "{target}");
                }
                check_references(doc, v);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| check_references(doc, v)),
        _ => {}
    }
}

#[test]
fn every_group_version_has_a_document() {
    let all = kinds();
    let catalog = catalog(&all);
    let index = catalog.v3_index();
    dump("v3.json", index.to_string().as_bytes());
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/stable.example.com/v1"));
    for (name, entry) in paths {
        let gv = match name.strip_prefix("apis/") {
            Some(gv) => GroupVersion::parse(gv).unwrap(),
            None => GroupVersion::parse(name.strip_prefix("api/").unwrap()).unwrap(),
        };
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert_eq!(url, format!("/openapi/v3/{name}?hash={}", catalog.v3_hash(&gv).unwrap()));
        let doc = catalog.v3_document(&gv).unwrap().unwrap();
        check_references(&doc, &doc);
        dump(&format!("v3-{}.json", name.replace('/', "_")), doc.to_string().as_bytes());
    }
    assert!(catalog.v3_document(&GroupVersion::new("nope", "v1")).unwrap().is_none());
}

/// What kubectl reads: the kind on the patch operation and its parameters; the kind on the schema (explain).
#[test]
fn kubectl_finds_what_it_looks_for() {
    let all = kinds();
    let catalog = catalog(&all);
    let doc = catalog.v3_document(&GroupVersion::new("", "v1")).unwrap().unwrap();
    let item = &doc["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
    let gvk = json!({"group": "", "version": "v1", "kind": "Pod"});
    let patch = &item["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    let pod = &doc["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([gvk]));
    let spec = &pod["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].is_string() && spec["default"].is_object());
    let paths = doc["paths"].as_object().unwrap();
    for path in [
        "/api/v1/pods",
        "/api/v1/nodes/{name}/proxy/{path}",
        "/api/v1/namespaces/{namespace}/pods/{name}/exec",
        "/api/v1/namespaces/{namespace}/pods/{name}/log",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    let log = &doc["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"];
    assert_eq!(log["operationId"], "readCoreV1NamespacedPodLog");
    let custom = catalog.v3_document(&GroupVersion::new("stable.example.com", "v1")).unwrap().unwrap();
    let tab = &custom["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(tab["properties"]["spec"]["properties"]["cronSpec"]["default"], "* * * * *");
    let list = &custom["paths"]["/apis/stable.example.com/v1/crontabs"]["get"];
    assert_eq!(list["operationId"], "listStableExampleComV1CronTabForAllNamespaces");
}

#[test]
fn version_2_is_whole() {
    let all = kinds();
    let doc = catalog(&all).v2_document().unwrap();
    check_references(&doc, &doc);
    let tab = &doc["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"];
    assert_eq!(tab["port"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(tab["cronSpec"], json!({}));
    assert_eq!(tab["free"], json!({"x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(tab["template"]["required"], json!(["kind", "apiVersion"]));
    let spec = &doc["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["port"]));
    let int = &doc["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&int["type"], &int["format"]), (&json!("string"), &json!("int-or-string")));
    let bytes = v2_protobuf(&doc);
    assert!(bytes.len() > 500_000, "{}", bytes.len());
    dump("v2.json", doc.to_string().as_bytes());
    dump("v2.pb", &bytes);
}

#[test]
fn discovery_documents() {
    let all = kinds();
    let versions = api_versions(&all, &[("0.0.0.0/0", "10.0.0.1:6443")]);
    assert_eq!(versions["versions"], json!(["v1"]));
    let groups = api_group_list(&all);
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "apiregistration.k8s.io",
            "apps",
            "events.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            "autoscaling",
            "batch",
            "certificates.k8s.io",
            "networking.k8s.io",
            "policy",
            "rbac.authorization.k8s.io",
            "storage.k8s.io",
            "admissionregistration.k8s.io",
            "apiextensions.k8s.io",
            "scheduling.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "discovery.k8s.io",
            "flowcontrol.apiserver.k8s.io",
            "resource.k8s.io",
            "storagemigration.k8s.io",
            "stable.example.com",
        ]
    );
    assert_eq!(api_group(&all, "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
    assert!(api_group(&all, "nope").is_none());
    let core = api_resource_list(&all, &GroupVersion::new("", "v1")).unwrap();
    assert!(core.get("apiVersion").is_none());
    let find = |doc: &Value, name: &str| -> Value {
        doc["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone()
    };
    assert_eq!(find(&core, "pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    let eviction = json!({
        "name": "pods/eviction", "singularName": "", "namespaced": true, "kind": "Eviction",
        "group": "policy", "version": "v1", "verbs": ["create"],
    });
    assert_eq!(find(&core, "pods/eviction"), eviction);
    let events = api_resource_list(&all, &GroupVersion::new("events.k8s.io", "v1")).unwrap();
    assert_eq!(find(&events, "events")["storageVersionHash"], "r2yiGXH7wu8=");
    let named = aggregated(&all, Root::Named, Form::V2);
    let apps = named["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
    let deployments = &apps["versions"][0]["resources"][2];
    assert_eq!(deployments["resource"], "deployments");
    assert_eq!(deployments["responseKind"], json!({"group": "", "version": "", "kind": "Deployment"}));
    assert_eq!(
        deployments["subresources"][0],
        json!({
            "subresource": "scale", "verbs": ["get", "patch", "update"],
            "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
        })
    );
    assert_eq!(aggregated(&all, Root::Core, Form::V2Beta1)["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    dump("api.json", versions.to_string().as_bytes());
    dump("apis.json", groups.to_string().as_bytes());
    dump("api-v2.json", aggregated(&all, Root::Core, Form::V2).to_string().as_bytes());
    dump("apis-v2.json", named.to_string().as_bytes());
    for g in knarr_openapi::groups::groups(&all) {
        for v in g.versions {
            let gv = GroupVersion::new(g.name.to_owned(), v.name.to_owned());
            let doc = api_resource_list(&all, &gv).unwrap();
            dump(&format!("rl-{}.json", gv.to_string().replace('/', "_")), doc.to_string().as_bytes());
        }
    }
    // The documents have the protobuf form that upstream gives them.
    for doc in [&named, &groups, &core] {
        let gv = GroupVersion::parse(doc["apiVersion"].as_str().unwrap_or("v1")).unwrap();
        let kind = doc["kind"].as_str().unwrap().to_owned();
        let gvk = knarr_machinery::GroupVersionKind::new(gv.group, gv.version, kind);
        let types = knarr_schema::type_of(&gvk).unwrap();
        let bytes = knarr_schema::proto::encode(&types, &gvk, doc).unwrap();
        let (_, back) = knarr_schema::proto::decode(&bytes, &knarr_schema::type_of).unwrap();
        assert_eq!(back["kind"], doc["kind"]);
    }
    assert_eq!(content_hash(b"").len(), 128);
}

/// With KNARR_DUMP set, writes documents there (api-compat/codegen/facts/verify reads them).
fn dump(name: &str, bytes: &[u8]) {
    if let Ok(dir) = std::env::var("KNARR_DUMP") {
        std::fs::write(std::path::Path::new(&dir).join(name), bytes).unwrap();
    }
}
