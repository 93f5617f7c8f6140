//! Role.

use knarr_machinery::names;

use crate::facts::Facts;
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::list;

static RULES: RuleSet = RuleSet {
    name: names::path_segment_name,
    validate: |_, obj| super::validate_rules(list(obj, "/rules"), true),
    create_on_update: true,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "Role", "roles").namespaced().build(&RULES)
}
