//! Validation of jobs: the spec, and what may change of it.

use std::collections::BTreeSet;

use knarr_machinery::labels::Selector;
use knarr_machinery::{FieldError, Path, meta, names};
use serde_json::Value;

use super::{policies, status};
use crate::check::{self, Errors};
use crate::kind::Ctx;
use crate::podspec;
use crate::value::{flag, int, is_empty, list, map, text};

/// The field of a spec, unless it is absent or null.
pub(super) fn given<'a>(spec: &'a Value, key: &str) -> Option<&'a Value> {
    spec.get(key).filter(|v| !v.is_null())
}

/// All errors of a job with its defaults and its selector.
pub(super) fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Errors {
    validate_with(obj, None)
}

fn validate_with(obj: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    generated_selector(&mut errors, obj, old);
    let path = Path::new("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let before = old.and_then(|o| o.get("spec"));
    validate_spec(&mut errors, spec, before, &path);
    let selector = given(spec, "selector");
    match selector {
        None => errors.push(FieldError::required(&path.child("selector"), "")),
        Some(_) => check::label_selector(&mut errors, selector, &path.child("selector")),
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    let fits = match selector.map(Selector::from_label_selector) {
        None => false,
        Some(Err(_)) => true,
        Some(Ok(s)) => s.matches(&meta::labels(template)),
    };
    if !fits {
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or(Value::Null);
        let at = path.child("template").child("metadata").child("labels");
        errors.push(FieldError::invalid(&at, labels, "`selector` does not match template `labels`"));
    }
    if let Some(n) = int(spec, "/completions").filter(|n| *n > 0)
        && text(spec, "/completionMode") == "Indexed"
    {
        // The host names of the pods end in their index.
        let name = text(obj, "/metadata/name");
        let last = format!("{name}-{}", n - 1);
        if !names::is_dns1123_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.push(FieldError::invalid(&Path::new("metadata").child("name"), name, detail));
        }
    }
    errors
}

/// A selector that is not manual is the one that was made for this job.
fn generated_selector(errors: &mut Errors, obj: &Value, old: Option<&Value>) {
    let Some(selector) = obj.pointer("/spec/selector").filter(|s| !s.is_null()) else { return };
    if flag(obj, "/spec/manualSelector") {
        return;
    }
    let (uid, name) = (text(obj, "/metadata/uid"), text(obj, "/metadata/name"));
    if uid.is_empty() {
        errors.push(FieldError::required(&Path::new("metadata").child("uid"), ""));
    }
    let mut expected = vec![("controller-uid", uid), ("job-name", name)];
    // Jobs made before there were labels with a domain do without them.
    let labelled = |o: &Value| {
        map(o, "/spec/template/metadata/labels")
            .is_some_and(|l| l.contains_key("batch.kubernetes.io/controller-uid"))
    };
    if old.is_none_or(labelled) {
        expected
            .extend([("batch.kubernetes.io/controller-uid", uid), ("batch.kubernetes.io/job-name", name)]);
    }
    let labels = map(obj, "/spec/template/metadata/labels");
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    for (key, value) in &expected {
        let detail = format!("must be '{value}'");
        match labels.and_then(|l| l.get(*key)) {
            None => errors.push(FieldError::required(&at.key(key), detail)),
            Some(v) if v != value => {
                let all = Value::Object(labels.cloned().unwrap_or_default());
                errors.push(FieldError::invalid(&at.key(key), all, detail));
            }
            Some(_) => {}
        }
    }
    let own = expected.into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    if Selector::from_label_selector(selector).is_ok_and(|s| !s.matches(&own)) {
        let at = Path::new("spec").child("selector");
        errors.push(FieldError::invalid(&at, selector.clone(), "`selector` not auto-generated"));
    }
}

/// A job spec without its selector, also in the template of a CronJob.
pub(crate) fn validate_spec(errors: &mut Errors, spec: &Value, old: Option<&Value>, path: &Path) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::non_negative(errors, int(spec, &format!("/{key}")), &path.child(key));
    }
    if given(spec, "maxFailedIndexes").is_some() && given(spec, "backoffLimitPerIndex").is_none() {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), detail));
    }
    if let Some(manager) = given(spec, "managedBy").and_then(Value::as_str) {
        managed_by(errors, manager, &path.child("managedBy"));
    }
    completion_mode(errors, spec, path);
    policies::validate(errors, spec, path);
    let at = path.child("template");
    let template = spec.get("template").unwrap_or(&Value::Null);
    let before = old.and_then(|o| o.get("template"));
    errors.extend(podspec::validate_new_template(template, before, &at));
    let policy = text(template, "/spec/restartPolicy");
    let at = at.child("spec").child("restartPolicy");
    match policy {
        "Always" | "" => errors.push(FieldError::required(&at, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if given(spec, "podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(&at, policy, detail));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&at, other, &["OnFailure", "Never"])),
    }
}

/// The controller that looks after the job: `domain/path` of at most 63 bytes.
fn managed_by(errors: &mut Errors, manager: &str, at: &Path) {
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(at, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            check::dns_subdomain(errors, host, at);
            if let Some(m) = names::is_domain_prefixed_path(&format!("a.b/{rest}")).pop() {
                errors.push(FieldError::invalid(at, rest, m));
            }
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(at, manager, detail));
        }
    }
    if manager.len() > 63 {
        errors.push(FieldError::too_long(at, 63));
    }
}

/// Bounds of jobs whose pods have an index, and fields that only these have.
fn completion_mode(errors: &mut Errors, spec: &Value, path: &Path) {
    const MANY: i64 = 100_000;
    let number = |key: &str| int(spec, &format!("/{key}"));
    let mode = text(spec, "/completionMode");
    let modes = ["NonIndexed", "Indexed"];
    check::one_of(errors, mode, &path.child("completionMode"), &modes, None);
    if matches!(mode, "" | "NonIndexed") {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = number(key) {
                errors.push(FieldError::invalid(&path.child(key), n, "requires indexed completion mode"));
            }
        }
    }
    if mode != "Indexed" {
        return;
    }
    let mut above = |key: &str, limit: i64, rest: &str| {
        if let Some(n) = number(key).filter(|n| *n > limit) {
            let detail = format!("must be less than or equal to {limit}{rest}");
            errors.push(FieldError::invalid(&path.child(key), n, detail));
        }
    };
    above("parallelism", MANY, " when completion mode is Indexed");
    above("maxFailedIndexes", MANY, "");
    let (completions, failed) = (number("completions"), number("maxFailedIndexes"));
    if completions.is_some_and(|n| n > MANY) && given(spec, "backoffLimitPerIndex").is_some() {
        let rest = " when completions are above 100000 and used with backoff limit per index";
        above("parallelism", 10_000, rest);
        above("maxFailedIndexes", 10_000, rest);
        if failed.is_none() {
            let detail = "must be specified when completions is above 100000";
            errors.push(FieldError::required(&path.child("maxFailedIndexes"), detail));
        }
    }
    match (completions, failed) {
        (None, _) => {
            let detail = "when completion mode is Indexed";
            errors.push(FieldError::required(&path.child("completions"), detail));
        }
        (Some(all), Some(n)) if n > all => {
            let detail = "must be less than or equal to completions";
            errors.push(FieldError::invalid(&path.child("maxFailedIndexes"), n, detail));
        }
        _ => {}
    }
}

/// What may change: counts, deadlines, suspension; the template only while the job is suspended.
pub(super) fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Errors {
    if ctx.subresource == Some("status") {
        return status::validate(obj, old);
    }
    let mut errors = validate_with(obj, Some(old));
    let path = Path::new("spec");
    let (spec, before) = (obj.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
    completions(&mut errors, spec, before, &path.child("completions"));
    template(&mut errors, obj, old, &path.child("template"));
    for key in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        check::immutable(&mut errors, spec.get(key), before.get(key), &path.child(key));
    }
    errors
}

/// Indexed jobs may grow and shrink, completions and parallelism together.
fn completions(errors: &mut Errors, spec: &Value, old: &Value, at: &Path) {
    let (new, before) = (int(spec, "/completions"), int(old, "/completions"));
    if text(spec, "/completionMode") != "Indexed" {
        check::immutable(errors, spec.get("completions"), old.get("completions"), at);
    } else if let Some(n) = new.filter(|_| new != before && new != int(spec, "/parallelism")) {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(at, n, detail));
    }
}

/// Whether the job has no pods because it is suspended, and stays so or starts now.
fn at_rest(old: &Value) -> bool {
    let suspended = list(old, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "Suspended" && text(c, "/status") == "True");
    flag(old, "/spec/suspend")
        && (text(old, "/status/startTime").is_empty() || suspended)
        && int(old, "/status/active").unwrap_or(0) == 0
}

fn template(errors: &mut Errors, obj: &Value, old: &Value, at: &Path) {
    let mut munged = obj.pointer("/spec/template").cloned().unwrap_or_default();
    let before = old.pointer("/spec/template").cloned().unwrap_or_default();
    if at_rest(old) {
        allow_scheduling_changes(&mut munged, &before);
    }
    if !check::same(Some(&munged), Some(&before)) {
        let value = obj.pointer("/spec/template").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(at, value, "field is immutable"));
    }
}

/// Where the pods go, and what they ask for, may change before they exist.
fn allow_scheduling_changes(template: &mut Value, before: &Value) {
    if let (Some(new), Some(old)) = (template.get_mut("metadata"), before.get("metadata")) {
        for key in ["labels", "annotations"] {
            crate::ruleset::keep(new, old, key);
        }
    }
    let (Some(new), Some(old)) = (template.get_mut("spec"), before.get("spec")) else { return };
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        crate::ruleset::keep(new, old, key);
    }
    let affinity = old.pointer("/affinity/nodeAffinity").cloned();
    if let (Some(a), Some(_)) = (&affinity, new.as_object()) {
        crate::value::sub(new, "affinity")["nodeAffinity"] = a.clone();
    } else if let Some(a) = new.get_mut("affinity") {
        crate::value::drop_key(a, "nodeAffinity");
        if is_empty(Some(a)) {
            crate::value::drop_key(new, "affinity");
        }
    }
    for key in ["containers", "initContainers"] {
        let names: BTreeSet<&str> = list(old, &format!("/{key}")).iter().map(|c| text(c, "/name")).collect();
        let was = list(old, &format!("/{key}")).to_vec();
        crate::value::each(new, &format!("/{key}"), |c| {
            let name = text(c, "/name").to_string();
            if names.contains(name.as_str())
                && let Some(o) = was.iter().find(|o| text(o, "/name") == name)
            {
                crate::ruleset::keep(c, o, "resources");
            }
        });
    }
}
