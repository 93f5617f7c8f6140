//! `events.k8s.io/v1` Event. The stored form is the core Event.

use knarr_machinery::{ApiError, FieldError, Path, Str};
use serde_json::Value;

use crate::check;
use crate::core::event::{EVENT_COLUMNS, Parts, row_core, validate_any};
use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{int, text};

static RULES: RuleSet = RuleSet {
    validate,
    validate_update: Some(update),
    row: |obj, now| row_core(&rename(obj.clone(), FROM_EVENTS, "v1"), now),
    fields,
    from_storage: |obj| Ok(rename(obj, FROM_CORE, "events.k8s.io/v1")),
    to_storage,
    create_on_update: true,
    ..PLAIN
};

const SELECTABLE: &[&str] = &[
    "reason",
    "regarding.apiVersion",
    "regarding.fieldPath",
    "regarding.kind",
    "regarding.name",
    "regarding.namespace",
    "regarding.resourceVersion",
    "regarding.uid",
    "reportingController",
    "type",
];

pub(crate) fn kind() -> Kind {
    Facts::new("events.k8s.io", "v1", "Event", "events")
        .namespaced()
        .short(&["ev"])
        .stored_as("", "events", "v1")
        .columns(EVENT_COLUMNS)
        .selectable(SELECTABLE)
        .build(&RULES)
}

/// Field names in the core form and here.
const FROM_CORE: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The same the other way round.
const FROM_EVENTS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(mut obj: Value, names: &[(&str, &str)], api_version: &str) -> Value {
    if let Some(map) = obj.as_object_mut() {
        for (from, to) in names {
            if let Some(value) = map.remove(*from) {
                map.insert((*to).to_string(), value);
            }
        }
        map.insert("apiVersion".to_string(), api_version.into());
    }
    obj
}

/// `involvedObject` is required there: an event without `regarding` gets an empty one.
fn to_storage(obj: Value) -> Result<Value, ApiError> {
    let mut obj = rename(obj, FROM_EVENTS, "v1");
    crate::value::fill(&mut obj, "involvedObject", serde_json::Map::new());
    Ok(obj)
}

const PARTS: Parts = Parts { object: "regarding", controller: "reportingController", message: "note" };

fn set<'a>(obj: &'a Value, key: &str) -> Option<&'a Value> {
    obj.get(key).filter(|v| !v.is_null())
}

fn series(errors: &mut Vec<FieldError>, obj: &Value) {
    let Some(series) = set(obj, "series") else { return };
    if int(series, "/count").unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if set(series, "lastObservedTime").is_none() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = validate_any(obj, &PARTS);
    series(&mut errors, obj);
    if set(obj, "eventTime").is_none() {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    let kind = text(obj, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        errors.push(FieldError::invalid(&Path::new("type"), "", detail));
    }
    let source = obj.get("deprecatedSource").unwrap_or(&Value::Null);
    for (name, given) in [
        ("firstTimestamp", set(obj, "deprecatedFirstTimestamp").is_some()),
        ("lastTimestamp", set(obj, "deprecatedLastTimestamp").is_some()),
        ("count", int(obj, "/deprecatedCount").unwrap_or(0) != 0),
        ("source", !text(source, "/component").is_empty() || !text(source, "/host").is_empty()),
    ] {
        if given {
            errors.push(FieldError::invalid(&Path::new(name), "", "needs to be unset"));
        }
    }
    errors
}

/// Only the series may change.
fn update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate_any(obj, &PARTS);
    if !check::same(obj.get("series"), old.get("series")) {
        series(&mut errors, obj);
    }
    let plain = ["reason", "type", "eventTime", "action", "related", "reportingInstance"];
    let renamed = FROM_CORE
        .iter()
        .map(|(core, own)| (if *core == "reportingComponent" { "reportingController" } else { *core }, *own));
    for (core, own) in plain.into_iter().map(|k| (k, k)).chain(renamed) {
        check::immutable(&mut errors, obj.get(own), old.get(own), &Path::new(core));
    }
    errors
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    SELECTABLE
        .iter()
        .map(|k| ((*k).into(), text(obj, &format!("/{}", k.replace('.', "/"))).to_string()))
        .collect()
}
