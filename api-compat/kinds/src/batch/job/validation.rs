//! Validation of jobs.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::kind::Ctx;
use crate::podspec;
use crate::value::{flag, int, list, text};
use crate::workload;

/// All errors of a job with its defaults and its selector.
pub(super) fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    validate_template_spec(&mut errors, obj.get("spec").unwrap_or(&Value::Null), &spec);
    let selector = obj.pointer("/spec/selector").filter(|s| !s.is_null());
    if selector.is_none() {
        errors.push(FieldError::required(&spec.child("selector"), ""));
    } else {
        check::label_selector(&mut errors, selector, &spec.child("selector"));
    }
    if text(obj, "/spec/completionMode") == "Indexed" {
        let last = int(obj, "/spec/completions").unwrap_or(1).max(1) - 1;
        let host = format!("{}-{last}", text(obj, "/metadata/name"));
        if host.len() > 63 {
            let messages = knarr_machinery::names::is_dns1123_label(&host);
            check::names(
                &mut errors,
                messages,
                text(obj, "/metadata/name").into(),
                &Path::new("metadata").child("name"),
            );
        }
    }
    errors
}

/// A job spec without its selector, also in the template of a CronJob.
pub(crate) fn validate_template_spec(errors: &mut Errors, spec: &Value, path: &Path) {
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
    let indexed = text(spec, "/completionMode") == "Indexed";
    check::one_of(
        errors,
        text(spec, "/completionMode"),
        &path.child("completionMode"),
        &["Indexed", "NonIndexed"],
        None,
    );
    if indexed {
        if int(spec, "/completions").is_none() {
            errors.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
        }
        if let Some(n) = int(spec, "/parallelism").filter(|n| *n > 100_000) {
            errors.push(FieldError::invalid(
                &path.child("parallelism"),
                n,
                "must be less than or equal to 100000 when completion mode is Indexed",
            ));
        }
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = int(spec, &format!("/{key}")) {
                errors.push(FieldError::invalid(&path.child(key), n, "requires indexed completion mode"));
            }
        }
    }
    failure_policy(errors, spec, path);
    let policies = ["Failed", "TerminatingOrFailed"];
    check::one_of(
        errors,
        text(spec, "/podReplacementPolicy"),
        &path.child("podReplacementPolicy"),
        &policies,
        None,
    );
    let at = path.child("template");
    let template = spec.get("template").unwrap_or(&Value::Null);
    errors.extend(podspec::validate_template(template, &at));
    let restart = at.child("spec").child("restartPolicy");
    match text(template, "/spec/restartPolicy") {
        "Always" | "" => {
            errors.push(FieldError::required(&restart, "valid values: \"OnFailure\", \"Never\""))
        }
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&restart, other, &["Never", "OnFailure"])),
    }
    if spec.get("podFailurePolicy").is_some_and(|p| !p.is_null())
        && text(template, "/spec/restartPolicy") != "Never"
    {
        errors.push(FieldError::invalid(
            &restart,
            text(template, "/spec/restartPolicy"),
            "only \"Never\" is supported when podFailurePolicy is specified",
        ));
    }
}

fn failure_policy(errors: &mut Errors, spec: &Value, path: &Path) {
    let rules = list(spec, "/podFailurePolicy/rules");
    let at = path.child("podFailurePolicy").child("rules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&at, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let here = at.index(i);
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        check::one_of(
            errors,
            text(rule, "/action"),
            &here.child("action"),
            &actions,
            Some("valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""),
        );
        let codes = rule.get("onExitCodes").is_some_and(|v| !v.is_null());
        let conditions = !list(rule, "/onPodConditions").is_empty();
        if codes == conditions {
            let detail = if codes {
                "specifying both OnExitCodes and OnPodConditions is not supported"
            } else {
                "specifying one of OnExitCodes and OnPodConditions is required"
            };
            errors.push(FieldError::invalid(&here, rule.clone(), detail));
        }
        if codes {
            check::one_of(
                errors,
                text(rule, "/onExitCodes/operator"),
                &here.child("onExitCodes").child("operator"),
                &["In", "NotIn"],
                Some("valid values: \"In\", \"NotIn\""),
            );
            let values = list(rule, "/onExitCodes/values");
            if values.is_empty() {
                errors.push(FieldError::invalid(
                    &here.child("onExitCodes").child("values"),
                    values.to_vec(),
                    "at least one value is required",
                ));
            }
        }
    }
}

/// What may change: counts, deadlines, suspension; the template only while suspended and not started.
pub(super) fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    if ctx.subresource == Some("status") {
        workload::status_counts(&mut errors, obj, &["active", "succeeded", "failed", "ready", "terminating"]);
        return errors;
    }
    errors.extend(validate(ctx, obj));
    let spec = Path::new("spec");
    let indexed = text(obj, "/spec/completionMode") == "Indexed";
    let elastic = indexed
        && int(obj, "/spec/completions") == int(obj, "/spec/parallelism")
        && int(old, "/spec/completions") == int(old, "/spec/parallelism");
    let mut fixed = vec![
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    if !elastic {
        fixed.insert(0, "completions");
    }
    for key in fixed {
        let p = format!("/spec/{key}");
        check::immutable(&mut errors, obj.pointer(&p), old.pointer(&p), &spec.child(key));
    }
    let mut template = obj.pointer("/spec/template").cloned().unwrap_or_default();
    let before = old.pointer("/spec/template").cloned().unwrap_or_default();
    let not_started = flag(old, "/spec/suspend") && text(old, "/status/startTime").is_empty();
    if not_started {
        crate::ruleset::keep(&mut template, &before, "metadata");
        if let (Some(new), Some(b)) = (template.get_mut("spec"), before.get("spec")) {
            for key in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                crate::ruleset::keep(new, b, key);
            }
        }
    }
    if !check::same(Some(&template), Some(&before)) {
        errors.push(FieldError::invalid(
            &spec.child("template"),
            obj["spec"]["template"].clone(),
            "field is immutable",
        ));
    }
    errors
}
