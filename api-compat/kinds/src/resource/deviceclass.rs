//! DeviceClass.

use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, age_row};

static RULES: RuleSet = RuleSet { row: age_row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "DeviceClass", "deviceclasses")
        .generation()
        .columns(&[NAME, AGE])
        .build(&RULES)
}
