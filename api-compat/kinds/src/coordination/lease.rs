//! Lease.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, int, name, text};

static RULES: RuleSet =
    RuleSet { validate, row, create_on_update: true, unconditional_update: false, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("coordination.k8s.io", "v1", "Lease", "leases")
        .namespaced()
        .columns(&[NAME, ("Holder", "string", 0, "Who holds the lease."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    check::positive(&mut errors, int(obj, "/spec/leaseDurationSeconds"), &spec.child("leaseDurationSeconds"));
    check::non_negative(&mut errors, int(obj, "/spec/leaseTransitions"), &spec.child("leaseTransitions"));
    let strategy = text(obj, "/spec/strategy");
    if obj.pointer("/spec/strategy").is_some_and(Value::is_string) {
        // Upstream repeats the field's name in the path.
        let at = spec.child("strategy").child("strategy");
        if strategy.contains('/') {
            check::qualified_name(&mut errors, strategy, &at);
        } else if strategy != "OldestEmulationVersion" {
            errors.push(FieldError::not_supported(&at, strategy, &["OldestEmulationVersion"]));
        }
    }
    if !text(obj, "/spec/preferredHolder").is_empty() && strategy.is_empty() {
        errors.push(FieldError::forbidden(
            &spec.child("preferredHolder"),
            "may only be specified when `strategy` is defined",
        ));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), text(obj, "/spec/holderIdentity").into(), age(obj, now)]
}

#[cfg(test)]
mod tests {
    use crate::testing::check;
    use serde_json::json;

    #[test]
    fn errors() {
        check("coordination.k8s.io/v1", "leases", json!({"spec": {"leaseDurationSeconds": 10}}), &[]);
        check(
            "coordination.k8s.io/v1",
            "leases",
            json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
            &[
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
    }
}
