//! ComponentStatus: the old health list of control plane components; computed, never stored.

use serde_json::Value;

use crate::facts::{Facts, NAME};
use crate::kind::{Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{list, name, text};

static RULES: RuleSet = RuleSet { row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "ComponentStatus", "componentstatuses")
        .short(&["cs"])
        .unstored(&[Verb::Get, Verb::List])
        .columns(&[
            NAME,
            ("Status", "string", 0, "Whether the component is healthy."),
            ("Message", "string", 0, "What the component says about its health."),
            ("Error", "string", 0, "What failed when the component was asked."),
        ])
        .build(&RULES)
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let (mut status, mut message, mut error) = ("Unknown", "", "");
    for c in list(obj, "/conditions").iter().filter(|c| text(c, "/type") == "Healthy") {
        status = if text(c, "/status") == "True" { "Healthy" } else { "Unhealthy" };
        message = text(c, "/message");
        error = text(c, "/error");
    }
    vec![name(obj), status.into(), message.into(), error.into()]
}
