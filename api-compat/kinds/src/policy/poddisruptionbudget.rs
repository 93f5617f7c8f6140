//! PodDisruptionBudget.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, name, number, text};

static RULES: RuleSet = RuleSet {
    status: Some(
        || json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
    ),
    validate,
    row,
    unconditional_update: false,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .namespaced()
        .short(&["pdb"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Min Available", "string", 0, "Least number of pods that must stay available."),
            ("Max Unavailable", "string", 0, "Largest number of pods that may be unavailable."),
            ("Allowed Disruptions", "integer", 0, "Pods that may be disrupted now."),
            AGE,
        ])
        .build(&RULES)
}

/// An IntOrString that is a count or a percentage of at most 100.
pub(crate) fn count_or_percent(errors: &mut Errors, value: &Value, path: &Path) {
    match value {
        Value::String(s) => {
            let messages = names::is_percent(s);
            if messages.is_empty() {
                let n: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
                if n > 100 {
                    errors.push(FieldError::invalid(path, s.as_str(), "must not be greater than 100%"));
                }
            }
            check::names(errors, messages, s.as_str().into(), path);
        }
        v => check::non_negative(errors, v.as_i64(), path),
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let get = |key: &str| obj.pointer(&format!("/spec/{key}")).filter(|v| !v.is_null());
    let (min, max) = (get("minAvailable"), get("maxUnavailable"));
    if min.is_some() && max.is_some() {
        errors.push(FieldError::invalid(
            &spec,
            obj["spec"].clone(),
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for (key, value) in [("minAvailable", min), ("maxUnavailable", max)] {
        if let Some(v) = value {
            count_or_percent(&mut errors, v, &spec.child(key));
        }
    }
    check::label_selector(&mut errors, get("selector"), &spec.child("selector"));
    check::one_of(
        &mut errors,
        text(obj, "/spec/unhealthyPodEvictionPolicy"),
        &spec.child("unhealthyPodEvictionPolicy"),
        &["AlwaysAllow", "IfHealthyBudget"],
        None,
    );
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let cell = |key: &str| match obj.pointer(key).filter(|v| !v.is_null()) {
        Some(Value::String(s)) => Value::from(s.as_str()),
        Some(v) => v.to_string().into(),
        None => "N/A".into(),
    };
    vec![
        name(obj),
        cell("/spec/minAvailable"),
        cell("/spec/maxUnavailable"),
        number(obj, "/status/disruptionsAllowed"),
        age(obj, now),
    ]
}
