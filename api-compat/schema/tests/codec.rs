//! The codec against documents that upstream's own serializers wrote (api-compat/codegen/facts/cases), and at its edges.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_machinery::GroupVersionKind;
use knarr_schema::{proto, type_of};
use serde_json::{Value, json};

fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|k| match (x.get(k), y.get(k)) {
                (Some(v), Some(w)) => difference(&format!("{path}.{k}"), v, w),
                (v, w) => Some(format!("{path}.{k}: ours {v:?}, upstream {w:?}")),
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (v, w))| difference(&format!("{path}[{i}]"), v, w))
        }
        _ if a == b => None,
        _ => Some(format!("{path}: ours {a}, upstream {b}")),
    }
}

/// Lines of JSON, tab, protobuf in base64.
fn check(cases: &str) {
    let (mut failures, mut inexact) = (Vec::new(), 0);
    for line in cases.lines() {
        let (json, pb) = line.split_once('\t').unwrap();
        let json: Value = serde_json::from_str(json).unwrap();
        let pb = STANDARD.decode(pb).unwrap();
        let name = format!("{} {}", json["apiVersion"], json["kind"]);
        let (gvk, ours) = match proto::decode(&pb, &type_of) {
            Ok(ok) => ok,
            Err(e) => {
                failures.push(format!("{name}: decode: {e}"));
                continue;
            }
        };
        failures.extend(difference("", &ours, &json).map(|d| format!("{name}: {d}")));
        match proto::encode(&type_of(&gvk).unwrap(), &gvk, &json) {
            Ok(bytes) if bytes == pb => {}
            // JSON does not tell empty bytes from none, so here only the meaning can be equal.
            Ok(bytes) => match proto::decode(&bytes, &type_of) {
                Ok((_, again)) => {
                    failures.extend(difference("", &again, &json).map(|d| format!("{name}: again: {d}")));
                    inexact += 1;
                }
                Err(e) => failures.push(format!("{name}: decode of ours: {e}")),
            },
            Err(e) => failures.push(format!("{name}: encode: {e}")),
        }
        // The quick way means the same.
        let types = type_of(&gvk).unwrap();
        let quick = proto::transcode_raw(&types, json.to_string().as_bytes());
        match quick.and_then(|raw| proto::decode_raw(&types, &raw)) {
            Ok(mut again) => {
                for key in ["apiVersion", "kind"] {
                    again[key] = json[key].clone();
                }
                failures.extend(difference("", &again, &json).map(|d| format!("{name}: transcoded: {d}")));
            }
            Err(e) => failures.push(format!("{name}: transcode: {e}")),
        }
    }
    assert!(inexact * 20 <= cases.lines().count() + 20, "{inexact} encoded otherwise than upstream");
    let shown = failures.len().min(30);
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures[..shown].join("\n"));
}

#[test]
fn zero_values_of_every_kind() {
    check(include_str!("data/zero.tsv"));
}

#[test]
fn custom_resource_definitions_metrics_lists_and_others() {
    check(include_str!("data/special.tsv"));
}

/// `go run ./cases random 20 > file`, then KNARR_CODEC_CASES=file.
#[test]
fn random_objects() {
    if let Ok(file) = std::env::var("KNARR_CODEC_CASES") {
        check(&std::fs::read_to_string(file).unwrap());
    }
}

fn pod() -> (GroupVersionKind, Value) {
    let doc = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
    });
    (GroupVersionKind::new("", "v1", "Pod"), doc)
}

#[test]
fn wrong_values_name_the_field() {
    let (gvk, good) = pod();
    for (pointer, value, message) in [
        (
            "/spec/containers/0/ports/0/containerPort",
            json!("80"),
            "spec.containers[0].ports[0].containerPort: expected an integer, got string",
        ),
        (
            "/spec/containers/0/ports/0/containerPort",
            json!(3_000_000_000i64),
            "spec.containers[0].ports[0].containerPort: 3000000000 is not a 32-bit integer",
        ),
        ("/spec/containers/0/name", json!(5), "spec.containers[0].name: expected a string, got number"),
        ("/spec/containers", json!({}), "spec.containers: expected an array, got object"),
        ("/metadata", json!("x"), "metadata: expected an object, got string"),
    ] {
        let mut doc = good.clone();
        *doc.pointer_mut(pointer).unwrap() = value;
        let e = proto::encode(&type_of(&gvk).unwrap(), &gvk, &doc).unwrap_err();
        assert_eq!(e.to_string(), message);
    }
    let mut doc = good;
    doc["spec"]["nodeName"] = json!(1);
    let e = proto::transcode_raw(&type_of(&gvk).unwrap(), doc.to_string().as_bytes()).unwrap_err();
    assert_eq!(e.to_string(), "spec.nodeName: expected a string, got number");
    doc["metadata"]["creationTimestamp"] = json!("yesterday");
    let e = proto::encode(&type_of(&gvk).unwrap(), &gvk, &doc).unwrap_err();
    assert_eq!(e.path, "metadata.creationTimestamp");
}

#[test]
fn a_list_is_its_spliced_items() {
    let (gvk, doc) = pod();
    let types = type_of(&gvk).unwrap();
    let raw = proto::encode_raw(&types, &doc).unwrap();
    assert_eq!(proto::wrap(&gvk, &raw), proto::encode(&types, &gvk, &doc).unwrap());
    let list = GroupVersionKind::new("", "v1", "PodList");
    let meta = json!({"resourceVersion": "12", "continue": "abc"});
    let spliced = proto::encode_list(&list, &meta, [raw.as_slice(), raw.as_slice()]).unwrap();
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": meta, "items": [doc, doc]});
    assert_eq!(spliced, proto::encode(&type_of(&list).unwrap(), &list, &whole).unwrap());
}

#[test]
fn watch_frames() {
    let (gvk, doc) = pod();
    let object = proto::encode(&type_of(&gvk).unwrap(), &gvk, &doc).unwrap();
    let frame = proto::watch_frame("ADDED", &object);
    let (length, body) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, body.len());
    let (event, inner) = proto::open_watch_event(body).unwrap();
    assert_eq!((event, inner), ("ADDED", object.as_slice()));
    let e = proto::open_watch_event(&body[..body.len() - 1]).unwrap_err();
    assert_eq!(e.path, "object");
}

#[test]
fn what_has_no_form_is_refused() {
    let table = GroupVersionKind::new("meta.k8s.io", "v1", "Table");
    let e = proto::encode(&type_of(&table).unwrap(), &table, &json!({})).unwrap_err();
    assert!(e.to_string().contains("has no protobuf form"), "{e}");
    let e = proto::decode(b"{}", &type_of).unwrap_err();
    assert_eq!(e.to_string(), "the body does not begin with the protobuf marker k8s\\0 at byte 0");
    let gvk = GroupVersionKind::new("example.com", "v1", "Thing");
    let e = proto::decode(&proto::wrap(&gvk, b""), &type_of).unwrap_err();
    assert!(
        e.to_string().starts_with("no kind \"Thing\" is registered for version \"example.com/v1\""),
        "{e}"
    );
}

#[test]
fn nesting_is_limited() {
    let gvk = GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let mut schema = json!({"type": "string"});
    for _ in 0..400 {
        schema = json!({"not": schema});
    }
    let doc = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    let e = proto::encode(&type_of(&gvk).unwrap(), &gvk, &doc).unwrap_err();
    assert!(e.to_string().ends_with("objects nest deeper than 128"), "{e}");
}

/// Damaged bodies are refused or read, never a panic.
#[test]
fn damaged_bodies() {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for line in include_str!("data/special.tsv").lines() {
        let pb = STANDARD.decode(line.split_once('\t').unwrap().1).unwrap();
        for _ in 0..2000 {
            let mut damaged = pb.clone();
            for _ in 0..=next() % 3 {
                let at = next() % damaged.len();
                damaged[at] = next() as u8;
            }
            damaged.truncate(next() % (damaged.len() + 1));
            if let Err(e) = proto::decode(&damaged, &type_of) {
                assert!(e.offset.is_none_or(|at| at <= damaged.len()), "{e}");
            }
        }
    }
}
