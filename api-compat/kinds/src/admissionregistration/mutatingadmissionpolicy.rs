//! MutatingAdmissionPolicy.

use serde_json::Value;

use super::policy;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{fill_text, with};

static RULES: RuleSet = RuleSet {
    default,
    validate: |_, obj| policy::validate_policy(obj, None, "mutations"),
    validate_update: Some(|_, obj, old| policy::validate_policy(obj, Some(old), "mutations")),
    row: |obj, now| policy::policy_row(obj, "mutations", now),
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
        .categories(&["api-extensions"])
        .generation()
        .columns(&[
            NAME,
            ("Mutations", "integer", 0, "Number of mutations."),
            ("ParamKind", "string", 0, "Kind of the parameters."),
            AGE,
        ])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    policy::default_policy(obj);
    with(obj, "/spec", |spec| fill_text(spec, "reinvocationPolicy", "Never"));
}
