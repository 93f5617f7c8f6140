//! MutatingAdmissionPolicyBinding.

use super::policy;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = RuleSet {
    default: policy::default_binding,
    validate: |_, obj| policy::validate_binding(obj, false),
    row: policy::binding_row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings")
        .categories(&["api-extensions"])
        .generation()
        .columns(&[
            NAME,
            ("PolicyName", "string", 0, "Policy that is bound."),
            ("ParamRef", "string", 0, "Parameters given to the policy."),
            AGE,
        ])
        .build(&RULES)
}
