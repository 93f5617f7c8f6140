//! Event of the core group.

use knarr_machinery::{FieldError, Path, Str};
use serde_json::Value;

use crate::check;
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

/// How a version names the parts of an event. Errors name the fields of the core version, as upstream does.
pub(crate) struct Parts {
    /// The object that the event is about.
    pub object: &'static str,
    /// The component that reports it.
    pub controller: &'static str,
    /// The text.
    pub message: &'static str,
}

/// What every event obeys, in whichever version it is written.
pub(crate) fn validate_any(obj: &Value, parts: &Parts) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let involved = text(obj, &format!("/{}/namespace", parts.object));
    let own = text(obj, "/metadata/namespace");
    let new_style = obj.get("eventTime").is_some_and(|t| !t.is_null());
    let matches = match (involved, own) {
        ("", "" | "default") => true,
        ("", "kube-system") => new_style,
        ("", _) => false,
        // Events of the new style may be told from elsewhere.
        (a, b) => a == b || new_style,
    };
    if !matches {
        let at = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&at, involved, "does not match event.namespace"));
    }
    if new_style {
        reporter(&mut errors, obj, parts);
    }
    errors
}

/// Events of the new style have a reporter, an action and a reason.
fn reporter(errors: &mut Vec<FieldError>, obj: &Value, parts: &Parts) {
    let controller = text(obj, &format!("/{}", parts.controller));
    let at = Path::new(parts.controller);
    if controller.is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    check::qualified_name(errors, controller, &at);
    for key in ["reportingInstance", "action", "reason"] {
        let value = text(obj, &format!("/{key}"));
        if value.is_empty() {
            errors.push(FieldError::required(&Path::new(key), ""));
        } else if value.len() > 128 {
            errors.push(FieldError::invalid(&Path::new(key), "", "can have at most 128 characters"));
        }
    }
    if text(obj, &format!("/{}", parts.message)).len() > 1024 {
        errors.push(FieldError::invalid(&Path::new("message"), "", "can have at most 1024 characters"));
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let parts = Parts { object: "involvedObject", controller: "reportingComponent", message: "message" };
    validate_any(obj, &parts)
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
