//! What validating and mutating admission policies and their bindings share.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use super::conditions;
use crate::check::{self, Errors};
use crate::value::{age, each, fill, fill_text, list, name, text, with};

/// Defaults of matchConstraints and matchResources.
pub(crate) fn default_match(resources: &mut Value) {
    fill_text(resources, "matchPolicy", "Equivalent");
    fill(resources, "namespaceSelector", json!({}));
    fill(resources, "objectSelector", json!({}));
    for key in ["/resourceRules", "/excludeResourceRules"] {
        each(resources, key, |rule| fill_text(rule, "scope", "*"));
    }
}

/// Defaults of a policy.
pub(crate) fn default_policy(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill_text(spec, "failurePolicy", "Fail");
        with(spec, "/matchConstraints", default_match);
    });
}

/// Defaults of a binding.
pub(crate) fn default_binding(obj: &mut Value) {
    with(obj, "/spec/matchResources", default_match);
    with(obj, "/spec/paramRef", |p| {
        if p.get("selector").is_some() {
            fill_text(p, "parameterNotFoundAction", "Deny");
        }
    });
}

/// Checks of a policy; `old` is what it was before an update.
pub(crate) fn validate_policy(obj: &Value, old: Option<&Value>, rules: &str) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let failure = text(obj, "/spec/failurePolicy");
    check::one_of(&mut errors, failure, &spec.child("failurePolicy"), &["Fail", "Ignore"], None);
    let constraints = spec.child("matchConstraints");
    if obj.pointer("/spec/matchConstraints").is_none_or(Value::is_null) {
        errors.push(FieldError::required(&constraints, ""));
    } else if list(obj, "/spec/matchConstraints/resourceRules").is_empty() {
        errors.push(FieldError::required(&constraints.child("resourceRules"), ""));
    }
    if list(obj, &format!("/spec/{rules}")).is_empty()
        && (rules == "mutations" || list(obj, "/spec/auditAnnotations").is_empty())
    {
        let detail = if rules == "mutations" {
            "mutations must contain at least one item"
        } else {
            "validations or auditAnnotations must be non-empty"
        };
        errors.push(FieldError::required(&spec.child(rules), detail));
    }
    conditions::policy(&mut errors, obj, old, rules);
    errors
}

/// Checks of a binding.
pub(crate) fn validate_binding(obj: &Value, with_actions: bool) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let policy = text(obj, "/spec/policyName");
    if policy.is_empty() {
        errors.push(FieldError::required(&spec.child("policyName"), ""));
    } else {
        check::dns_subdomain(&mut errors, policy, &spec.child("policyName"));
    }
    if with_actions {
        let path = spec.child("validationActions");
        let actions = list(obj, "/spec/validationActions");
        if actions.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, action) in actions.iter().filter_map(Value::as_str).enumerate() {
            check::one_of(&mut errors, action, &path.index(i), &["Deny", "Warn", "Audit"], None);
            if seen.contains(&action) {
                errors.push(FieldError::duplicate(&path.index(i), action));
            }
            seen.push(action);
        }
        if seen.contains(&"Deny") && seen.contains(&"Warn") {
            errors.push(FieldError::invalid(
                &path,
                actions.to_vec(),
                "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ));
        }
    }
    errors
}

/// Row of a policy.
pub(crate) fn policy_row(obj: &Value, rules: &str, now: &str) -> Vec<Value> {
    let param = match obj.pointer("/spec/paramKind").filter(|p| !p.is_null()) {
        Some(p) => format!("{}/{}", text(p, "/apiVersion"), text(p, "/kind")),
        None => "<unset>".to_string(),
    };
    let count = list(obj, &format!("/spec/{rules}")).len();
    vec![name(obj), count.into(), param.into(), age(obj, now)]
}

/// Row of a binding.
pub(crate) fn binding_row(obj: &Value, now: &str) -> Vec<Value> {
    let param = match obj.pointer("/spec/paramRef").filter(|p| !p.is_null()) {
        Some(p) if !text(p, "/name").is_empty() => match text(p, "/namespace") {
            "" => format!("*/{}", text(p, "/name")),
            ns => format!("{ns}/{}", text(p, "/name")),
        },
        Some(p) => crate::value::selector_text(p.get("selector")),
        None => "<unset>".to_string(),
    };
    vec![name(obj), text(obj, "/spec/policyName").into(), param.into(), age(obj, now)]
}
