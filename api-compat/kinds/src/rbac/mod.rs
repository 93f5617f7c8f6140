//! `rbac.authorization.k8s.io/v1`.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Col, NAME};
use crate::value::{age, each, fill_text, go_form, list, name, text, with};

pub(crate) mod clusterrole;
pub(crate) mod clusterrolebinding;
pub(crate) mod role;
pub(crate) mod rolebinding;

/// The API group.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// Columns of bindings.
const BINDING_COLUMNS: &[Col] = &[
    NAME,
    ("Role", "string", 0, "Role that is granted."),
    AGE,
    ("Users", "string", 1, "Users that are granted the role."),
    ("Groups", "string", 1, "Groups that are granted the role."),
    ("ServiceAccounts", "string", 1, "Service accounts that are granted the role."),
];

/// Errors of the rules of a role.
fn validate_rules(rules: &[Value], namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::new("rules").index(i);
        let empty = |key: &str| list(rule, key).is_empty();
        if empty("/verbs") {
            errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        if !empty("/nonResourceURLs") {
            let urls = list(rule, "/nonResourceURLs").to_vec();
            if namespaced {
                errors.push(FieldError::invalid(
                    &path.child("nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            let urls = list(rule, "/nonResourceURLs").to_vec();
            if !empty("/apiGroups") || !empty("/resources") || !empty("/resourceNames") {
                errors.push(FieldError::invalid(
                    &path.child("nonResourceURLs"),
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if empty("/apiGroups") {
            errors.push(FieldError::required(
                &path.child("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if empty("/resources") {
            errors.push(FieldError::required(
                &path.child("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    errors
}

/// Defaults of a binding: API groups of the role and of the subjects.
fn default_binding(obj: &mut Value) {
    with(obj, "/roleRef", |r| fill_text(r, "apiGroup", GROUP));
    each(obj, "/subjects", |s| {
        if matches!(text(s, "/kind"), "User" | "Group") {
            fill_text(s, "apiGroup", GROUP);
        }
    });
}

/// Errors of a binding.
fn validate_binding(obj: &Value, roles: &[&str], namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = Path::new("roleRef");
    let group = text(obj, "/roleRef/apiGroup");
    if group != GROUP {
        errors.push(FieldError::not_supported(&role.child("apiGroup"), group, &[GROUP]));
    }
    let kind = text(obj, "/roleRef/kind");
    if !roles.contains(&kind) {
        errors.push(FieldError::not_supported(&role.child("kind"), kind, roles));
    }
    let role_name = text(obj, "/roleRef/name");
    if role_name.is_empty() {
        errors.push(FieldError::required(&role.child("name"), ""));
    } else {
        check::names(
            &mut errors,
            names::path_segment_name(role_name, false),
            role_name.into(),
            &role.child("name"),
        );
    }
    for (i, subject) in list(obj, "/subjects").iter().enumerate() {
        validate_subject(&mut errors, subject, &Path::new("subjects").index(i), namespaced);
    }
    errors
}

fn validate_subject(errors: &mut Vec<FieldError>, subject: &Value, path: &Path, namespaced: bool) {
    let (kind, group, given) = (text(subject, "/kind"), text(subject, "/apiGroup"), text(subject, "/name"));
    if given.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    match kind {
        "ServiceAccount" => {
            if !given.is_empty() {
                check::names(
                    errors,
                    names::name_is_dns_subdomain(given, false),
                    given.into(),
                    &path.child("name"),
                );
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(subject, "/namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if given.is_empty() {
                let detail = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(&path.child("name"), given, detail));
            }
            if group != GROUP {
                errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        _ => errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            &["ServiceAccount", "User", "Group"],
        )),
    }
}

/// A binding may not change its role.
fn validate_binding_update(obj: &Value, old: &Value) -> Vec<FieldError> {
    let (new, before) = (obj.get("roleRef"), old.get("roleRef"));
    if check::same(new, before) {
        return Vec::new();
    }
    let given = new.cloned().unwrap_or(json!({}));
    let fields = [("APIGroup", "apiGroup", "\"\""), ("Kind", "kind", "\"\""), ("Name", "name", "\"\"")];
    let shown = go_form(&given, &fields);
    vec![FieldError::invalid(&Path::new("roleRef"), given, "cannot change roleRef").shown_as(shown)]
}

fn binding_row(obj: &Value, now: &str) -> Vec<Value> {
    let subjects = |kind: &str| {
        let all: Vec<String> = list(obj, "/subjects")
            .iter()
            .filter(|s| text(s, "/kind") == kind)
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "/namespace"), text(s, "/name")),
                _ => text(s, "/name").to_string(),
            })
            .collect();
        Value::from(all.join(", "))
    };
    vec![
        name(obj),
        format!("{}/{}", text(obj, "/roleRef/kind"), text(obj, "/roleRef/name")).into(),
        age(obj, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
