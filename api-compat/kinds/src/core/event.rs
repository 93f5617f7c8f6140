//! Event of the core group.

use knarr_machinery::{FieldError, Path, Str};
use serde_json::Value;

use crate::facts::{Col, Facts};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{int, name, since, text};

static RULES: RuleSet = RuleSet { validate, row: row_core, fields, create_on_update: true, ..PLAIN };

/// Columns of both kinds of events.
pub(crate) const EVENT_COLUMNS: &[Col] = &[
    ("Last Seen", "string", 0, "Time since the event was last seen."),
    ("Type", "string", 0, "Normal or Warning."),
    ("Reason", "string", 0, "Why it happened, in one word."),
    ("Object", "string", 0, "Object that the event is about."),
    ("Subobject", "string", 1, "Part of the object that the event is about."),
    ("Source", "string", 1, "Who reports the event."),
    ("Message", "string", 0, "What happened."),
    ("First Seen", "string", 1, "Time since the event was first seen."),
    ("Count", "integer", 1, "How often it was seen."),
    ("Name", "string", 1, "Name of the event object."),
];

const SELECTABLE: &[&str] = &[
    "involvedObject.apiVersion",
    "involvedObject.fieldPath",
    "involvedObject.kind",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.resourceVersion",
    "involvedObject.uid",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Event", "events")
        .namespaced()
        .short(&["ev"])
        .columns(EVENT_COLUMNS)
        .selectable(SELECTABLE)
        .build(&RULES)
}

/// The event lives in the namespace of its object, or in `default` for objects without one.
pub(crate) fn namespace_matches(obj: &Value, key: &str) -> Vec<FieldError> {
    let involved = text(obj, &format!("/{key}/namespace"));
    let own = text(obj, "/metadata/namespace");
    let path = Path::new("involvedObject").child("namespace");
    if involved.is_empty() {
        if own != "default" && own != "kube-system" && !own.is_empty() {
            return vec![FieldError::invalid(&path, involved, "does not match event.namespace")];
        }
    } else if involved != own && !own.is_empty() {
        return vec![FieldError::invalid(&path, involved, "does not match event.namespace")];
    }
    Vec::new()
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = namespace_matches(obj, "involvedObject");
    if obj.get("eventTime").is_some_and(|t| !t.is_null()) {
        crate::events::event::reporter(&mut errors, obj, "reportingComponent", "message");
    }
    errors
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    SELECTABLE
        .iter()
        .map(|k| {
            let value = match *k {
                "source" => {
                    let source = text(obj, "/source/component");
                    if source.is_empty() { text(obj, "/reportingComponent") } else { source }
                }
                other => text(obj, &format!("/{}", other.replace('.', "/"))),
            };
            ((*k).into(), value.to_string())
        })
        .collect()
}

/// Row of a core event.
pub(crate) fn row_core(obj: &Value, now: &str) -> Vec<Value> {
    let event_time = text(obj, "/eventTime");
    let first = match text(obj, "/firstTimestamp") {
        "" => since(event_time, now),
        t => since(t, now),
    };
    let last = match text(obj, "/lastTimestamp") {
        "" => first.clone(),
        t => since(t, now),
    };
    let (last, count) = match obj.get("series").filter(|s| !s.is_null()) {
        Some(s) => (since(text(s, "/lastObservedTime"), now), int(s, "/count").unwrap_or(0)),
        None => (last, int(obj, "/count").filter(|c| *c > 0).unwrap_or(1)),
    };
    let kind = text(obj, "/involvedObject/kind").to_lowercase();
    let involved = text(obj, "/involvedObject/name");
    let object = if involved.is_empty() { kind } else { format!("{kind}/{involved}") };
    let component = match text(obj, "/source/component") {
        "" => text(obj, "/reportingComponent"),
        c => c,
    };
    let host = match text(obj, "/source/host") {
        "" => text(obj, "/reportingInstance"),
        h => h,
    };
    let source = if host.is_empty() { component.to_string() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        text(obj, "/type").into(),
        text(obj, "/reason").into(),
        object.into(),
        text(obj, "/involvedObject/fieldPath").into(),
        source.into(),
        text(obj, "/message").trim().into(),
        first.into(),
        count.into(),
        name(obj),
    ]
}
