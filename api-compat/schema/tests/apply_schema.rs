//! Topology and defaults of every type, against the schema that upstream's client uses for server-side apply
//! (`k8s.io/client-go` `applyconfigurations/internal/internal.go`, read from the Go module cache).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::Command;

use knarr_machinery::types::{Field, ListKind, Type};
use serde_json::{Value, json};

const MODULE: &str = "k8s.io/client-go@v0.37.0";

fn upstream() -> Value {
    let out = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap_or_else(|e| panic!("`go mod download {MODULE}` cannot run: {e}"));
    assert!(out.status.success(), "go mod download {MODULE}: {}", String::from_utf8_lossy(&out.stderr));
    let info: Value = serde_json::from_slice(&out.stdout).unwrap();
    let file = format!("{}/applyconfigurations/internal/internal.go", info["Dir"].as_str().unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    let yaml = text.split_once("typed.YAMLObject(`").unwrap().1.split_once('`').unwrap().0;
    serde_saphyr::from_str(yaml).unwrap()
}

/// Our type in upstream's words.
fn describe(ty: &Type) -> Value {
    match ty {
        Type::List(list) => match &list.kind {
            ListKind::Atomic => json!({"list": "atomic"}),
            ListKind::Set => json!({"list": "associative"}),
            ListKind::Map(keys) => {
                json!({"list": "associative", "keys": keys.iter().map(|k| k.name.to_string()).collect::<Vec<_>>()})
            }
        },
        Type::Map(map) => json!({"map": if map.atomic { "atomic" } else { "separable" }}),
        Type::Struct(_) => json!("struct"),
        Type::Scalar(_) | Type::Any => json!("leaf"),
    }
}

fn upstream_field(field: &Value) -> Value {
    let ty = &field["type"];
    if let Some(list) = ty.get("list") {
        let mut v = json!({"list": list["elementRelationship"]});
        if let Some(keys) = list.get("keys") {
            v["keys"] = keys.clone();
        }
        return v;
    }
    if let Some(map) = ty.get("map") {
        return json!({"map": map.get("elementRelationship").cloned().unwrap_or(json!("separable"))});
    }
    json!("other")
}

fn differs(ours: &Field, theirs: &Value) -> Option<String> {
    let mut problems = Vec::new();
    let (a, b) = (describe(&ours.ty), upstream_field(theirs));
    if b != "other" && a != b || b == "other" && a.is_object() {
        problems.push(format!("ours {a}, upstream {b}"));
    }
    let default = theirs.get("default").cloned();
    if ours.default != default {
        problems.push(format!("default ours {:?}, upstream {default:?}", ours.default));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}

#[test]
fn topology_is_upstreams() {
    let schema = upstream();
    let ours = knarr_schema::builtin_types();
    let (mut problems, mut fields) = (Vec::new(), 0);
    for ty in schema["types"].as_array().unwrap() {
        let name = ty["name"].as_str().unwrap();
        // Types that upstream gives a form of their own, and placeholders of the schema language.
        let Some(id) = ours.find(name) else { continue };
        let s = ours.get(id);
        let atomic = ty["map"]["elementRelationship"] == "atomic";
        if atomic != s.atomic {
            problems.push(format!("{name}: atomic ours {}, upstream {atomic}", s.atomic));
        }
        let theirs: BTreeMap<&str, &Value> = ty["map"]["fields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| (f["name"].as_str().unwrap(), f))
            .collect();
        for field in &s.fields {
            fields += 1;
            match theirs.get(field.name.as_ref()) {
                Some(f) => problems.extend(differs(field, f).map(|p| format!("{name}.{}: {p}", field.name))),
                None => problems.push(format!("{name}.{}: not in upstream's schema", field.name)),
            }
        }
        for missing in theirs.keys().filter(|n| s.field(n).is_none()) {
            problems.push(format!("{name}.{missing}: not in ours"));
        }
    }
    assert!(fields > 3000, "only {fields} fields compared");
    assert!(problems.is_empty(), "{} of {fields}:\n{}", problems.len(), problems.join("\n"));
}
