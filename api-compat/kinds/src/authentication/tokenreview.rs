//! TokenReview.

use crate::facts::Facts;
use crate::kind::{Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = PLAIN;

pub(crate) fn kind() -> Kind {
    Facts::new("authentication.k8s.io", "v1", "TokenReview", "tokenreviews")
        .unstored(&[Verb::Create])
        .build(&RULES)
}
