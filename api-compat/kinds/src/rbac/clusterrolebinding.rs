//! ClusterRoleBinding.

use knarr_machinery::names;

use crate::facts::Facts;
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = RuleSet {
    name: names::path_segment_name,
    default: super::default_binding,
    validate: |_, obj| super::validate_binding(obj, &["ClusterRole"], false),
    validate_update: Some(|_, obj, old| {
        let mut errors = super::validate_binding(obj, &["ClusterRole"], false);
        errors.extend(super::validate_binding_update(obj, old));
        errors
    }),
    row: super::binding_row,
    create_on_update: true,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings")
        .columns(super::BINDING_COLUMNS)
        .build(&RULES)
}
