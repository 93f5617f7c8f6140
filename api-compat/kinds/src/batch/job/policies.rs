//! Validation of what decides over failure, success and replacement of a job's pods.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::validation::given;
use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// `podFailurePolicy`, `successPolicy` and `podReplacementPolicy`.
pub(super) fn validate(errors: &mut Errors, spec: &Value, path: &Path) {
    let failure = given(spec, "podFailurePolicy");
    if let Some(policy) = failure {
        failure_policy(errors, spec, policy, &path.child("podFailurePolicy").child("rules"));
    }
    if let Some(policy) = given(spec, "successPolicy") {
        let at = path.child("successPolicy");
        if text(spec, "/completionMode") == "Indexed" {
            success_policy(errors, spec, policy, &at.child("rules"));
        } else {
            errors.push(FieldError::invalid(&at, policy.clone(), "requires indexed completion mode"));
        }
    }
    if let Some(replacement) = given(spec, "podReplacementPolicy").and_then(Value::as_str) {
        let known: &[&str] = if failure.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !known.contains(&replacement) {
            let at = path.child("podReplacementPolicy");
            errors.push(FieldError::not_supported(&at, replacement, known));
        }
    }
}

fn failure_policy(errors: &mut Errors, spec: &Value, policy: &Value, path: &Path) {
    let rules = list(policy, "/rules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(path, rules.len(), 20));
    }
    let pod = "/template/spec";
    let names: BTreeSet<&str> = list(spec, &format!("{pod}/containers"))
        .iter()
        .chain(list(spec, &format!("{pod}/initContainers")))
        .map(|c| text(c, "/name"))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        action(errors, spec, text(rule, "/action"), &at.child("action"));
        let codes = given(rule, "onExitCodes");
        if let Some(codes) = codes {
            exit_codes(errors, codes, &names, &at.child("onExitCodes"));
        }
        let patterns = list(rule, "/onPodConditions");
        pod_conditions(errors, patterns, &at.child("onPodConditions"));
        match (codes.is_some(), !patterns.is_empty()) {
            (true, true) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(FieldError::wrong(&at, detail));
            }
            (false, false) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(FieldError::wrong(&at, detail));
            }
            _ => {}
        }
    }
}

fn action(errors: &mut Errors, spec: &Value, action: &str, at: &Path) {
    let known = ["Count", "FailIndex", "FailJob", "Ignore"];
    let required = r#"valid values: ["Count" "FailIndex" "FailJob" "Ignore"]"#;
    check::one_of(errors, action, at, &known, Some(required));
    if action == "FailIndex" && given(spec, "backoffLimitPerIndex").is_none() {
        errors.push(FieldError::invalid(at, action, "requires the backoffLimitPerIndex to be set"));
    }
}

fn pod_conditions(errors: &mut Errors, patterns: &[Value], path: &Path) {
    if patterns.len() > 20 {
        errors.push(FieldError::too_many(path, patterns.len(), 20));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let at = path.index(i);
        check::qualified_name(errors, text(pattern, "/type"), &at.child("type"));
        let known = ["False", "True", "Unknown"];
        let required = r#"valid values: ["False" "True" "Unknown"]"#;
        check::one_of(errors, text(pattern, "/status"), &at.child("status"), &known, Some(required));
    }
}

fn exit_codes(errors: &mut Errors, codes: &Value, names: &BTreeSet<&str>, path: &Path) {
    let operator = text(codes, "/operator");
    let required = r#"valid values: ["In" "NotIn"]"#;
    check::one_of(errors, operator, &path.child("operator"), &["In", "NotIn"], Some(required));
    if let Some(name) = given(codes, "containerName").and_then(Value::as_str)
        && !names.contains(name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(&path.child("containerName"), name, detail));
    }
    let at = path.child("values");
    let values: Vec<i64> = list(codes, "/values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        let given = codes.get("values").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(&at, given, "at least one value is required"));
    } else if values.len() > 255 {
        errors.push(FieldError::too_many(&at, values.len(), 255));
    }
    let mut seen = BTreeSet::new();
    for (i, n) in values.iter().enumerate() {
        if operator == "In" && *n == 0 {
            errors.push(FieldError::invalid(&at.index(i), *n, "must not be 0 for the In operator"));
        }
        if !seen.insert(n) {
            errors.push(FieldError::duplicate(&at.index(i), *n));
        }
    }
    if values.windows(2).any(|w| w[0] > w[1]) {
        errors.push(FieldError::invalid(&at, values, "must be ordered"));
    }
}

fn success_policy(errors: &mut Errors, spec: &Value, policy: &Value, path: &Path) {
    let rules = list(policy, "/rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, detail));
    }
    if rules.len() > 20 {
        errors.push(FieldError::too_many(path, rules.len(), 20));
    }
    let completions = int(spec, "/completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let (count, indexes) =
            (int(rule, "/succeededCount"), given(rule, "succeededIndexes").and_then(Value::as_str));
        if count.is_none() && indexes.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(&at, detail));
        }
        let mut total = 0;
        if let Some(given) = indexes {
            let here = at.child("succeededIndexes");
            if given.len() > 64 * 1024 {
                errors.push(FieldError::too_long(&here, 64 * 1024));
            }
            match parse_indexes(given, completions) {
                Ok(all) => total = all.iter().map(|(a, b)| b - a + 1).sum(),
                Err(e) => {
                    let detail = format!("error parsing succeededIndexes: {e}");
                    errors.push(FieldError::invalid(&here, given, detail));
                }
            }
        }
        let Some(n) = count else { continue };
        let here = at.child("succeededCount");
        check::non_negative(errors, count, &here);
        if n > completions {
            let detail =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(FieldError::invalid(&here, n, detail));
        }
        if indexes.is_some() && n > total {
            let detail = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(FieldError::invalid(&here, n, detail));
        }
    }
}

/// Intervals such as `1,3-5`, in order, below `completions`.
pub(super) fn parse_indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut all = Vec::new();
    let mut last: Option<i64> = None;
    if text.is_empty() {
        return Ok(all);
    }
    for interval in text.split(',') {
        let parts: Vec<&str> = interval.split('-').collect();
        if parts.len() > 2 {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let number = |s: &str| {
            s.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {s:?}"))
        };
        let first = number(parts[0])?;
        let end = number(parts[parts.len() - 1])?;
        for (n, s) in [(first, parts[0]), (end, parts[parts.len() - 1])] {
            if n >= completions {
                return Err(format!("too large index: {s:?}"));
            }
        }
        if let Some(l) = last.filter(|l| *l >= first) {
            return Err(format!("non-increasing order, previous: {l}, current: {first}"));
        }
        if parts.len() == 2 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        last = Some(end);
        all.push((first, end));
    }
    Ok(all)
}
