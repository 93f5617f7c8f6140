//! Errors of the expressions in webhook configurations and policies.

use std::collections::BTreeMap;

use knarr_cel::{Patches, Type};
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::expressions::Environment;
use crate::check::{self, Errors};
use crate::value::{is_empty, list, text};

const CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

/// Errors of match conditions.
pub(crate) fn validate(errors: &mut Errors, conditions: &[Value], environment: &Environment, path: &Path) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        let source = text(condition, "/expression").trim();
        expression(errors, source, environment, &[Type::Bool], &at, "expression", "");
        let name = text(condition, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            check::qualified_name(errors, name, &at.child("name"));
        }
        if !name.is_empty() && seen.contains(&name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        seen.push(name);
    }
}

/// An expression that must be there and be of one of these types.
fn expression(
    errors: &mut Errors,
    source: &str,
    environment: &Environment,
    results: &[Type],
    path: &Path,
    field: &str,
    missing: &str,
) {
    let at = path.child(field);
    if source.trim().is_empty() {
        errors.push(FieldError::required(&at, missing));
    } else if let Err(detail) = environment.compile(source, results) {
        errors.push(FieldError::invalid(&at, source, detail));
    }
}

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let plain = first && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    // Words of the language are escaped, so they are no names.
    plain && knarr_cel::escape(name).is_some_and(|e| e == name || name.contains("__"))
}

/// The environment of a policy before its variables.
pub(crate) fn environment(obj: &Value, patches: Patches) -> Environment {
    let params = !is_empty(obj.pointer("/spec/paramKind"));
    Environment { params, authorizer: true, variables: Vec::new(), patches }
}

/// Errors of a policy's match conditions, variables and rules. `old` is the policy before an update.
pub(crate) fn policy(errors: &mut Errors, obj: &Value, old: Option<&Value>, rules: &str) {
    let spec = Path::new("spec");
    let mut inner = environment(obj, Patches::None);
    let same = |o: &Value, p: &str| o.pointer(p) == obj.pointer(p);
    let judged = old.is_none_or(|o| !same(o, "/spec/paramKind") || !same(o, "/spec/matchConditions"));
    if judged {
        validate(errors, list(obj, "/spec/matchConditions"), &inner, &spec.child("matchConditions"));
    }
    for (i, variable) in list(obj, "/spec/variables").iter().enumerate() {
        let at = spec.child("variables").index(i);
        let name = text(variable, "/name");
        if name.trim().is_empty() {
            errors.push(FieldError::required(&at.child("name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(&at.child("name"), name, "name is not a valid CEL identifier"));
        }
        let source = text(variable, "/expression");
        expression(errors, source, &inner, &[], &at, "expression", "expression is not specified");
        let ty = inner.compile(source, &[]).map_or(Type::Dyn, |p| p.output().clone());
        inner.variables.push((name.to_string(), ty));
    }
    if rules == "mutations" {
        let environment = Environment { patches: Patches::Allowed, ..inner };
        for (i, mutation) in list(obj, "/spec/mutations").iter().enumerate() {
            validate_mutation(errors, mutation, &environment, &spec.child("mutations").index(i));
        }
        return;
    }
    for (i, validation) in list(obj, "/spec/validations").iter().enumerate() {
        validate_validation(errors, validation, &inner, &spec.child("validations").index(i));
    }
    audit_annotations(errors, obj, &inner, &spec.child("auditAnnotations"));
}

fn validate_validation(errors: &mut Errors, validation: &Value, environment: &Environment, path: &Path) {
    let source = text(validation, "/expression");
    expression(errors, source, environment, &[Type::Bool], path, "expression", "expression is not specified");
    let computed = text(validation, "/messageExpression");
    let at = path.child("messageExpression");
    if !computed.is_empty() && computed.trim().is_empty() {
        errors.push(FieldError::invalid(&at, computed, "must be non-empty if specified"));
    } else if !computed.is_empty() {
        let plain = Environment { authorizer: false, ..environment.clone() };
        expression(errors, computed, &plain, &[Type::String], path, "messageExpression", "");
    }
    let message = text(validation, "/message");
    let at = path.child("message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(&at, message, "message must be non-empty if specified"));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(FieldError::invalid(&at, message, "message must not contain line breaks"));
    }
    if let Some(reason) = validation.get("reason").and_then(Value::as_str) {
        check::one_of(errors, reason, &path.child("reason"), REASONS, None);
    }
}

fn audit_annotations(errors: &mut Errors, obj: &Value, environment: &Environment, path: &Path) {
    let all = list(obj, "/spec/auditAnnotations");
    if all.len() > AUDIT_ANNOTATIONS_MAX {
        let text = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid(path, all.to_vec(), text));
    }
    let name = text(obj, "/metadata/name");
    let mut seen: Vec<&str> = Vec::new();
    for (i, annotation) in all.iter().enumerate() {
        let at = path.index(i);
        let key = text(annotation, "/key");
        if name.is_empty() {
            errors.push(FieldError::invalid(&at.child("key"), key, "requires metadata.name be non-empty"));
        } else {
            check::qualified_name(errors, &format!("{name}/{key}"), &at.child("key"));
        }
        let source = text(annotation, "/valueExpression");
        if source.trim().len() > AUDIT_EXPRESSION_MAX {
            let text = format!("must not exceed {AUDIT_EXPRESSION_MAX} bytes in length");
            errors.push(FieldError::required(&at.child("valueExpression"), text));
        } else {
            let results = [Type::String, Type::Null];
            let missing = "valueExpression is not specified";
            expression(errors, source, environment, &results, &at, "valueExpression", missing);
        }
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&at.child("key"), key));
        }
        seen.push(key);
    }
}

fn validate_mutation(errors: &mut Errors, mutation: &Value, environment: &Environment, path: &Path) {
    let kind = text(mutation, "/patchType");
    let forms: BTreeMap<&str, (&str, Type)> = [
        ("ApplyConfiguration", ("applyConfiguration", Type::Message("Object".into()))),
        ("JSONPatch", ("jsonPatch", Type::list(Type::Message("JSONPatch".into())))),
    ]
    .into();
    let names: Vec<&str> = forms.keys().copied().collect();
    check::one_of(errors, kind, &path.child("patchType"), &names, Some(""));
    for (name, (field, result)) in &forms {
        let given = mutation.get(*field).filter(|v| !v.is_null());
        let at = path.child(field);
        match given {
            Some(patch) if kind == *name => {
                let source = text(patch, "/expression");
                let missing = "expression is not specified";
                let results = std::slice::from_ref(result);
                expression(errors, source, environment, results, &at, "expression", missing);
            }
            None if kind == *name => {
                errors.push(FieldError::required(&at, format!("must be specified when patchType is {name}")));
            }
            Some(_) if !kind.is_empty() => {
                let text = format!("must not be specified when patchType is not {name}");
                errors.push(FieldError::invalid(&at, format!("{kind:?}"), text));
            }
            _ => {}
        }
    }
}
