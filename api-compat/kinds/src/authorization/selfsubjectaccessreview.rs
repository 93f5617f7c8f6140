//! SelfSubjectAccessReview.

use crate::facts::Facts;
use crate::kind::{Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = RuleSet { validate: |_, obj| super::validate_review(obj, false), ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
        .unstored(&[Verb::Create])
        .build(&RULES)
}
