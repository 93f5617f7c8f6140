//! Whether a schema is structural: every field that a junctor speaks of is declared outside of it, and only value
//! validations stand inside.

use knarr_machinery::{FieldError, Path};

use crate::custom::schema::{Additional, Schema};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All violations, sorted by their text.
pub(crate) fn violations(schema: &Schema, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    junctors(schema, &mut |nested, at| complete(nested, Some(schema), path, at, &mut errors), path);
    errors.sort_by_key(ToString::to_string);
    errors
}

/// Calls `f` for each schema below a junctor with its path.
fn junctors<'a>(schema: &'a Schema, f: &mut dyn FnMut(&'a Schema, &Path), path: &Path) {
    let c = &schema.checks;
    if let Some(not) = &c.not {
        f(not, &path.child("not"));
    }
    for (name, list) in [("allOf", &c.all_of), ("anyOf", &c.any_of), ("oneOf", &c.one_of)] {
        for (i, s) in list.iter().enumerate() {
            f(s, &path.child(name).index(i));
        }
    }
}

fn invariants(s: &Schema, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    if s.ty == "array" && s.items.is_none() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = &s.items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (key, below) in &s.properties {
        invariants(below, Level::Field, &path.child("properties").key(key), errors);
    }
    let additional = path.child("additionalProperties");
    if s.additional.is_some() && level == Level::Root {
        errors.push(FieldError::forbidden(&additional, "must not be used at the root"));
    }
    if let Some(below) = s.additional_schema() {
        invariants(below, Level::Field, &additional, errors);
    }
    let preserve = "x-kubernetes-preserve-unknown-fields";
    for (set, key) in [(s.preserve_unknown, preserve), (s.embedded, "x-kubernetes-embedded-resource")] {
        if s.int_or_string && set {
            let text = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(&path.child(key), true, text));
        }
    }
    value_validation(s, is_int_or_string_pair(&s.checks.any_of), first_all_of(s), path, errors);
    types(s, level, path, errors);
    metadata(s, level, path, errors);
}

fn types(s: &Schema, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let at = path.child("type");
    if s.embedded && s.ty != "object" {
        let text = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if s.ty.is_empty() {
            FieldError::required(&at, text)
        } else {
            FieldError::invalid(&at, s.ty.as_str(), text)
        });
    } else if s.ty.is_empty() && !s.int_or_string && !s.preserve_unknown {
        let text = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, text));
    }
    if s.embedded && s.additional.is_some() {
        let text = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), text));
    }
    if level == Level::Root && !s.ty.is_empty() && s.ty != "object" {
        errors.push(FieldError::invalid(&at, s.ty.as_str(), "must be object at the root"));
    }
}

fn metadata(s: &Schema, level: Level, path: &Path, errors: &mut Vec<FieldError>) {
    let resource = level == Level::Root || s.embedded;
    let property = |key: &str| path.child("properties").key(key);
    for key in ["kind", "apiVersion"] {
        if let Some(p) = s.properties.get(key).filter(|p| resource && p.ty != "string") {
            errors.push(FieldError::invalid(&property(key).child("type"), p.ty.as_str(), "must be string"));
        }
    }
    if let Some(p) = s.properties.get("metadata") {
        if resource && p.ty != "object" {
            let at = property("metadata").child("type");
            errors.push(FieldError::invalid(&at, p.ty.as_str(), "must be object"));
        }
        let plain = p.properties.keys().all(|k| k == "name" || k == "generateName")
            && p.additional.is_none()
            && p.items.is_none()
            && !(p.nullable
                || p.preserve_unknown
                || p.embedded
                || p.int_or_string
                || p.titled
                || p.described)
            && p.list_type.is_none()
            && p.map_type.is_none()
            && p.rules.is_empty()
            && no_checks(p);
        if level == Level::Root && !plain {
            errors.push(FieldError::forbidden(
                &property("metadata"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }
    if s.embedded && !s.preserve_unknown && s.properties.is_empty() {
        errors.push(FieldError::required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

fn no_checks(s: &Schema) -> bool {
    let c = &s.checks;
    let numbers = [c.max_length, c.min_length, c.max_items, c.min_items, c.max_properties, c.min_properties];
    c.format.is_empty()
        && c.maximum.is_none()
        && c.minimum.is_none()
        && numbers.iter().all(Option::is_none)
        && c.pattern.is_none()
        && c.multiple_of.is_none()
        && c.values.is_none()
        && c.required.is_empty()
        && c.all_of.is_empty()
        && c.any_of.is_empty()
        && c.one_of.is_empty()
        && c.not.is_none()
}

/// `anyOf: [{type: integer}, {type: string}]`, the one place where junctors may name types.
fn is_int_or_string_pair(list: &[Schema]) -> bool {
    let only = |s: &Schema, ty: &str| {
        s.ty == ty && s.properties.is_empty() && s.items.is_none() && s.additional.is_none() && no_checks(s)
    };
    list.len() == 2 && only(&list[0], "integer") && only(&list[1], "string")
}

fn first_all_of(s: &Schema) -> bool {
    s.checks.all_of.first().is_some_and(|f| is_int_or_string_pair(&f.checks.any_of))
}

fn value_validation(
    s: &Schema,
    skip_any_of: bool,
    skip_first_any_of: bool,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let c = &s.checks;
    if !skip_any_of {
        for (i, n) in c.any_of.iter().enumerate() {
            nested(n, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, n) in c.all_of.iter().enumerate() {
        nested(n, skip_first_any_of && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, n) in c.one_of.iter().enumerate() {
        nested(n, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(n) = &c.not {
        nested(n, false, &path.child("not"), errors);
    }
    if let Some(p) = &c.pattern
        && let Err(e) = &p.compiled
    {
        let text = format!("must be a valid regular expression, but isn't: {e}");
        errors.push(FieldError::invalid(&path.child("pattern"), p.source.as_str(), text));
    }
}

fn nested(s: &Schema, skip_any_of: bool, path: &Path, errors: &mut Vec<FieldError>) {
    value_validation(s, skip_any_of, false, path, errors);
    if let Some(items) = &s.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (key, below) in &s.properties {
        nested(below, false, &path.child("properties").key(key), errors);
    }
    let mut forbid = |set: bool, key: &str, text: &str| {
        if set {
            errors.push(FieldError::forbidden(&path.child(key), format!("must be {text} to be structural")));
        }
    };
    forbid(!s.ty.is_empty(), "type", "empty");
    forbid(s.additional.is_some(), "additionalProperties", "undefined");
    forbid(s.default.is_some(), "default", "undefined");
    forbid(s.titled, "title", "empty");
    forbid(s.described, "description", "empty");
    forbid(s.nullable, "nullable", "false");
    forbid(s.preserve_unknown, "x-kubernetes-preserve-unknown-fields", "false");
    forbid(s.embedded, "x-kubernetes-embedded-resource", "false");
    forbid(s.int_or_string, "x-kubernetes-int-or-string", "false");
    forbid(!s.list_keys.is_empty(), "x-kubernetes-list-map-keys", "empty");
    forbid(s.list_type.is_some(), "x-kubernetes-list-type", "undefined");
    forbid(s.map_type.is_some(), "x-kubernetes-map-type", "undefined");
    forbid(!s.rules.is_empty(), "x-kubernetes-validations", "empty");
    if s.properties.contains_key("metadata") {
        let at = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// What `nested` speaks of must be declared by `schema`.
fn complete(
    nested: &Schema,
    schema: Option<&Schema>,
    at: &Path,
    nested_at: &Path,
    errors: &mut Vec<FieldError>,
) {
    let Some(s) = schema else {
        errors.push(FieldError::required(at, format!("because it is defined in {nested_at}")));
        return;
    };
    junctors(nested, &mut |n, p| complete(n, Some(s), at, p, errors), nested_at);
    if let Some(items) = &nested.items {
        complete(items, s.items.as_deref(), &at.child("items"), &nested_at.child("items"), errors);
    }
    for (key, below) in &nested.properties {
        let (here, there) = (at.child("properties").key(key), nested_at.child("properties").key(key));
        complete(below, s.properties.get(key), &here, &there, errors);
    }
    if let Some(Additional::Schema(below)) = &nested.additional {
        let (here, there) = (at.child("additionalProperties"), nested_at.child("additionalProperties"));
        complete(below, s.additional_schema(), &here, &there, errors);
    }
}
