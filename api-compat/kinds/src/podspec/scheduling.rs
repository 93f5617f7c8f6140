//! Validation of tolerations and topology spread constraints.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{int, text};

/// Tolerations.
pub(crate) fn validate_tolerations(tolerations: &[Value], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, t) in tolerations.iter().enumerate() {
        let at = path.index(i);
        let (key, operator) = (text(t, "/key"), text(t, "/operator"));
        if !key.is_empty() {
            check::qualified_name(&mut errors, key, &at.child("key"));
        }
        if key.is_empty() && operator != "Exists" {
            errors.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        let effect = text(t, "/effect");
        if t.get("tolerationSeconds").is_some_and(|s| !s.is_null()) && effect != "NoExecute" {
            errors.push(FieldError::invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "Equal" | "" => {
                let value = text(t, "/value");
                let messages = names::is_label_value(value);
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(&at.child("operator"), value, messages.join(";")));
                }
            }
            "Exists" => {
                if !text(t, "/value").is_empty() {
                    errors.push(FieldError::invalid(
                        &at.child("operator"),
                        t.clone(),
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            other => {
                errors.push(FieldError::not_supported(&at.child("operator"), other, &["Equal", "Exists"]))
            }
        }
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        check::one_of(&mut errors, effect, &at.child("effect"), &effects, None);
    }
    errors
}

/// Topology spread constraints.
pub(super) fn validate_spread(errors: &mut Errors, constraints: &[Value], path: &Path) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, c) in constraints.iter().enumerate() {
        let at = path.index(i);
        if let Some(n) = int(c, "/maxSkew").or(Some(0)).filter(|n| *n <= 0) {
            errors.push(FieldError::invalid(&at.child("maxSkew"), n, "must be greater than zero"));
        }
        let key = text(c, "/topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(&at.child("topologyKey"), "can not be empty"));
        } else {
            check::qualified_name(errors, key, &at.child("topologyKey"));
        }
        let action = text(c, "/whenUnsatisfiable");
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(FieldError::not_supported(
                &at.child("whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            ));
        }
        if seen.contains(&(key, action)) {
            errors.push(FieldError::duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {action}}}"),
            ));
        }
        seen.push((key, action));
        if let Some(n) = int(c, "/minDomains") {
            if n <= 0 {
                errors.push(FieldError::invalid(&at.child("minDomains"), n, "must be greater than zero"));
            }
            if action != "DoNotSchedule" {
                errors.push(FieldError::invalid(
                    &at.child("minDomains"),
                    n,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
                ));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check::one_of(
                errors,
                text(c, &format!("/{field}")),
                &at.child(field),
                &["Honor", "Ignore"],
                None,
            );
        }
        check::label_selector(errors, c.get("labelSelector"), &at.child("labelSelector"));
    }
}
