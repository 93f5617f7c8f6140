//! Runs the case files of `tests/cases/*.yaml`: what each built-in kind defaults, keeps and refuses.
//!
//! A file names its kind (`kind: v1/pods`) and its base objects, then lists cases. A case changes a base (`set`,
//! `drop`, by JSON pointers; one without a leading `/` continues the base's `at`) and states the exact errors
//! (`errors`, in any order; one that ends with `...` is a prefix), and, where given, values of the object as it
//! would be stored (`result`, null for absent) and warnings. With `old` the case is an update: `old` makes the
//! stored object of the base, `set` and `drop` change that. `sub` names the subresource that is written.
//! `README.md` beside the files says more. `gaps.txt` lists the cases known to differ; it may only shrink.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use knarr_kinds::{Ctx, Kind, Scope};
use knarr_machinery::{FieldError, UserInfo, decode, meta};
use serde::Deserialize;
use serde_json::{Map, Value};

const NOW: &str = "2026-01-02T03:04:05Z";
const UID: &str = "11111111-2222-3333-4444-555555555555";
/// Fewer cases than this mean that files were lost.
const CASES_MIN: usize = 300;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: String,
    bases: BTreeMap<String, Base>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    #[serde(default)]
    at: String,
    object: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    base: Option<String>,
    #[serde(default)]
    set: Map<String, Value>,
    #[serde(default)]
    drop: Vec<String>,
    old: Option<Map<String, Value>>,
    sub: Option<String>,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    result: Map<String, Value>,
    warnings: Option<Vec<String>>,
}

#[test]
fn every_case_holds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut gaps = read_gaps(&dir.join("gaps.txt"));
    let (mut count, mut wrong) = (0, String::new());
    for path in files(&dir) {
        let file_name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = kind(&file.kind);
        let mut names = Vec::new();
        for case in &file.cases {
            count += 1;
            let title = format!("{file_name}: {}", case.name);
            if names.contains(&&case.name) {
                writeln!(wrong, "{title}: the name is used twice").unwrap();
            }
            names.push(&case.name);
            let known = gaps.iter().position(|g| *g == title).map(|i| gaps.remove(i)).is_some();
            match (run(&kind, &file.bases, case), known) {
                (Ok(()), false) | (Err(_), true) => {}
                (Ok(()), true) => {
                    writeln!(wrong, "{title}: holds now: take it out of gaps.txt").unwrap();
                }
                (Err(why), false) => writeln!(wrong, "{title}:\n{why}").unwrap(),
            }
        }
    }
    for gap in gaps {
        writeln!(wrong, "{gap}: is in gaps.txt but there is no such case").unwrap();
    }
    assert!(wrong.is_empty(), "{count} cases, these differ:\n{wrong}");
    assert!(count >= CASES_MIN, "only {count} cases");
    println!("{count} cases hold");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn read_gaps(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

/// The kind of `<group>/<version>/<plural>` or `<version>/<plural>`.
fn kind(name: &str) -> Kind {
    let (gv, plural) = name.rsplit_once('/').unwrap();
    let (group, version) = gv.split_once('/').unwrap_or(("", gv));
    let all = knarr_kinds::builtins();
    let found = all
        .iter()
        .find(|k| k.info.gvk.group == group && k.info.gvk.version == version && k.info.plural == plural);
    found.unwrap_or_else(|| panic!("no kind {name}")).clone()
}

/// What differs, a text for people.
fn run(kind: &Kind, bases: &BTreeMap<String, Base>, case: &Case) -> Result<(), String> {
    let base = match &case.base {
        Some(name) => bases.get(name).ok_or(format!("no base {name}"))?,
        None => bases.values().next().filter(|_| bases.len() == 1).or(bases.get("base")).ok_or("no base")?,
    };
    let user = UserInfo::component("tester", &[]);
    let namespaced = kind.info.scope == Scope::Namespaced;
    let sub = case.sub.as_deref();
    let namespace = if namespaced { "default" } else { "" };
    let ctx = Ctx { user: &user, namespace, subresource: sub, now: NOW, uid: UID };
    let main = Ctx { subresource: None, ..ctx.clone() };

    let mut object = base.object.clone();
    identify(kind, &mut object);
    let stored = match &case.old {
        Some(old) => {
            change(&mut object, base, old, &[])?;
            let status = object["status"].clone();
            settle(kind, &mut object)?;
            kind.rules.prepare_create(&main, &mut object);
            if !status.is_null() {
                object["status"] = status;
            }
            Some(object.clone())
        }
        None => None,
    };
    change(&mut object, base, &case.set, &case.drop)?;
    settle(kind, &mut object)?;
    match &stored {
        Some(old) => kind.rules.prepare_update(&ctx, &mut object, old),
        None => kind.rules.prepare_create(&ctx, &mut object),
    }
    let at = knarr_machinery::Path::new("metadata");
    let name_fn = |name: &str, prefix: bool| kind.rules.validate_name(name, prefix);
    let mut errors = meta::validate_object_meta(&object, namespaced, &name_fn, &at);
    match &stored {
        Some(old) => {
            errors.extend(meta::validate_object_meta_update(&object, old, &at));
            errors.extend(kind.rules.validate_update(&ctx, &object, old));
        }
        None => errors.extend(kind.rules.validate(&ctx, &object)),
    }
    let mut why = compare(&texts(&errors), &case.errors, "error");
    if let Some(expected) = &case.warnings {
        why.push_str(&compare(&kind.rules.warnings(&ctx, &object, stored.as_ref()), expected, "warning"));
    }
    for (pointer, expected) in &case.result {
        let found = object.pointer(&full(base, pointer)).unwrap_or(&Value::Null);
        if found != expected {
            writeln!(why, "  {pointer}: {found}, expected {expected}").unwrap();
        }
    }
    if why.is_empty() { Ok(()) } else { Err(why) }
}

/// What the server gives every object before the rules see it.
fn identify(kind: &Kind, object: &mut Value) {
    let api_version = match kind.info.gvk.group.as_ref() {
        "" => kind.info.gvk.version.to_string(),
        group => format!("{group}/{}", kind.info.gvk.version),
    };
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.info.gvk.kind.to_string().into();
    if object["metadata"]["name"].is_null() && object["metadata"]["generateName"].is_null() {
        object["metadata"]["name"] = "test".into();
    }
    if kind.info.scope == Scope::Namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "default".into();
    }
    object["metadata"]["uid"] = UID.into();
    object["metadata"]["resourceVersion"] = "1".into();
}

/// Strict decoding and defaults.
fn settle(kind: &Kind, object: &mut Value) -> Result<(), String> {
    let findings = decode::prune(&kind.info.types, object).map_err(|e| format!("  not decoded: {e}\n"))?;
    if !findings.is_empty() {
        return Err(format!("  not decoded: {findings:?}\n"));
    }
    kind.rules.default(object);
    Ok(())
}

fn full(base: &Base, pointer: &str) -> String {
    match pointer {
        "" => base.at.clone(),
        p if p.starts_with('/') => p.to_owned(),
        p => format!("{}/{p}", base.at),
    }
}

fn change(object: &mut Value, base: &Base, set: &Map<String, Value>, drop: &[String]) -> Result<(), String> {
    for (pointer, value) in set {
        put(object, &full(base, pointer), value.clone()).map_err(|why| format!("  {pointer}: {why}\n"))?;
    }
    for pointer in drop {
        let pointer = full(base, pointer);
        let (parent, key) = pointer.rsplit_once('/').ok_or("an empty pointer")?;
        let parent = object.pointer_mut(parent).ok_or(format!("  {pointer}: nothing to drop\n"))?;
        let gone = match parent {
            Value::Object(map) => map.remove(&key.replace("~1", "/")).is_some(),
            Value::Array(list) => {
                key.parse().ok().filter(|i| *i < list.len()).map(|i: usize| list.remove(i)).is_some()
            }
            _ => false,
        };
        if !gone {
            return Err(format!("  {pointer}: nothing to drop\n"));
        }
    }
    Ok(())
}

/// Puts a value, making the maps and lists on the way. An index at the end of a list appends.
fn put(object: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    let mut place = object;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        if place.is_null() {
            *place = if key == "0" { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
        }
        place = match place {
            Value::Object(map) => map.entry(key).or_insert(Value::Null),
            Value::Array(list) => {
                let i: usize = key.parse().map_err(|_| format!("{key} is no index"))?;
                if i == list.len() {
                    list.push(Value::Null);
                }
                list.get_mut(i).ok_or(format!("index {i} leaves a hole"))?
            }
            other => return Err(format!("{key} of {other}")),
        };
    }
    *place = value;
    Ok(())
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The lines found on one side only.
fn compare(found: &[String], expected: &[String], what: &str) -> String {
    let matches = |found: &str, expected: &str| match expected.strip_suffix("...") {
        Some(prefix) => found.starts_with(prefix),
        None => found == expected,
    };
    let mut rest: Vec<&String> = found.iter().collect();
    let mut why = String::new();
    for e in expected {
        match rest.iter().position(|f| matches(f, e)) {
            Some(i) => {
                rest.remove(i);
            }
            None => writeln!(why, "  missing {what}: {e}").unwrap(),
        }
    }
    for f in rest {
        writeln!(why, "  unexpected {what}: {f}").unwrap();
    }
    why
}
