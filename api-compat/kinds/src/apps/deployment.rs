//! Deployment.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check::Errors;
use crate::facts::{AGE, CONTAINERS, Facts, IMAGES, NAME, SELECTOR};
use crate::kind::{Ctx, Kind};
use crate::podspec::default_template;
use crate::ruleset::{PLAIN, RuleSet, empty_status, keep};
use crate::value::{age, fill, fill_text, go_form, int, name, number, sub, text, with};
use crate::workload;

static RULES: RuleSet = RuleSet {
    default,
    status: Some(empty_status),
    update: |ctx, obj, old| {
        if ctx.subresource == Some("status")
            && let (Some(new), Some(before)) = (obj.get_mut("metadata"), old.get("metadata"))
        {
            keep(new, before, "labels");
        }
    },
    validate,
    validate_update: Some(validate_update),
    warnings: crate::podspec::warnings::for_template,
    row,
    scale: workload::SCALE,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apps", "v1", "Deployment", "deployments")
        .namespaced()
        .short(&["deploy"])
        .categories(&["all"])
        .scale()
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Ready", "string", 0, "Ready pods of wanted pods."),
            ("Up-to-date", "string", 0, "Pods that have the newest template."),
            ("Available", "string", 0, "Pods that have been ready long enough."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill(spec, "replicas", 1);
        let strategy = sub(spec, "strategy");
        fill_text(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate" {
            let rolling = sub(strategy, "rollingUpdate");
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        with(spec, "/template", default_template);
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    validate_with(obj, None)
}

fn validate_with(obj: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    workload::counts(&mut errors, obj, &["replicas"]);
    workload::selector_and_template(&mut errors, obj, old, "deployment");
    strategy(&mut errors, obj, &spec.child("strategy"));
    workload::counts(
        &mut errors,
        obj,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
    );
    let ready = int(obj, "/spec/minReadySeconds").unwrap_or(0);
    if let Some(n) = int(obj, "/spec/progressDeadlineSeconds").filter(|n| *n <= ready) {
        errors.push(FieldError::invalid(
            &spec.child("progressDeadlineSeconds"),
            n,
            "must be greater than minReadySeconds",
        ));
    }
    errors
}

fn strategy(errors: &mut Errors, obj: &Value, at: &Path) {
    let given = obj.pointer("/spec/strategy").cloned().unwrap_or_default();
    let rolling = given.get("rollingUpdate").filter(|r| !r.is_null());
    let path = at.child("rollingUpdate");
    match (text(&given, "/type"), rolling) {
        ("Recreate", Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden(&path, detail));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.push(FieldError::required(&path, "this should be defaulted and never be nil"));
        }
        ("RollingUpdate", Some(r)) => {
            let (unavailable, surge) = (r.get("maxUnavailable"), r.get("maxSurge"));
            workload::count_or_percent(errors, unavailable, &path.child("maxUnavailable"));
            workload::count_or_percent(errors, surge, &path.child("maxSurge"));
            if workload::is_zero(unavailable) && workload::is_zero(surge) {
                let value = unavailable.cloned().unwrap_or(json!(0));
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(&path.child("maxUnavailable"), value, detail));
            }
            workload::at_most_all(errors, unavailable, &path.child("maxUnavailable"));
        }
        _ => {
            let shown =
                go_form(&given, &[("Type", "type", "\"\""), ("RollingUpdate", "rollingUpdate", "null")]);
            let error = FieldError::not_supported(at, given.clone(), &["Recreate", "RollingUpdate"]);
            errors.push(error.shown_as(shown));
        }
    }
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if ctx.subresource == Some("status") {
        let keys = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
        ];
        workload::status_counts(&mut errors, obj, &keys);
        let get = |k: &str| int(obj, &format!("/status/{k}")).unwrap_or(0);
        for (key, bound) in [
            ("updatedReplicas", "replicas"),
            ("readyReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ] {
            if get(key) > get(bound) {
                let at = Path::new("status").child(key);
                let what = if bound == "replicas" { "status.replicas" } else { "readyReplicas" };
                errors.push(FieldError::invalid(&at, get(key), format!("cannot be greater than {what}")));
            }
        }
        workload::collision_count(&mut errors, obj, old);
        return errors;
    }
    errors.extend(validate_with(obj, Some(old)));
    workload::same_selector(&mut errors, obj, old);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let [names, images, selector] = workload::template_cells(obj);
    let ready = int(obj, "/status/readyReplicas").unwrap_or(0);
    let wanted = int(obj, "/spec/replicas").unwrap_or(0);
    vec![
        name(obj),
        format!("{ready}/{wanted}").into(),
        number(obj, "/status/updatedReplicas"),
        number(obj, "/status/availableReplicas"),
        age(obj, now),
        names,
        images,
        selector,
    ]
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, check_update, defaulted};
    use serde_json::json;

    fn deployment() -> serde_json::Value {
        json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }})
    }

    #[test]
    fn defaults() {
        let d = defaulted("apps/v1", "deployments", deployment());
        assert_eq!(d["spec"]["replicas"], 1);
        assert_eq!(
            d["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(d["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert!(d["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
    }

    #[test]
    fn errors() {
        check("apps/v1", "deployments", deployment(), &[]);
        let mut bad = deployment();
        bad["spec"]["template"]["metadata"]["labels"] = json!({"app": "b"});
        bad["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        bad["spec"]["progressDeadlineSeconds"] = 0.into();
        check(
            "apps/v1",
            "deployments",
            bad,
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ],
        );
        let mut other = deployment();
        other["spec"]["selector"] = json!({"matchLabels": {"x": "y"}});
        other["spec"]["template"]["metadata"]["labels"] = json!({"x": "y"});
        check_update(
            "apps/v1",
            "deployments",
            other,
            deployment(),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"x\":\"y\"}}: field is immutable"],
        );
    }
}
