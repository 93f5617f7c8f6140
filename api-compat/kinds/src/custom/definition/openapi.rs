//! Errors of `openAPIV3Schema`: constructs that a schema of a custom resource may not have.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::Errors;
use crate::custom::schema::{Additional, Schema};
use crate::custom::{cel, formats};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// Go names of the fields that may stand at the root beside a status subresource.
const AT_ROOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// Validates `schema` (`{openAPIV3Schema: …}`).
pub(super) fn validate(errors: &mut Errors, schema: &Value, has_status: bool, path: &Path) {
    let Some(doc) = schema.get("openAPIV3Schema").filter(|d| !d.is_null()) else { return };
    let at = path.child("openAPIV3Schema");
    if has_status {
        root_with_status(errors, doc, &at);
    }
    let parsed = Schema::parse(doc);
    if parsed.nullable {
        errors.push(FieldError::forbidden(&at.child("nullable"), "nullable cannot be true at the root"));
    }
    let structure = super::structure_errors(&parsed, &at);
    let structural = structure.is_empty();
    errors.extend(structure);
    let mut walk = Walk { errors: Vec::new() };
    walk.node(doc, &parsed, &at, &State { root: true, ..State::default() });
    let sound = walk.errors.is_empty();
    errors.append(&mut walk.errors);
    if structural && sound {
        errors.extend(cel::definition_errors(&parsed, &at));
    }
}

fn root_with_status(errors: &mut Errors, doc: &Value, path: &Path) {
    let kind = doc.get("type").and_then(Value::as_str).unwrap_or("");
    if !kind.is_empty() && kind != "object" {
        let text = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(&path.child("type"), kind, text));
        return;
    }
    let odd = |k: &&String| {
        !AT_ROOT.iter().any(|(json, _)| json == k) && !super::absent(doc, k) && doc[k.as_str()] != false
    };
    if doc.as_object().is_some_and(|m| m.keys().any(|k| odd(&k))) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(_, go)| *go).collect();
        let text = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(FieldError::invalid(path, doc.clone(), text));
    }
}

#[derive(Clone, Default)]
struct State {
    root: bool,
    inside_meta: bool,
    /// Why defaults may not stand here.
    no_defaults: Option<String>,
}

struct Walk {
    errors: Errors,
}

impl Walk {
    fn node(&mut self, doc: &Value, s: &Schema, path: &Path, state: &State) {
        self.own(doc, s, path, state);
        let below = State { root: false, ..state.clone() };
        let get = |key: &str| doc.get(key).unwrap_or(&Value::Null);
        match &s.additional {
            Some(Additional::Schema(a)) => {
                let mut inner = below.clone();
                if state.inside_meta {
                    inner.no_defaults =
                        Some("inside additionalProperties applying to object metadata".into());
                }
                self.exclusive(s, path);
                self.node(get("additionalProperties"), a, &path.child("additionalProperties"), &inner);
            }
            Some(Additional::Bool(false)) => self.exclusive(s, path),
            _ => {}
        }
        for (key, p) in &s.properties {
            let mut inner = below.clone();
            if (state.root || s.embedded) && matches!(key.as_str(), "metadata" | "kind" | "apiVersion") {
                inner.inside_meta = true;
                if state.root {
                    inner.no_defaults = Some(format!("in top-level {key}"));
                }
            }
            self.node(&get("properties")[key.as_str()], p, &path.child("properties").key(key), &inner);
        }
        if let Some(n) = &s.checks.not {
            self.node(get("not"), n, &path.child("not"), &below);
        }
        for (name, list) in
            [("allOf", &s.checks.all_of), ("oneOf", &s.checks.one_of), ("anyOf", &s.checks.any_of)]
        {
            for (i, n) in list.iter().enumerate() {
                self.node(&get(name)[i], n, &path.child(name).index(i), &below);
            }
        }
        if let Some(items) = &s.items {
            self.node(get("items"), items, &path.child("items"), &below);
        }
        self.lists(doc, s, path);
        self.rules(s, path);
    }

    fn exclusive(&mut self, s: &Schema, path: &Path) {
        if !s.properties.is_empty() {
            let text = "additionalProperties and properties are mutual exclusive";
            self.errors.push(FieldError::forbidden(&path.child("additionalProperties"), text));
        }
    }

    fn own(&mut self, doc: &Value, s: &Schema, path: &Path, state: &State) {
        let errors = &mut self.errors;
        if !s.ty.is_empty() && !TYPES.contains(&s.ty.as_str()) {
            errors.push(FieldError::not_supported(&path.child("type"), s.ty.as_str(), TYPES));
        }
        if let (Some(why), Some(_)) = (&state.no_defaults, &s.default) {
            errors.push(FieldError::forbidden(&path.child("default"), format!("must not be set {why}")));
        }
        for key in s.unsupported.iter().filter(|k| *k != "$schema") {
            errors.push(FieldError::forbidden(&path.child(key), format!("{key} is not supported")));
        }
        if s.ty == "null" {
            let text = "type cannot be set to null, use nullable as an alternative";
            errors.push(FieldError::forbidden(&path.child("type"), text));
        }
        if doc.get("items").is_some_and(Value::is_array) {
            let text = "items must be a schema object and not an array";
            errors.push(FieldError::forbidden(&path.child("items"), text));
        }
        if state.inside_meta && s.embedded {
            let text = "must not be used inside of resource meta";
            errors.push(FieldError::forbidden(&path.child("x-kubernetes-embedded-resource"), text));
        }
        if s.checks.unique_items {
            let text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            errors.push(FieldError::forbidden(&path.child("uniqueItems"), text));
        }
        let preserve = "x-kubernetes-preserve-unknown-fields";
        if doc.get(preserve) == Some(&Value::Bool(false)) {
            errors.push(FieldError::invalid(&path.child(preserve), false, "must be true or undefined"));
        }
    }

    /// `text` about a type that is not the one wanted.
    fn wrong_type(&mut self, s: &Schema, path: &Path, text: &str) {
        let at = path.child("type");
        self.errors.push(if s.ty.is_empty() {
            FieldError::required(&at, text)
        } else {
            FieldError::invalid(&at, s.ty.as_str(), text)
        });
    }

    fn lists(&mut self, doc: &Value, s: &Schema, path: &Path) {
        if let Some(kind) = &s.map_type {
            if s.ty != "object" {
                self.wrong_type(s, path, "must be object if x-kubernetes-map-type is specified");
            }
            if kind != "atomic" && kind != "granular" {
                let at = path.child("x-kubernetes-map-type");
                self.errors.push(FieldError::not_supported(&at, kind.as_str(), &["atomic", "granular"]));
            }
        }
        let at = path.child("x-kubernetes-list-type");
        if let Some(kind) = &s.list_type {
            if s.ty != "array" {
                self.wrong_type(s, path, "must be array if x-kubernetes-list-type is specified");
            } else if kind == "set"
                && let Some(items) = &s.items
            {
                self.set_items(items, &path.child("items"));
            }
            if !matches!(kind.as_str(), "atomic" | "set" | "map") {
                self.errors.push(unsupported(&at, kind, &["atomic", "set", "map"]));
            }
        }
        if !s.list_keys.is_empty() && s.list_type.as_deref() != Some("map") {
            let text = "must be map if x-kubernetes-list-map-keys is non-empty";
            self.errors.push(match &s.list_type {
                None => FieldError::required(&at, text),
                Some(kind) => FieldError::invalid(&at, kind.as_str(), text),
            });
        }
        if s.list_type.as_deref() == Some("map") {
            self.map_list(doc, s, path);
        }
        if let (Some(kind @ ("set" | "map")), Some(items)) = (s.list_type.as_deref(), &s.items) {
            self.nullable_items(kind, s, items, path);
        }
    }

    fn set_items(&mut self, items: &Schema, path: &Path) {
        let text = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let shown = items.list_type.as_deref().map_or(Value::Null, Value::from);
        match items.ty.as_str() {
            "array" if items.list_type.as_deref().is_some_and(|k| k != "atomic") => {
                self.errors.push(FieldError::invalid(&path.child("x-kubernetes-list-type"), shown, text));
            }
            "object" if items.map_type.as_deref() != Some("atomic") => {
                self.errors.push(FieldError::invalid(&path.child("x-kubernetes-map-type"), shown, text));
            }
            _ => {}
        }
    }

    fn map_list(&mut self, doc: &Value, s: &Schema, path: &Path) {
        let keys = path.child("x-kubernetes-list-map-keys");
        if s.list_keys.is_empty() {
            let text = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(FieldError::required(&keys, text));
        }
        let at = path.child("items");
        let Some(items) = &s.items else {
            self.errors.push(match doc.get("items") {
                Some(given @ Value::Array(_)) => {
                    let text = "must only have a single schema if x-kubernetes-list-type is map";
                    FieldError::invalid(&at, given.clone(), text)
                }
                _ => FieldError::required(&at, "must have a schema if x-kubernetes-list-type is map"),
            });
            return;
        };
        if items.ty != "object" {
            let text = "must be object if parent array's x-kubernetes-list-type is map";
            self.errors.push(FieldError::invalid(&at.child("type"), items.ty.as_str(), text));
            return;
        }
        for (i, key) in s.list_keys.iter().enumerate() {
            match items.properties.get(key) {
                Some(p) if matches!(p.ty.as_str(), "array" | "object") => {
                    let text = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = at.child("properties").key(key).child("type");
                    self.errors.push(FieldError::invalid(&at, items.ty.as_str(), text));
                }
                Some(_) => {}
                None => self.errors.push(FieldError::invalid(
                    &keys,
                    s.list_keys.clone(),
                    "entries must all be names of item properties",
                )),
            }
            if s.list_keys[..i].contains(key) {
                let text = "must not contain duplicate entries";
                self.errors.push(FieldError::invalid(&keys, s.list_keys.clone(), text));
            }
        }
    }

    fn nullable_items(&mut self, kind: &str, s: &Schema, items: &Schema, path: &Path) {
        let at = path.child("items");
        if items.nullable {
            let text = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            self.errors.push(FieldError::forbidden(&at.child("nullable"), text));
        }
        if kind != "map" {
            return;
        }
        for key in &s.list_keys {
            let Some(p) = items.properties.get(key) else { continue };
            let at = at.child("properties").key(key);
            let head = "this property is in x-kubernetes-list-map-keys, so it";
            if !items.checks.required.contains(key) && p.default.is_none() {
                let text = format!("{head} must have a default or be a required property");
                self.errors.push(FieldError::required(&at.child("default"), text));
            }
            if p.nullable {
                self.errors
                    .push(FieldError::forbidden(&at.child("nullable"), format!("{head} cannot be nullable")));
            }
        }
    }

    /// The form of rules; whether they compile is seen later.
    fn rules(&mut self, s: &Schema, path: &Path) {
        let lines = |t: &str| t.contains(['\n', '\r']);
        for (i, r) in s.rules.iter().enumerate() {
            let at = path.child("x-kubernetes-validations").index(i);
            let (rule, message) = (r.rule.trim(), r.message.trim());
            let errors = &mut self.errors;
            if rule.is_empty() {
                errors.push(FieldError::required(&at.child("rule"), "rule is not specified"));
            } else if !r.message.is_empty() && message.is_empty() {
                let text = "must be non-empty if specified";
                errors.push(FieldError::invalid(&at.child("message"), r.message.as_str(), text));
            } else if lines(message) {
                errors.push(FieldError::invalid(
                    &at.child("message"),
                    r.message.as_str(),
                    "must not contain line breaks",
                ));
            } else if lines(rule) && message.is_empty() {
                let text = "message must be specified if rule contains line breaks";
                errors.push(FieldError::required(&at.child("message"), text));
            }
            if !r.message_expression.is_empty() && r.message_expression.trim().is_empty() {
                let text = "messageExpression must be non-empty if specified";
                errors.push(FieldError::required(&at.child("messageExpression"), text));
            }
            const REASONS: &[&str] =
                &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            if let Some(reason) = r.reason.as_deref().filter(|r| !REASONS.contains(r)) {
                errors.push(FieldError::not_supported(&at.child("reason"), reason, REASONS));
            }
            let field = at.child("fieldPath");
            let given = r.field_path.as_str();
            if given.is_empty() {
                continue;
            }
            if given.trim().is_empty() {
                errors.push(FieldError::invalid(&field, given, "must be non-empty if specified"));
            }
            if lines(given) {
                errors.push(FieldError::invalid(&field, given, "must not contain line breaks"));
            }
            if super::parts::field_path(s, given, true).is_err() {
                errors.push(FieldError::invalid(&field, given, "must be a valid path"));
            }
        }
    }
}

/// A value that is none of a list, told in the order given.
fn unsupported(path: &Path, value: &str, valid: &[&str]) -> FieldError {
    let quoted: Vec<String> = valid.iter().map(|v| format!("{v:?}")).collect();
    let detail = format!("supported values: {}", quoted.join(", "));
    FieldError { detail, ..FieldError::not_supported(path, value, &[]) }
}

/// The formats of a schema that are none for their type, in the order of a walk.
pub(in crate::custom) fn unrecognized_formats(schema: &Schema, found: &mut Vec<String>) {
    let format = &schema.checks.format;
    if !format.is_empty() && !formats::recognized(schema) {
        found.push(format.clone());
    }
    let c = &schema.checks;
    let children = schema.items.as_deref().into_iter();
    let children = children.chain(c.all_of.iter()).chain(&c.any_of).chain(&c.one_of).chain(c.not.as_deref());
    let children = children.chain(schema.properties.values()).chain(schema.additional_schema());
    for s in children {
        unrecognized_formats(s, found);
    }
}
