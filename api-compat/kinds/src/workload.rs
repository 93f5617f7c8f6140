//! What the workload kinds share: selector and template, counts, rolling updates.

use knarr_machinery::labels::Selector;
use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, CONTAINERS, Col, IMAGES, NAME, SELECTOR};
use crate::podspec;
use crate::value::{age, container_cells, int, is_empty, name, number, selector_text, text};

/// Path of wanted and observed replicas and of the selector, for `scale`.
pub(crate) const SCALE: Option<(&str, &str, &str)> =
    Some(("spec.replicas", "status.replicas", "spec.selector"));

/// Columns of the kinds that keep a number of pods.
pub(crate) const REPLICA_COLUMNS: &[Col] = &[
    NAME,
    ("Desired", "integer", 0, "Pods that are wanted."),
    ("Current", "integer", 0, "Pods that exist."),
    ("Ready", "integer", 0, "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of [`REPLICA_COLUMNS`]; `last` are those of the template and the selector.
pub(crate) fn replica_cells(obj: &Value, now: &str, last: [Value; 3]) -> Vec<Value> {
    let counts = ["/spec/replicas", "/status/replicas", "/status/readyReplicas"];
    let mut cells = vec![name(obj)];
    cells.extend(counts.iter().map(|c| number(obj, c)));
    cells.push(age(obj, now));
    cells.extend(last);
    cells
}

/// The status of one that was just made.
pub(crate) fn no_replicas() -> Value {
    json!({"replicas": 0})
}

/// What selects by `status.replicas`.
pub(crate) fn replica_fields(obj: &Value) -> Vec<(Str, String)> {
    vec![(Str::from("status.replicas"), int(obj, "/status/replicas").unwrap_or(0).to_string())]
}

/// Selector (a LabelSelector) and template of `spec`, which must fit each other.
/// `old` is the object that is replaced.
pub(crate) fn selector_and_template(errors: &mut Errors, obj: &Value, old: Option<&Value>, what: &str) {
    let spec = Path::new("spec");
    let selector = obj.pointer("/spec/selector").filter(|s| !s.is_null());
    let at = spec.child("selector");
    match selector {
        None => errors.push(FieldError::required(&at, "")),
        Some(s) => {
            check::label_selector(errors, Some(s), &at);
            if is_empty(s.get("matchLabels")) && is_empty(s.get("matchExpressions")) {
                errors.push(FieldError::invalid(
                    &at,
                    s.clone(),
                    format!(
                        "empty selector is invalid for {}",
                        if what == "replicaset" { "deployment" } else { what }
                    ),
                ));
            }
        }
    }
    let template = obj.pointer("/spec/template").unwrap_or(&Value::Null);
    let path = spec.child("template");
    let nothing =
        selector.is_some_and(|s| is_empty(s.get("matchLabels")) && is_empty(s.get("matchExpressions")));
    match selector.map(Selector::from_label_selector) {
        // No selector selects nothing: no labels of the template fit it.
        None => labels_differ(errors, template, &path),
        Some(Err(_)) => {
            let given = selector.cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&at, given, "invalid label selector"));
            return;
        }
        Some(Ok(parsed)) => {
            if !nothing && !parsed.matches(&knarr_machinery::meta::labels(template)) {
                labels_differ(errors, template, &path);
            }
        }
    }
    errors.extend(podspec::validate_new_template(
        template,
        old.and_then(|o| o.pointer("/spec/template")),
        &path,
    ));
    always_restarts(errors, template, &path, what);
}

fn labels_differ(errors: &mut Errors, template: &Value, path: &Path) {
    let value = template.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
    let at = path.child("metadata").child("labels");
    errors.push(FieldError::invalid(&at, value, "`selector` does not match template `labels`"));
}

/// Pods of controllers that run for ever restart always and have no deadline.
pub(crate) fn always_restarts(errors: &mut Errors, template: &Value, path: &Path, what: &str) {
    let policy = text(template, "/spec/restartPolicy");
    if policy != "Always" {
        let at = path.child("spec").child("restartPolicy");
        errors.push(FieldError::not_supported(&at, policy, &["Always"]));
    }
    if template.pointer("/spec/activeDeadlineSeconds").is_some_and(|v| !v.is_null()) {
        let at = path.child("spec").child("activeDeadlineSeconds");
        let kind = match what {
            "deployment" | "replicaset" => "ReplicaSet",
            "daemonset" => "DaemonSet",
            "statefulset" => "StatefulSet",
            _ => "ReplicationController",
        };
        errors.push(FieldError::forbidden(&at, format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

/// Counts of `spec` that may not be negative.
pub(crate) fn counts(errors: &mut Errors, obj: &Value, keys: &[&str]) {
    for key in keys {
        check::non_negative(errors, int(obj, &format!("/spec/{key}")), &Path::new("spec").child(key));
    }
}

/// Counts of `status` that may not be negative.
pub(crate) fn status_counts(errors: &mut Errors, obj: &Value, keys: &[&str]) {
    for key in keys {
        check::non_negative(errors, int(obj, &format!("/status/{key}")), &Path::new("status").child(key));
    }
}

/// A count or a percentage that is not negative.
pub(crate) fn count_or_percent(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    match value {
        Some(Value::String(s)) => check::names(errors, names::is_percent(s), s.as_str().into(), path),
        Some(v) => check::non_negative(errors, v.as_i64(), path),
        None => {}
    }
}

/// Whether an IntOrString is nothing.
pub(crate) fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(s)) => s.strip_suffix('%').unwrap_or(s).parse::<i64>().unwrap_or(0) == 0,
        Some(v) => v.as_i64() == Some(0),
        None => true,
    }
}

/// A percentage of at most 100.
pub(crate) fn at_most_all(errors: &mut Errors, value: Option<&Value>, path: &Path) {
    if let Some(Value::String(s)) = value
        && s.trim_end_matches('%').parse::<i64>().is_ok_and(|n| n > 100)
    {
        errors.push(FieldError::invalid(path, s.as_str(), "must not be greater than 100%"));
    }
}

/// An update keeps the selector.
pub(crate) fn same_selector(errors: &mut Errors, obj: &Value, old: &Value) {
    let p = "/spec/selector";
    check::immutable(errors, obj.pointer(p), old.pointer(p), &Path::new("spec").child("selector"));
}

/// Containers, images and selector cells.
pub(crate) fn template_cells(obj: &Value) -> [Value; 3] {
    let (names, images) = container_cells(obj.pointer("/spec/template/spec"));
    [names, images, selector_text(obj.pointer("/spec/selector")).into()]
}

/// Hash of collisions never goes down.
pub(crate) fn collision_count(errors: &mut Errors, obj: &Value, old: &Value) {
    let p = "/status/collisionCount";
    check::non_negative(errors, int(obj, p), &Path::new("status").child("collisionCount"));
    if let (new, Some(before)) = (int(obj, p).unwrap_or(0), int(old, p))
        && new < before
    {
        let at = Path::new("status").child("collisionCount");
        errors.push(FieldError::invalid(&at, new, "cannot be decremented"));
    }
}
