//! DaemonSet.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::facts::{AGE, CONTAINERS, Facts, IMAGES, NAME, SELECTOR};
use crate::kind::{Ctx, Kind};
use crate::podspec::default_template;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill, fill_text, labels_text, map, name, number, sub, text, with};
use crate::workload;

static RULES: RuleSet = RuleSet {
    default: |obj| {
        with(obj, "/spec", |spec| {
            let strategy = sub(spec, "updateStrategy");
            fill_text(strategy, "type", "RollingUpdate");
            if text(strategy, "/type") == "RollingUpdate" {
                let rolling = sub(strategy, "rollingUpdate");
                fill(rolling, "maxUnavailable", 1);
                fill(rolling, "maxSurge", 0);
            }
            fill(spec, "revisionHistoryLimit", 10);
            with(spec, "/template", default_template);
        });
    },
    status: Some(
        || json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    ),
    validate,
    validate_update: Some(validate_update),
    warnings: crate::podspec::warnings::for_template,
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apps", "v1", "DaemonSet", "daemonsets")
        .namespaced()
        .short(&["ds"])
        .categories(&["all"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Desired", "integer", 0, "Nodes that should run a pod."),
            ("Current", "integer", 0, "Nodes that run a pod and should."),
            ("Ready", "integer", 0, "Nodes with a ready pod."),
            ("Up-to-date", "integer", 0, "Nodes with a pod of the newest template."),
            ("Available", "integer", 0, "Nodes with a pod ready long enough."),
            ("Node Selector", "string", 0, "Labels of the nodes that are chosen."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    workload::selector_and_template(&mut errors, obj, None, "daemonset");
    workload::counts(&mut errors, obj, &["minReadySeconds", "revisionHistoryLimit"]);
    let at = Path::new("spec").child("updateStrategy");
    match text(obj, "/spec/updateStrategy/type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let path = at.child("rollingUpdate");
            let rolling = obj.pointer("/spec/updateStrategy/rollingUpdate").unwrap_or(&Value::Null);
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            workload::count_or_percent(&mut errors, unavailable, &path.child("maxUnavailable"));
            workload::at_most_all(&mut errors, unavailable, &path.child("maxUnavailable"));
            workload::count_or_percent(&mut errors, surge, &path.child("maxSurge"));
            workload::at_most_all(&mut errors, surge, &path.child("maxSurge"));
            let shown = |v: Option<&Value>| v.cloned().unwrap_or(json!(0));
            match (workload::is_zero(unavailable), workload::is_zero(surge)) {
                (true, true) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(&path.child("maxUnavailable"), detail));
                }
                (false, false) => errors.push(FieldError::invalid(
                    &path.child("maxSurge"),
                    shown(surge),
                    "may not be set when maxUnavailable is non-zero",
                )),
                _ => {}
            }
        }
        _ => {
            let strategy = obj.pointer("/spec/updateStrategy").cloned().unwrap_or_default();
            errors.push(FieldError::not_supported(&at, strategy, &["RollingUpdate", "OnDelete"]));
        }
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        let mut errors = Vec::new();
        let keys = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        workload::status_counts(&mut errors, obj, &keys);
        workload::collision_count(&mut errors, obj, old);
        return errors;
    }
    let mut errors = validate(ctx, obj);
    workload::same_selector(&mut errors, obj, old);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let [names, images, selector] = workload::template_cells(obj);
    vec![
        name(obj),
        number(obj, "/status/desiredNumberScheduled"),
        number(obj, "/status/currentNumberScheduled"),
        number(obj, "/status/numberReady"),
        number(obj, "/status/updatedNumberScheduled"),
        number(obj, "/status/numberAvailable"),
        labels_text(map(obj, "/spec/template/spec/nodeSelector")).into(),
        age(obj, now),
        names,
        images,
        selector,
    ]
}
