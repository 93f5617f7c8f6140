//! PriorityClass.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill_text, flag, int, name, number, text};

static RULES: RuleSet = RuleSet {
    default: |obj| fill_text(obj, "preemptionPolicy", "PreemptLowerPriority"),
    validate,
    validate_update: Some(validate_update),
    row,
    ..PLAIN
};

/// The highest value that users may give.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(crate) fn kind() -> Kind {
    Facts::new("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
        .short(&["pc"])
        .generation()
        .columns(&[
            NAME,
            ("Value", "integer", 0, "Priority that pods of the class get."),
            ("Global-Default", "boolean", 0, "Whether pods without a class get this one."),
            AGE,
            ("PreemptionPolicy", "string", 0, "Whether pods of the class may preempt others."),
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (given, value) = (text(obj, "/metadata/name"), int(obj, "/value").unwrap_or(0));
    if given.starts_with("system-") {
        let known = match given {
            "system-cluster-critical" => value == 2_000_000_000,
            "system-node-critical" => value == 2_000_001_000,
            _ => false,
        };
        if !known {
            errors.push(FieldError::forbidden(
                &Path::new("metadata").child("name"),
                "priority class names with 'system-' prefix are reserved for system use only. error: "
                    .to_string()
                    + &format!("{given} is not a known system priority class"),
            ));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        errors.push(FieldError::forbidden(
            &Path::new("value"),
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
        ));
    }
    check::one_of(
        &mut errors,
        text(obj, "/preemptionPolicy"),
        &Path::new("preemptionPolicy"),
        &["Never", "PreemptLowerPriority"],
        None,
    );
    errors
}

fn validate_update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if int(obj, "/value") != int(old, "/value") {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    let policy = "preemptionPolicy";
    check::immutable(&mut errors, obj.get(policy), old.get(policy), &Path::new(policy));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![
        name(obj),
        number(obj, "/value"),
        flag(obj, "/globalDefault").into(),
        age(obj, now),
        text(obj, "/preemptionPolicy").into(),
    ]
}
