//! ValidatingWebhookConfiguration.

use super::webhooks;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};

static RULES: RuleSet = RuleSet {
    default: |obj| webhooks::default(obj, false),
    validate: |_, obj| webhooks::validate(obj, None, false),
    validate_update: Some(|_, obj, old| webhooks::validate(obj, Some(old), false)),
    row: webhooks::row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
        .categories(&["api-extensions"])
        .generation()
        .columns(&[NAME, ("Webhooks", "integer", 0, "Number of webhooks."), AGE])
        .build(&RULES)
}
