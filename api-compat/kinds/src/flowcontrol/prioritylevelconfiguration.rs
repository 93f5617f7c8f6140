//! PriorityLevelConfiguration.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, fill, int, name, text, with};

static RULES: RuleSet = RuleSet { default, status: Some(empty_status), validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Type", "string", 0, "Exempt or Limited."),
            ("NominalConcurrencyShares", "string", 0, "Share of the server's concurrency."),
            ("Queues", "string", 0, "Number of queues."),
            ("HandSize", "string", 0, "Queues that a flow may use."),
            ("QueueLengthLimit", "string", 0, "Requests that a queue may hold."),
            AGE,
        ])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec/limited", |limited| {
        fill(limited, "nominalConcurrencyShares", 30);
        fill(limited, "lendablePercent", 0);
        with(limited, "/limitResponse", |r| {
            if text(r, "/type") == "Queue" {
                fill(r, "queuing", json!({}));
            }
            with(r, "/queuing", |q| {
                for (key, n) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    if int(q, &format!("/{key}")).unwrap_or(0) == 0 {
                        q[key] = n.into();
                    }
                }
            });
        });
    });
    with(obj, "/spec/exempt", |exempt| {
        fill(exempt, "nominalConcurrencyShares", 0);
        fill(exempt, "lendablePercent", 0);
    });
    if text(obj, "/spec/type") == "Exempt" {
        with(obj, "/spec", |s| {
            fill(s, "exempt", json!({"nominalConcurrencyShares": 0, "lendablePercent": 0}));
        });
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let kind = text(obj, "/spec/type");
    let limited = obj.pointer("/spec/limited").is_some_and(|v| !v.is_null());
    match kind {
        "Exempt" if limited => {
            errors.push(FieldError::forbidden(
                &spec.child("limited"),
                "must be nil if the type is not Limited",
            ));
        }
        "Limited" if !limited => {
            errors
                .push(FieldError::required(&spec.child("limited"), "must not be empty when type is Limited"));
        }
        _ => check::one_of(&mut errors, kind, &spec.child("type"), &["Exempt", "Limited"], Some("")),
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let cell = |pointer: &str| match int(obj, pointer) {
        Some(n) => Value::from(n),
        None => "<none>".into(),
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        name(obj),
        text(obj, "/spec/type").into(),
        cell(if text(obj, "/spec/type") == "Exempt" {
            "/spec/exempt/nominalConcurrencyShares"
        } else {
            "/spec/limited/nominalConcurrencyShares"
        }),
        cell(&format!("{queuing}/queues")),
        cell(&format!("{queuing}/handSize")),
        cell(&format!("{queuing}/queueLengthLimit")),
        age(obj, now),
    ]
}
