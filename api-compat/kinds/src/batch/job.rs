//! Job.

mod policies;
mod status;
mod validation;

use knarr_machinery::{Str, time};
use serde_json::Value;

use crate::facts::{AGE, CONTAINERS, Facts, IMAGES, NAME, SELECTOR};
use crate::kind::{Ctx, Kind};
use crate::podspec::default_template;
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, condition, each, fill, fill_text, flag, int, is_empty, name, sub, text, with};
use crate::workload;

pub(crate) use validation::validate_spec;

static RULES: RuleSet = RuleSet {
    default,
    status: Some(empty_status),
    create,
    validate: validation::validate,
    validate_update: Some(validation::validate_update),
    warnings: crate::podspec::warnings::for_template,
    row,
    fields: |obj| {
        vec![(Str::from("status.successful"), int(obj, "/status/succeeded").unwrap_or(0).to_string())]
    },
    orphan: true,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("batch", "v1", "Job", "jobs")
        .namespaced()
        .categories(&["all"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Status", "string", 0, "How the job stands."),
            ("Completions", "string", 0, "Completions had of completions wanted."),
            ("Duration", "string", 0, "Time from start to completion."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ])
        .selectable(&["status.successful"])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    let labels = obj.pointer("/spec/template/metadata/labels").filter(|l| !is_empty(Some(l))).cloned();
    if let Some(labels) = labels
        && is_empty(obj.pointer("/metadata/labels"))
    {
        sub(obj, "metadata")["labels"] = labels;
    }
    with(obj, "/spec", default_spec);
}

/// Defaults of a job spec.
fn default_spec(spec: &mut Value) {
    let given = |s: &Value, k: &str| s.get(k).is_some_and(|v| !v.is_null());
    if !given(spec, "completions") && !given(spec, "parallelism") {
        spec["completions"] = 1.into();
    }
    fill(spec, "parallelism", 1);
    let per_index = given(spec, "backoffLimitPerIndex");
    fill(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    fill_text(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill_text(
        spec,
        "podReplacementPolicy",
        if given(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" },
    );
    each(spec, "/podFailurePolicy/rules", |r| {
        each(r, "/onPodConditions", |c| fill_text(c, "status", "True"));
    });
    with(spec, "/template", default_template);
}

/// Unless the selector is manual, the job's UID tells its pods from all others.
fn create(ctx: &Ctx<'_>, obj: &mut Value) {
    if flag(obj, "/spec/manualSelector") {
        return;
    }
    let uid = match text(obj, "/metadata/uid") {
        "" => ctx.uid.to_string(),
        u => u.to_string(),
    };
    let job = text(obj, "/metadata/name").to_string();
    let spec = sub(obj, "spec");
    let labels = sub(sub(sub(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &job),
        ("batch.kubernetes.io/job-name", &job),
    ] {
        fill(labels, key, value.as_str());
    }
    let selector = sub(sub(spec, "selector"), "matchLabels");
    fill(selector, "batch.kubernetes.io/controller-uid", uid);
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let [names, images, selector] = workload::template_cells(obj);
    let is = |kind: &str| condition(obj, kind).is_some_and(|c| text(c, "/status") == "True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if obj.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let succeeded = int(obj, "/status/succeeded").unwrap_or(0);
    let completions = match (int(obj, "/spec/completions"), int(obj, "/spec/parallelism").unwrap_or(0)) {
        (Some(n), _) => format!("{succeeded}/{n}"),
        (None, p) if p > 1 => format!("{succeeded}/1 of {p}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let start = text(obj, "/status/startTime");
    let end = match text(obj, "/status/completionTime") {
        "" => now,
        t => t,
    };
    let duration = if start.is_empty() { String::new() } else { time::age(start, end) };
    vec![
        name(obj),
        status.into(),
        completions.into(),
        duration.into(),
        age(obj, now),
        names,
        images,
        selector,
    ]
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, created};
    use serde_json::json;

    fn job() -> serde_json::Value {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}})
    }

    #[test]
    fn selector_is_generated() {
        let j = created("batch/v1", "jobs", job());
        assert_eq!(
            j["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(j["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        assert_eq!(j["spec"]["backoffLimit"], 6);
        assert_eq!(j["spec"]["completions"], 1);
    }

    #[test]
    fn errors() {
        check("batch/v1", "jobs", job(), &[]);
        let mut bad = job();
        bad["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
        bad["spec"]["backoffLimit"] = (-1).into();
        check(
            "batch/v1",
            "jobs",
            bad,
            &[
                "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ],
        );
    }
}
