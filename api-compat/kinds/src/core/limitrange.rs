//! LimitRange.

use crate::facts::Facts;
use crate::kind::Kind;
use crate::limits;
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = RuleSet { default: limits::default, validate: limits::validate, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "LimitRange", "limitranges").namespaced().short(&["limits"]).build(&RULES)
}
