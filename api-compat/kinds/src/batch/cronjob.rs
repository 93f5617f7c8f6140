//! CronJob.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::{job, schedule};
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
    let schedule = text(obj, "/spec/schedule");
    let zone = obj.pointer("/spec/timeZone").and_then(Value::as_str);
    if schedule.is_empty() {
        errors.push(FieldError::required(&spec.child("schedule"), ""));
    } else {
        let tolerated = old.is_some_and(|o| text(o, "/spec/schedule").contains("TZ"));
        validate_schedule(&mut errors, schedule, tolerated, zone, &spec.child("schedule"));
    }
    let seconds = "startingDeadlineSeconds";
    check::non_negative(&mut errors, int(obj, &format!("/spec/{seconds}")), &spec.child(seconds));
    let before = old.and_then(|o| o.pointer("/spec/timeZone")).and_then(Value::as_str);
    if let Some(z) = zone.filter(|_| old.is_none() || before != zone) {
        time_zone(&mut errors, z, &spec.child("timeZone"));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    let policy = text(obj, "/spec/concurrencyPolicy");
    check::one_of(&mut errors, policy, &spec.child("concurrencyPolicy"), &policies, Some(""));
    let template = spec.child("jobTemplate").child("spec");
    let job_spec = obj.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null);
    let old_spec = old.and_then(|o| o.pointer("/spec/jobTemplate/spec"));
    job::validate_spec(&mut errors, job_spec, old_spec, &template);
    if let Some(selector) = job_spec.get("selector").filter(|s| !s.is_null()) {
        let detail = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(&template.child("selector"), selector.clone(), detail));
    }
    if flag(job_spec, "/manualSelector") {
        let at = template.child("manualSelector");
        errors.push(FieldError::not_supported(&at, true, &["nil", "false"]));
    }
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::non_negative(&mut errors, int(obj, &format!("/spec/{key}")), &spec.child(key));
    }
    if old.is_none() && text(obj, "/metadata/name").len() > 52 {
        let at = Path::new("metadata").child("name");
        let detail = "must be no more than 52 characters";
        errors.push(FieldError::invalid(&at, text(obj, "/metadata/name"), detail));
    }
    errors
}

/// A name of the time zone database.
fn time_zone(errors: &mut Errors, zone: &str, at: &Path) {
    if zone.is_empty() {
        errors.push(FieldError::invalid(at, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let shaped = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(shaped) {
        errors.push(FieldError::invalid(at, zone, unknown));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.push(FieldError::invalid(at, zone, detail));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(FieldError::invalid(at, zone, unknown));
    }
}

fn validate_schedule(errors: &mut Errors, schedule: &str, tolerated: bool, zone: Option<&str>, path: &Path) {
    let zoned = schedule.contains("TZ");
    // A zone before the fields is not part of them.
    let fields = match schedule.split_once(' ') {
        Some((z, rest)) if z.starts_with("TZ=") || z.starts_with("CRON_TZ=") => rest.trim(),
        _ => schedule,
    };
    if let Err(detail) = schedule::parse(fields) {
        errors.push(FieldError::invalid(path, schedule, detail));
    }
    if tolerated && zoned && zone.is_some() {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errors.push(FieldError::invalid(path, schedule, detail));
    } else if !tolerated && zoned {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(path, schedule, detail));
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
