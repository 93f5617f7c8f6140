//! `events.k8s.io/v1` Event. The stored form is the core Event.

use knarr_machinery::{ApiError, FieldError, Path, Str, names};
use serde_json::Value;

use crate::check;
use crate::core::event::{EVENT_COLUMNS, row_core};
use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::text;

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

/// What events of the new style need: a reporter, an action and a reason. `note` is the name of the message field.
pub(crate) fn reporter(errors: &mut Vec<FieldError>, obj: &Value, controller_key: &str, note: &str) {
    let controller = text(obj, &format!("/{controller_key}"));
    if controller.is_empty() {
        errors.push(FieldError::required(&Path::new("reportingController"), ""));
    } else {
        check::names(
            errors,
            names::is_qualified_name(controller),
            controller.into(),
            &Path::new("reportingController"),
        );
    }
    for (key, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let value = text(obj, &format!("/{key}"));
        if value.is_empty() {
            errors.push(FieldError::required(&Path::new(key), ""));
        } else if value.len() > max {
            errors.push(FieldError::invalid(
                &Path::new(key),
                "",
                format!("can have at most {max} characters"),
            ));
        }
    }
    if text(obj, &format!("/{note}")).len() > 1024 {
        errors.push(FieldError::invalid(&Path::new("message"), "", "can have at most 1024 characters"));
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if obj.get("eventTime").is_none_or(Value::is_null) {
        errors.push(FieldError::required(&Path::new("eventTime"), ""));
    }
    if !matches!(text(obj, "/type"), "Normal" | "Warning") {
        errors.push(FieldError::invalid(
            &Path::new("type"),
            "",
            format!("has invalid value: {}", text(obj, "/type")),
        ));
    }
    reporter(&mut errors, obj, "reportingController", "note");
    errors.extend(crate::core::event::namespace_matches(obj, "regarding"));
    errors
}

/// Only the series may change.
fn update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in [
        "regarding",
        "reason",
        "note",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingController",
        "reportingInstance",
        "deprecatedSource",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
    ] {
        check::immutable(&mut errors, obj.get(key), old.get(key), &Path::new(key));
    }
    errors
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    SELECTABLE
        .iter()
        .map(|k| ((*k).into(), text(obj, &format!("/{}", k.replace('.', "/"))).to_string()))
        .collect()
}
