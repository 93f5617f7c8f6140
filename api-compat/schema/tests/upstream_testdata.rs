//! Every kind of `k8s.io/api` `testdata`: protobuf to JSON gives the JSON beside it, JSON to protobuf gives the bytes.
//!
//! The files are read from the Go module cache (fetched by `go mod download` when missing), or from the directory
//! in `KNARR_K8S_API_DIR`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use knarr_machinery::GroupVersionKind;
use knarr_schema::proto;
use serde_json::Value;

const MODULE: &str = "k8s.io/api@v0.37.0";

fn api_dir() -> PathBuf {
    if let Ok(dir) = std::env::var("KNARR_K8S_API_DIR") {
        return dir.into();
    }
    let out = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap_or_else(|e| {
            panic!(
                "`go mod download {MODULE}` cannot run ({e}); set KNARR_K8S_API_DIR to the module's directory"
            )
        });
    assert!(out.status.success(), "go mod download {MODULE}: {}", String::from_utf8_lossy(&out.stderr));
    let info: Value = serde_json::from_slice(&out.stdout).unwrap();
    info["Dir"].as_str().expect("Dir of the module").into()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|x| x == "pb"))
        .collect();
    all.sort();
    all
}

/// First place where two documents differ.
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

/// The kind that a file is named after; files of the meta types say `core`.
fn kind_of_file(name: &str) -> GroupVersionKind {
    let (rest, kind) = name.rsplit_once('.').unwrap();
    let (group, version) = rest.rsplit_once('.').unwrap();
    let group = if group == "core" { "" } else { group };
    GroupVersionKind::new(group.to_owned(), version.to_owned(), kind.to_owned())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn check(dir: &str, at_least: usize, one: impl Fn(&Path, &str) -> Result<(), String>) {
    let all = files(&api_dir().join("testdata").join(dir));
    assert!(all.len() >= at_least, "{dir}: only {} files", all.len());
    let failures: Vec<String> = all
        .iter()
        .filter_map(|file| {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            one(file, &name).err().map(|e| format!("{name}: {e}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), all.len(), failures.join("\n"));
}

#[test]
fn head_round_trips() {
    check("HEAD", 193, |file, name| {
        let pb = std::fs::read(file).unwrap();
        let json = read_json(&file.with_extension("json"));
        let gvk = kind_of_file(name);
        let (got, ours) =
            proto::decode_as(&pb, Some(&gvk), &knarr_schema::type_of).map_err(|e| format!("decode: {e}"))?;
        if got != gvk {
            return Err(format!("kind {got}"));
        }
        if let Some(d) = difference("", &ours, &json) {
            return Err(format!("json: {d}"));
        }
        let bytes = proto::encode(&knarr_schema::type_of(&gvk).unwrap(), &gvk, &json)
            .map_err(|e| format!("encode: {e}"))?;
        if bytes != pb {
            let at = bytes.iter().zip(&pb).take_while(|(a, b)| a == b).count();
            return Err(format!("bytes differ at {at} (ours {}, upstream {})", bytes.len(), pb.len()));
        }
        Ok(())
    });
}

/// What older releases wrote is read as today's Go reads it, and encoding it again loses nothing.
#[test]
fn older_releases_are_read() {
    for dir in ["v1.33.0", "v1.34.0", "v1.35.0", "v1.36.0"] {
        check(dir, 150, |file, name| {
            if name.contains(".after_roundtrip") {
                return Ok(());
            }
            let after = file.with_file_name(format!("{name}.after_roundtrip.json"));
            let json =
                if after.exists() { read_json(&after) } else { read_json(&file.with_extension("json")) };
            let gvk = kind_of_file(name);
            let Some(types) = knarr_schema::type_of(&gvk) else {
                // Fine for a kind that v1.37 does not have any more.
                let current = file.with_file_name("../HEAD").join(file.file_name().unwrap());
                return if current.exists() { Err("the kind is unknown".into()) } else { Ok(()) };
            };
            let pb = std::fs::read(file).unwrap();
            let (_, ours) = proto::decode_as(&pb, Some(&gvk), &knarr_schema::type_of)
                .map_err(|e| format!("decode: {e}"))?;
            if let Some(d) = difference("", &ours, &json) {
                return Err(format!("json: {d}"));
            }
            let again = proto::encode(&types, &gvk, &ours).map_err(|e| format!("encode: {e}"))?;
            let (_, twice) = proto::decode_as(&again, Some(&gvk), &knarr_schema::type_of)
                .map_err(|e| format!("decode again: {e}"))?;
            difference("", &twice, &ours).map_or(Ok(()), |d| Err(format!("again: {d}")))
        });
    }
}

/// Every prefix of a body is either refused with an offset inside it, or (where a field ends) decoded; never a panic.
#[test]
fn truncated_bodies_name_the_place() {
    let pb = std::fs::read(api_dir().join("testdata/HEAD/core.v1.Pod.pb")).unwrap();
    for end in 0..pb.len() {
        if let Err(e) = proto::decode(&pb[..end], &knarr_schema::type_of) {
            let at = e.offset.expect("an offset");
            assert!(at <= end, "{e}");
        }
    }
    let (gvk, raw, base) = proto::open(&pb).unwrap();
    let types = knarr_schema::type_of(&gvk).unwrap();
    let mut named = 0;
    for end in 0..raw.len() {
        if let Err(e) = proto::decode_raw(&types, &raw[..end]) {
            assert!(e.offset.is_some_and(|at| at <= end), "{e}");
            named += usize::from(!e.path.is_empty());
        }
    }
    assert!(base > 4 && named > raw.len() / 2, "{named} of {}", raw.len());
    // The spec's first byte is there, its end is not.
    let e = proto::decode_raw(&types, &raw[..raw.len() / 3]).unwrap_err();
    assert_eq!(
        e.to_string(),
        format!("spec: unexpected end: {}", e.to_string().split_once("end: ").unwrap().1)
    );
}
