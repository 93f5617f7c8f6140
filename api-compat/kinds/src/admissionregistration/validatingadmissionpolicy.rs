//! ValidatingAdmissionPolicy.

use super::policy;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, empty_status};

static RULES: RuleSet = RuleSet {
    default: policy::default_policy,
    status: Some(empty_status),
    validate: |_, obj| policy::validate_policy(obj, None, "validations"),
    validate_update: Some(|_, obj, old| policy::validate_policy(obj, Some(old), "validations")),
    row: |obj, now| policy::policy_row(obj, "validations", now),
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
        .categories(&["api-extensions"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Validations", "integer", 0, "Number of validations."),
            ("ParamKind", "string", 0, "Kind of the parameters."),
            AGE,
        ])
        .build(&RULES)
}
