//! CronJob.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::job;
use crate::check::{self, Errors};
use crate::facts::{AGE, CONTAINERS, Facts, IMAGES, NAME, SELECTOR};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{
    age, container_cells, fill, fill_text, flag, int, list, name, or_none, selector_text, since, text, with,
};

static RULES: RuleSet = RuleSet {
    default: |obj| {
        with(obj, "/spec", |spec| {
            fill_text(spec, "concurrencyPolicy", "Allow");
            fill(spec, "suspend", false);
            fill(spec, "successfulJobsHistoryLimit", 3);
            fill(spec, "failedJobsHistoryLimit", 1);
            with(spec, "/jobTemplate", |t| {
                fill(t, "metadata", serde_json::Map::new());
                with(t, "/spec", job_defaults);
            });
        });
    },
    status: Some(empty_status),
    validate: |_, obj| validate(obj, None),
    validate_update: Some(|ctx, obj, old| {
        if ctx.subresource == Some("status") { Vec::new() } else { validate(obj, Some(old)) }
    }),
    warnings: |ctx, obj, old| {
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        crate::podspec::warnings::at_pointer(ctx, obj, old, "/spec/jobTemplate/spec/template", &path)
    },
    row,
    ..PLAIN
};

/// In a template only what the pods need is filled, and the job's own defaults come when it is made.
fn job_defaults(spec: &mut Value) {
    with(spec, "/template", crate::podspec::default_template);
}

pub(crate) fn kind() -> Kind {
    Facts::new("batch", "v1", "CronJob", "cronjobs")
        .namespaced()
        .short(&["cj"])
        .categories(&["all"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Schedule", "string", 0, "When jobs are made."),
            ("Timezone", "string", 0, "Time zone of the schedule."),
            ("Suspend", "boolean", 0, "Whether it is suspended."),
            ("Active", "integer", 0, "Jobs that run now."),
            ("Last Schedule", "string", 0, "Time since the last job was made."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ])
        .build(&RULES)
}

fn validate(obj: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    if old.is_none() && text(obj, "/metadata/name").len() > 52 {
        let at = Path::new("metadata").child("name");
        errors.push(FieldError::invalid(
            &at,
            text(obj, "/metadata/name"),
            "must be no more than 52 characters",
        ));
    }
    let schedule = text(obj, "/spec/schedule");
    let zone = obj.pointer("/spec/timeZone").and_then(Value::as_str);
    if schedule.is_empty() {
        errors.push(FieldError::required(&spec.child("schedule"), ""));
    } else {
        validate_schedule(&mut errors, schedule, zone, &spec.child("schedule"));
    }
    check::non_negative(
        &mut errors,
        int(obj, "/spec/startingDeadlineSeconds"),
        &spec.child("startingDeadlineSeconds"),
    );
    if let Some(z) = zone {
        let at = spec.child("timeZone");
        if z.is_empty() {
            errors.push(FieldError::invalid(&at, z, "timeZone must be nil or non-empty string"));
        } else if z.eq_ignore_ascii_case("local") {
            errors.push(FieldError::invalid(
                &at,
                z,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ));
        } else if !known_zone(z) {
            errors.push(FieldError::invalid(&at, z, format!("unknown time zone {z}")));
        }
    }
    let policies = ["Allow", "Forbid", "Replace"];
    check::one_of(
        &mut errors,
        text(obj, "/spec/concurrencyPolicy"),
        &spec.child("concurrencyPolicy"),
        &policies,
        Some(""),
    );
    let template = spec.child("jobTemplate");
    let job_spec = obj.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null);
    check::labels(
        &mut errors,
        obj.pointer("/spec/jobTemplate/metadata/labels"),
        &template.child("metadata").child("labels"),
    );
    job::validate_template_spec(&mut errors, job_spec, &template.child("spec"));
    if flag(job_spec, "/manualSelector") {
        errors.push(FieldError::not_supported(
            &template.child("spec").child("manualSelector"),
            true,
            &["nil", "false"],
        ));
    }
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::non_negative(&mut errors, int(obj, &format!("/spec/{key}")), &spec.child(key));
    }
    errors
}

/// Names of the time zone database, by form: this crate reads no files.
fn known_zone(zone: &str) -> bool {
    let shaped = zone.split('/').all(|p| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+'))
    });
    shaped && zone.starts_with(|c: char| c.is_ascii_uppercase())
}

/// Five fields, or one of the `@` names, or `@every <duration>`.
fn validate_schedule(errors: &mut Errors, schedule: &str, zone: Option<&str>, path: &Path) {
    if schedule.contains("TZ=") {
        let detail = if zone.is_some() {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        } else {
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        };
        errors.push(FieldError::invalid(path, schedule, detail));
        return;
    }
    if let Some(rest) = schedule.strip_prefix('@') {
        let named =
            matches!(rest, "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly");
        if !named && !rest.starts_with("every ") {
            errors.push(FieldError::invalid(path, schedule, format!("unrecognized descriptor: {schedule}")));
        }
        return;
    }
    let count = schedule.split_whitespace().count();
    if count != 5 {
        errors.push(FieldError::invalid(
            path,
            schedule,
            format!(
                "expected exactly 5 fields, found {count}: [{}]",
                schedule.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
        ));
        return;
    }
    if let Err(e) = schedule.parse::<croner::Cron>() {
        errors.push(FieldError::invalid(path, schedule, e.to_string()));
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let last = match text(obj, "/status/lastScheduleTime") {
        "" => "<none>".to_string(),
        t => since(t, now),
    };
    let (names, images) = container_cells(obj.pointer("/spec/jobTemplate/spec/template/spec"));
    vec![
        name(obj),
        text(obj, "/spec/schedule").into(),
        or_none(text(obj, "/spec/timeZone")),
        if flag(obj, "/spec/suspend") { "True" } else { "False" }.into(),
        list(obj, "/status/active").len().into(),
        last.into(),
        age(obj, now),
        names,
        images,
        selector_text(obj.pointer("/spec/jobTemplate/spec/selector")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use crate::testing::check;
    use serde_json::json;

    #[test]
    fn schedules() {
        let with = |s: &str| {
            json!({"metadata": {"name": "c"}, "spec": {"schedule": s, "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}}}})
        };
        for good in ["*/5 * * * *", "@daily", "0 3 * * 1-5"] {
            check("batch/v1", "cronjobs", with(good), &[]);
        }
        check(
            "batch/v1",
            "cronjobs",
            with("* * *"),
            &["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"],
        );
    }
}
