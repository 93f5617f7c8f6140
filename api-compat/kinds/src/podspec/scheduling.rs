//! Validation of tolerations and topology spread constraints.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::scene::{Scene, given};
use crate::check::{self, Errors};
use crate::value::{int, list, map, text};

/// Tolerations. The operators Lt and Gt belong to a feature that is off.
pub(crate) fn validate_tolerations(tolerations: &[Value], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, t) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator, value) = (text(t, "/key"), text(t, "/operator"), text(t, "/value"));
        let place = at.child("operator");
        if !key.is_empty() {
            check::qualified_name(&mut errors, key, &at.child("key"));
        }
        if key.is_empty() && operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&place, operator, detail));
        }
        let effect = text(t, "/effect");
        if given(t, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&at.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let messages = names::is_label_value(value);
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(&place, value, messages.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errors.push(FieldError::invalid(&place, value, detail));
                }
            }
            other => errors.push(FieldError::not_supported(&place, other, &["Equal", "Exists"])),
        }
        validate_effect(&mut errors, effect, None, &at.child("effect"));
    }
    errors
}

/// What a taint does to pods that do not tolerate it.
pub(crate) fn validate_effect(errors: &mut Errors, effect: &str, required: Option<&str>, path: &Path) {
    check::one_of(errors, effect, path, &["NoSchedule", "PreferNoSchedule", "NoExecute"], required);
}

/// Topology spread constraints.
pub(super) fn validate_spread(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let constraints = list(scene.spec, "/topologySpreadConstraints");
    let pair = |c: &Value| (text(c, "/topologyKey").to_string(), text(c, "/whenUnsatisfiable").to_string());
    for (i, c) in constraints.iter().enumerate() {
        let at = path.index(i);
        let skew = int(c, "/maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(&at.child("maxSkew"), skew, "must be greater than zero"));
        }
        let (key, action) = (text(c, "/topologyKey"), text(c, "/whenUnsatisfiable"));
        if key.is_empty() {
            errors.push(FieldError::required(&at.child("topologyKey"), "can not be empty"));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errors.push(FieldError::not_supported(&at.child("whenUnsatisfiable"), action, &actions));
        }
        if constraints[i + 1..].iter().any(|other| pair(other) == pair(c)) {
            let at = at.child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&at, format!("{{{key}, {action}}}")));
        }
        min_domains(errors, int(c, "/minDomains"), action, &at.child("minDomains"));
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = given(c, field).and_then(Value::as_str)
                && !matches!(policy, "Honor" | "Ignore")
            {
                errors.push(FieldError::not_supported(&at.child(field), policy, &["Honor", "Ignore"]));
            }
        }
        validate_label_keys(errors, c, &at);
        check::label_selector(errors, c.get("labelSelector"), &at.child("labelSelector"));
    }
}

fn min_domains(errors: &mut Errors, value: Option<i64>, action: &str, path: &Path) {
    let Some(n) = value else { return };
    if n <= 0 {
        errors.push(FieldError::invalid(path, n, "must be greater than zero"));
    }
    if action != "DoNotSchedule" {
        let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
        errors.push(FieldError::invalid(path, n, detail));
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` of a term or constraint.
pub(super) fn validate_label_keys(errors: &mut Errors, term: &Value, path: &Path) {
    let keys = |field: &str| -> Vec<&str> {
        list(term, &format!("/{field}")).iter().filter_map(Value::as_str).collect()
    };
    let selector = given(term, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let at = path.child(field);
        let keys = keys(field);
        if !keys.is_empty() && selector.is_none() {
            let detail = "must not be specified when labelSelector is not set";
            errors.push(FieldError::forbidden(&at, detail));
            continue;
        }
        for (i, key) in keys.into_iter().enumerate() {
            check::qualified_name(errors, key, &at.index(i));
        }
    }
    let (matched, mismatched) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    if let Some(s) = selector {
        // The keys have become expressions already: one that is there once more was given twice.
        let mut seen: BTreeSet<&str> =
            map(s, "/matchLabels").into_iter().flatten().map(|(k, _)| k.as_str()).collect();
        for expression in list(s, "/matchExpressions") {
            let key = text(expression, "/key");
            if let Some(i) = matched.iter().rposition(|k| *k == key).filter(|_| seen.contains(key)) {
                let detail = "exists in both matchLabelKeys and labelSelector";
                errors.push(FieldError::invalid(&path.index(i), key, detail));
            }
            seen.insert(key);
        }
    }
    for (i, key) in matched.iter().enumerate().filter(|(_, k)| mismatched.contains(k)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.push(FieldError::invalid(&path.child("matchLabelKeys").index(i), *key, detail));
    }
}
