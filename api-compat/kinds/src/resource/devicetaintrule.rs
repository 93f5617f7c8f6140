//! DeviceTaintRule.

use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, age_row, empty_status};

static RULES: RuleSet = RuleSet { status: Some(empty_status), row: age_row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "DeviceTaintRule", "devicetaintrules")
        .status()
        .generation()
        .columns(&[NAME, AGE])
        .build(&RULES)
}
