//! What validating and mutating webhook configurations share.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use super::conditions;
use super::expressions::Environment;
use crate::check::{self, Errors};
use crate::value::{age, each, fill, fill_text, int, list, name, text, with};

/// Defaults of a webhook configuration.
pub(crate) fn default(obj: &mut Value, mutating: bool) {
    each(obj, "/webhooks", |hook| {
        fill_text(hook, "failurePolicy", "Fail");
        fill_text(hook, "matchPolicy", "Equivalent");
        fill(hook, "namespaceSelector", json!({}));
        fill(hook, "objectSelector", json!({}));
        fill(hook, "timeoutSeconds", 10);
        if mutating {
            fill_text(hook, "reinvocationPolicy", "Never");
        }
        each(hook, "/rules", |rule| fill_text(rule, "scope", "*"));
        with(hook, "/clientConfig/service", |s| fill(s, "port", 443));
    });
}

/// All errors of a webhook configuration. Match conditions that an update leaves alone are not judged again.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, mutating: bool) -> Errors {
    let mut errors = Vec::new();
    let given = |o: &Value| -> Vec<Value> {
        list(o, "/webhooks").iter().map(|h| h.get("matchConditions").cloned().unwrap_or_default()).collect()
    };
    let judged = old.is_none_or(|o| given(o) != given(obj));
    let mut seen: Vec<&str> = Vec::new();
    for (i, hook) in list(obj, "/webhooks").iter().enumerate() {
        let path = Path::new("webhooks").index(i);
        let hook_name = text(hook, "/name");
        check::names(
            &mut errors,
            names::is_fully_qualified_name(hook_name),
            hook_name.into(),
            &path.child("name"),
        );
        if seen.contains(&hook_name) {
            errors.push(FieldError::duplicate(&path.child("name"), hook_name));
        }
        seen.push(hook_name);
        validate_hook(&mut errors, hook, &path, mutating);
        if judged {
            let all = list(hook, "/matchConditions");
            conditions::validate(
                &mut errors,
                all,
                &Environment::conditions(false),
                &path.child("matchConditions"),
            );
        }
    }
    errors
}

fn validate_hook(errors: &mut Errors, hook: &Value, path: &Path, mutating: bool) {
    let versions = list(hook, "/admissionReviewVersions");
    let at = path.child("admissionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(&at, "must specify one of v1, v1beta1"));
    } else if !versions.iter().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1"))) {
        errors.push(FieldError::invalid(&at, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
    for (i, rule) in list(hook, "/rules").iter().enumerate() {
        validate_rule(errors, rule, &path.child("rules").index(i));
    }
    check::one_of(
        errors,
        text(hook, "/failurePolicy"),
        &path.child("failurePolicy"),
        &["Fail", "Ignore"],
        None,
    );
    check::one_of(
        errors,
        text(hook, "/matchPolicy"),
        &path.child("matchPolicy"),
        &["Equivalent", "Exact"],
        None,
    );
    let effects = text(hook, "/sideEffects");
    check::one_of(
        errors,
        effects,
        &path.child("sideEffects"),
        &["None", "NoneOnDryRun"],
        Some("must specify one of None, NoneOnDryRun"),
    );
    if mutating {
        let policy = text(hook, "/reinvocationPolicy");
        check::one_of(errors, policy, &path.child("reinvocationPolicy"), &["Never", "IfNeeded"], None);
    }
    if let Some(t) = int(hook, "/timeoutSeconds").filter(|t| !(1..=30).contains(t)) {
        let detail = if t < 1 {
            "the timeout value must be at least 1 second"
        } else {
            "the timeout value must be at most 30 seconds"
        };
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), t, detail));
    }
    check::label_selector(errors, hook.get("namespaceSelector"), &path.child("namespaceSelector"));
    check::label_selector(errors, hook.get("objectSelector"), &path.child("objectSelector"));
    validate_client_config(errors, hook, &path.child("clientConfig"));
}

pub(crate) fn validate_client_config(errors: &mut Errors, hook: &Value, config: &Path) {
    let url = text(hook, "/clientConfig/url");
    match hook.pointer("/clientConfig/service").filter(|s| !s.is_null()) {
        Some(service) => {
            if !url.is_empty() {
                errors.push(FieldError::required(
                    &config.child("url"),
                    "exactly one of url or service is required",
                ));
            }
            for key in ["name", "namespace"] {
                if text(service, &format!("/{key}")).is_empty() {
                    let detail = format!("service {key} is required");
                    errors.push(FieldError::required(&config.child("service").child(key), detail));
                }
            }
            check::port(errors, int(service, "/port").unwrap_or(443), &config.child("service").child("port"));
        }
        None if url.is_empty() => {
            errors.push(FieldError::required(config, "exactly one of url or service is required"));
        }
        None if !url.starts_with("https://") => errors.push(FieldError::invalid(
            &config.child("url"),
            url.split("://").next().unwrap_or_default(),
            "'https' is the only allowed URL scheme; desired format: https://host[/path]",
        )),
        None => {}
    }
}

fn validate_rule(errors: &mut Errors, rule: &Value, path: &Path) {
    let operations = ["CREATE", "UPDATE", "DELETE", "CONNECT", "*"];
    for key in ["operations", "apiGroups", "apiVersions", "resources"] {
        let items = list(rule, &format!("/{key}"));
        let at = path.child(key);
        if items.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if items.len() > 1 && key != "resources" && items.iter().any(|v| v == "*") {
            errors.push(FieldError::invalid(
                &at,
                items.to_vec(),
                "if '*' is present, must not specify other items",
            ));
        }
        for (i, item) in items.iter().filter_map(Value::as_str).enumerate() {
            if key == "operations" {
                check::one_of(errors, item, &at.index(i), &operations, Some(""));
            } else if item.is_empty() && key != "apiGroups" {
                errors.push(FieldError::required(&at.index(i), ""));
            }
        }
    }
    check::one_of(errors, text(rule, "/scope"), &path.child("scope"), &["Cluster", "Namespaced", "*"], None);
}

/// Row of a webhook configuration.
pub(crate) fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), list(obj, "/webhooks").len().into(), age(obj, now)]
}
