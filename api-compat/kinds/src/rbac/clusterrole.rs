//! ClusterRole.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check;
use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::list;

static RULES: RuleSet = RuleSet { name: names::path_segment_name, validate, create_on_update: true, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ClusterRole", "clusterroles").build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = super::validate_rules(list(obj, "/rules"), false);
    if obj.pointer("/aggregationRule").is_some_and(|v| !v.is_null()) {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = list(obj, "/aggregationRule/clusterRoleSelectors");
        if selectors.is_empty() {
            errors.push(FieldError::required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (i, s) in selectors.iter().enumerate() {
            check::label_selector(&mut errors, Some(s), &path.index(i));
        }
    }
    errors
}
