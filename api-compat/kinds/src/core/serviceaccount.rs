//! ServiceAccount.

use serde_json::Value;

use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, list, name};

static RULES: RuleSet = RuleSet { row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "ServiceAccount", "serviceaccounts")
        .namespaced()
        .short(&["sa"])
        .sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), &[Verb::Create])
        .columns(&[NAME, ("Secrets", "string", 0, "Number of secrets listed."), AGE])
        .build(&RULES)
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), list(obj, "/secrets").len().into(), age(obj, now)]
}
