//! What a write of a job's status may say.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::policies::parse_indexes;
use super::validation::given;
use crate::check::Errors;
use crate::value::{flag, int, list, text};
use crate::workload;

/// Whether a condition of this type is true.
fn is(obj: &Value, kind: &str) -> bool {
    list(obj, "/status/conditions").iter().any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

/// Whether the rule applies: something that the rule looks at changed.
fn changed(obj: &Value, old: &Value, keys: &[&str]) -> bool {
    keys.iter().any(|k| obj.pointer(&format!("/status/{k}")) != old.pointer(&format!("/status/{k}")))
}

/// Update of `status`.
pub(super) fn validate(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    workload::status_counts(&mut errors, obj, &["active", "succeeded", "failed", "ready", "terminating"]);
    let path = Path::new("status");
    uncounted(&mut errors, obj, &path.child("uncountedTerminatedPods"));
    conditions(&mut errors, obj, old, &path);
    times(&mut errors, obj, old, &path);
    finished(&mut errors, obj, old, &path);
    indexes(&mut errors, obj, old, &path);
    let count = |v: &Value, key: &str| int(v, &format!("/status/{key}")).unwrap_or(0);
    if changed(obj, old, &["ready", "active"]) && count(obj, "ready") > count(obj, "active") {
        let detail = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(&path.child("ready"), count(obj, "ready"), detail));
    }
    for key in ["failed", "succeeded"] {
        if count(obj, key) < count(old, key) {
            let detail = format!("cannot decrease the {key} counter");
            errors.push(FieldError::invalid(&path.child(key), count(obj, key), detail));
        }
    }
    errors
}

fn uncounted(errors: &mut Errors, obj: &Value, path: &Path) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for key in ["succeeded", "failed"] {
        let uids = list(obj, &format!("/status/uncountedTerminatedPods/{key}"));
        for (i, uid) in uids.iter().filter_map(Value::as_str).enumerate() {
            let at = path.child(key).index(i);
            if uid.is_empty() {
                errors.push(FieldError::invalid(&at, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(FieldError::duplicate(&at, uid));
            }
        }
    }
}

/// Conditions that exclude or need one another, and those that are final.
fn conditions(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let at = path.child("conditions");
    let (complete, failed) = (is(obj, "Complete"), is(obj, "Failed"));
    let (target, met) = (is(obj, "FailureTarget"), is(obj, "SuccessCriteriaMet"));
    let mut wrong = |holds: bool, detail: &str| {
        if holds {
            errors.push(FieldError::wrong(&at, detail));
        }
    };
    wrong(complete && failed, "cannot set Complete=True and Failed=true conditions");
    wrong(complete && target, "cannot set Complete=True and FailureTarget=true conditions");
    wrong(
        failed && !is(old, "Failed") && !target,
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    wrong(
        complete && !is(old, "Complete") && !met,
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    wrong(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    wrong(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        let detail = format!("cannot disable the terminal {kind}=True condition");
        wrong(is(old, kind) && !is(obj, kind), &detail);
    }
    wrong(is(old, "SuccessCriteriaMet") && !met, "cannot disable the SuccessCriteriaMet=True condition");
    wrong(
        is(old, "Complete") && !is(old, "SuccessCriteriaMet") && met,
        "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
    );
}

fn times(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let complete = is(obj, "Complete");
    let (start, end) = (text(obj, "/status/startTime"), text(obj, "/status/completionTime"));
    let (was_started, was_ended) = (text(old, "/status/startTime"), text(old, "/status/completionTime"));
    let at = path.child("completionTime");
    if changed(obj, old, &["completionTime", "conditions"]) {
        if !end.is_empty() && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(&at, end, detail));
        }
        if end.is_empty() && complete {
            errors.push(FieldError::required(&at, "completionTime is required for Complete jobs"));
        }
    }
    if !start.is_empty()
        && !end.is_empty()
        && end < start
        && changed(obj, old, &["startTime", "completionTime"])
    {
        errors.push(FieldError::invalid(&at, end, "completionTime cannot be set before startTime"));
    }
    if !end.is_empty() && !was_ended.is_empty() && end != was_ended {
        errors.push(FieldError::invalid(&at, end, "completionTime cannot be mutated"));
    }
    if !was_started.is_empty() && start != was_started && !flag(obj, "/spec/suspend") {
        let detail = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required(&path.child("startTime"), detail));
    }
}

/// A job that has ended has no pods left, and had a beginning.
fn finished(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    if !is(obj, "Complete") && !is(obj, "Failed") {
        return;
    }
    let count = |key: &str| int(obj, &format!("/status/{key}")).unwrap_or(0);
    let ended_now = changed(obj, old, &["conditions"]);
    for key in ["active", "terminating"] {
        if count(key) > 0 && (ended_now || changed(obj, old, &[key])) {
            let detail = format!("{key}>0 is invalid for finished job");
            errors.push(FieldError::invalid(&path.child(key), count(key), detail));
        }
    }
    if text(obj, "/status/startTime").is_empty() && (ended_now || changed(obj, old, &["startTime"])) {
        errors.push(FieldError::required(&path.child("startTime"), "startTime is required for finished job"));
    }
    let pods = obj.pointer("/status/uncountedTerminatedPods").cloned().unwrap_or_default();
    let some = ["failed", "succeeded"].iter().any(|k| !list(&pods, &format!("/{k}")).is_empty());
    if some && (ended_now || changed(obj, old, &["uncountedTerminatedPods"])) {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.push(FieldError::invalid(&path.child("uncountedTerminatedPods"), pods, detail));
    }
}

fn indexes(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let completed = text(obj, "/status/completedIndexes");
    let failed = obj.get("status").and_then(|s| given(s, "failedIndexes")).and_then(Value::as_str);
    let indexed = text(obj, "/spec/completionMode") == "Indexed";
    let per_index = obj.pointer("/spec/backoffLimitPerIndex").is_some_and(|v| !v.is_null());
    let (done_path, failed_path) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let (done_changed, failed_changed) =
        (changed(obj, old, &["completedIndexes"]), changed(obj, old, &["failedIndexes"]));
    if done_changed && !completed.is_empty() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(&done_path, completed, detail));
    }
    if let Some(f) = failed.filter(|_| failed_changed && !per_index) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(&failed_path, f, detail));
    }
    let Some(completions) = int(obj, "/spec/completions") else { return };
    let done = parse_indexes(completed, completions);
    if let Err(e) = done.as_ref().map_err(String::as_str)
        && done_changed
        && indexed
    {
        let detail = format!("error parsing completedIndexes: {e}");
        errors.push(FieldError::invalid(&done_path, completed, detail));
    }
    let Some(f) = failed.filter(|_| per_index) else { return };
    match parse_indexes(f, completions) {
        Err(e) if failed_changed => {
            let detail = format!("error parsing failedIndexes: {e}");
            errors.push(FieldError::invalid(&failed_path, f, detail));
        }
        Ok(lost) if failed_changed || done_changed => {
            let shared = done
                .into_iter()
                .flatten()
                .find_map(|(a, b)| lost.iter().find(|(x, y)| a <= *y && *x <= b).map(|(x, _)| a.max(*x)));
            if let Some(i) = shared {
                let detail = format!("failedIndexes and completedIndexes overlap at index: {i}");
                errors.push(FieldError::invalid(&failed_path, f, detail));
            }
        }
        _ => {}
    }
}
