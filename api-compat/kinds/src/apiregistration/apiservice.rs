//! APIService: which server answers for a group and version.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, condition, fill, int, name, sub, text, with};

static RULES: RuleSet = RuleSet {
    name: names::path_segment_name,
    default: |obj| {
        with(obj, "/spec", |spec| {
            with(spec, "/service", |s| fill(s, "port", 443));
        });
    },
    status: Some(empty_status),
    create: |_, obj| {
        // An API group of this very server is available from the start.
        if obj.pointer("/spec/service").is_none_or(Value::is_null) {
            let _ = sub(obj, "status");
        }
    },
    validate,
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .categories(&["api-extensions"])
        .status()
        .columns(&[
            NAME,
            ("Service", "string", 0, "Service that answers, or Local."),
            ("Available", "string", 0, "Whether it answers."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let (group, version) = (text(obj, "/spec/group"), text(obj, "/spec/version"));
    let wanted = format!("{version}.{group}");
    let given = text(obj, "/metadata/name");
    if given != wanted {
        errors.push(FieldError::invalid(
            &Path::new("metadata").child("name"),
            given,
            format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"),
        ));
    }
    if version.is_empty() {
        errors.push(FieldError::required(&spec.child("version"), ""));
    }
    for (key, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let value = int(obj, &format!("/spec/{key}")).unwrap_or(0);
        if value <= 0 || value > max {
            errors.push(FieldError::invalid(
                &spec.child(key),
                value,
                format!("must be positive and less than {}", if max == 1000 { "1000" } else { "20000" }),
            ));
        }
    }
    match obj.pointer("/spec/service").filter(|s| !s.is_null()) {
        Some(service) => {
            let path = spec.child("service");
            for key in ["namespace", "name"] {
                if text(service, &format!("/{key}")).is_empty() {
                    errors.push(FieldError::required(&path.child(key), ""));
                }
            }
            check::names(
                &mut errors,
                names::is_valid_port_num(int(service, "/port").unwrap_or(443)),
                int(service, "/port").unwrap_or(443).into(),
                &path.child("port"),
            );
            let skip = crate::value::flag(obj, "/spec/insecureSkipTLSVerify");
            if skip && !text(obj, "/spec/caBundle").is_empty() {
                errors.push(FieldError::invalid(
                    &spec.child("insecureSkipTLSVerify"),
                    true,
                    "may not be true if caBundle is present",
                ));
            }
        }
        None => {
            if crate::value::flag(obj, "/spec/insecureSkipTLSVerify") {
                errors.push(FieldError::invalid(
                    &spec.child("insecureSkipTLSVerify"),
                    true,
                    "may not be true for local APIServices",
                ));
            }
        }
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let service = match obj.pointer("/spec/service").filter(|s| !s.is_null()) {
        Some(s) => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
        None => "Local".to_string(),
    };
    let available = match condition(obj, "Available") {
        Some(c) if text(c, "/reason").is_empty() || text(c, "/status") == "True" => {
            text(c, "/status").to_string()
        }
        Some(c) => format!("{} ({})", text(c, "/status"), text(c, "/reason")),
        None => "Unknown".to_string(),
    };
    vec![name(obj), service.into(), available.into(), age(obj, now)]
}
