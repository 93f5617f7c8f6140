//! IngressClass.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill_text, name, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec/parameters", |p| fill_text(p, "scope", "Cluster")),
    validate,
    validate_update: Some(update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "IngressClass", "ingressclasses")
        .generation()
        .columns(&[
            NAME,
            ("Controller", "string", 0, "Controller that serves the class."),
            ("Parameters", "string", 0, "Object with the parameters of the class."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let controller = text(obj, "/spec/controller");
    if controller.len() > 250 {
        errors.push(FieldError::too_long(&spec.child("controller"), 250));
    }
    if controller.is_empty() {
        errors.push(FieldError::required(&spec.child("controller"), ""));
    } else {
        check::names(
            &mut errors,
            names::is_domain_prefixed_path(controller),
            controller.into(),
            &spec.child("controller"),
        );
    }
    if let Some(p) = obj.pointer("/spec/parameters").filter(|p| !p.is_null()) {
        let path = spec.child("parameters");
        for (key, detail) in [("kind", "kind is required"), ("name", "name is required")] {
            if text(p, &format!("/{key}")).is_empty() {
                errors.push(FieldError::required(&path.child(key), detail));
            }
        }
        let scope = text(p, "/scope");
        check::one_of(&mut errors, scope, &path.child("scope"), &["Cluster", "Namespace"], Some(""));
        let namespace = text(p, "/namespace");
        if scope == "Namespace" && namespace.is_empty() {
            errors.push(FieldError::required(
                &path.child("namespace"),
                "`parameters.scope` is set to 'Namespace'",
            ));
        }
        if scope == "Cluster" && !namespace.is_empty() {
            errors.push(FieldError::forbidden(
                &path.child("namespace"),
                "`parameters.scope` is set to 'Cluster'",
            ));
        }
    }
    errors
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate(ctx, obj);
    let path = Path::new("spec").child("controller");
    check::immutable(&mut errors, obj.pointer("/spec/controller"), old.pointer("/spec/controller"), &path);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let parameters = match obj.pointer("/spec/parameters").filter(|p| !p.is_null()) {
        Some(p) => {
            let group = text(p, "/apiGroup");
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(p, "/kind"), text(p, "/name"))
        }
        None => "<none>".to_string(),
    };
    vec![name(obj), text(obj, "/spec/controller").into(), parameters.into(), age(obj, now)]
}
