//! FlowSchema.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, condition, fill, int, name, number, or_none, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec", |s| fill(s, "matchingPrecedence", 1000)),
    status: Some(empty_status),
    validate,
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "FlowSchema", "flowschemas")
        .status()
        .generation()
        .columns(&[
            NAME,
            ("PriorityLevel", "string", 0, "Priority level that requests get."),
            ("MatchingPrecedence", "integer", 0, "Order among the schemas, lowest first."),
            ("DistinguisherMethod", "string", 0, "How flows are told apart."),
            AGE,
            ("MissingPL", "string", 0, "Whether the priority level is missing."),
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let precedence = int(obj, "/spec/matchingPrecedence").unwrap_or(0);
    if precedence <= 0 {
        errors.push(FieldError::invalid(
            &spec.child("matchingPrecedence"),
            precedence,
            "must be a positive value",
        ));
    } else if precedence > 10_000 {
        errors.push(FieldError::invalid(
            &spec.child("matchingPrecedence"),
            precedence,
            "must not be greater than 10000",
        ));
    }
    if text(obj, "/spec/priorityLevelConfiguration/name").is_empty() {
        let path = spec.child("priorityLevelConfiguration").child("name");
        errors.push(FieldError::required(&path, "must reference a priority level"));
    }
    let method = text(obj, "/spec/distinguisherMethod/type");
    if !matches!(method, "" | "ByUser" | "ByNamespace") {
        let path = spec.child("distinguisherMethod").child("type");
        errors.push(FieldError::not_supported(&path, method, &["ByUser", "ByNamespace"]));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let missing = condition(obj, "Dangling").map_or("?", |c| text(c, "/status"));
    vec![
        name(obj),
        text(obj, "/spec/priorityLevelConfiguration/name").into(),
        number(obj, "/spec/matchingPrecedence"),
        or_none(text(obj, "/spec/distinguisherMethod/type")),
        age(obj, now),
        missing.into(),
    ]
}
