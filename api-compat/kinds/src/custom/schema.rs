//! [`Schema`]: `openAPIV3Schema` of a CRD's version, parsed once into the form that every walk uses.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use crate::value::text;

/// One node of a schema: what upstream calls structural together with its value validations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pub ty: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Schema>>,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub list_type: Option<String>,
    pub list_keys: Vec<String>,
    pub map_type: Option<String>,
    pub rules: Vec<Rule>,
    pub checks: Checks,
    /// A title or description is given: forbidden below logical junctors.
    pub titled: bool,
    pub described: bool,
    /// Constructs that structural schemas cannot have, as they are called in the document.
    pub unsupported: Vec<String>,
}

/// Value validations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    pub format: String,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub values: Option<Vec<Value>>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

/// A regular expression as written, and compiled when it can be.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    pub source: String,
    pub compiled: Result<Regex, String>,
}

/// `additionalProperties`.
#[derive(Debug, Clone)]
pub(crate) enum Additional {
    Bool(bool),
    Schema(Box<Schema>),
}

/// One entry of `x-kubernetes-validations`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// What structural schemas have no form for.
const UNSUPPORTED: &[&str] =
    &["id", "$ref", "$schema", "additionalItems", "patternProperties", "definitions", "dependencies"];

impl Schema {
    /// Parses a JSON document; what is of a wrong type was refused by the CRD's own schema before.
    pub fn parse(doc: &Value) -> Self {
        let flag = |key: &str| doc.get(key).and_then(Value::as_bool).unwrap_or(false);
        let optional = |key: &str| doc.get(key).and_then(Value::as_str).map(str::to_string);
        Self {
            ty: text(doc, "/type").to_string(),
            nullable: flag("nullable"),
            default: doc.get("default").filter(|d| !d.is_null()).cloned(),
            properties: doc.get("properties").and_then(Value::as_object).map(parse_map).unwrap_or_default(),
            additional: doc.get("additionalProperties").and_then(|a| match a {
                Value::Bool(b) => Some(Additional::Bool(*b)),
                Value::Object(_) => Some(Additional::Schema(Box::new(Self::parse(a)))),
                _ => None,
            }),
            items: doc.get("items").filter(|i| i.is_object()).map(|i| Box::new(Self::parse(i))),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list_type: optional("x-kubernetes-list-type"),
            list_keys: strings(doc.get("x-kubernetes-list-map-keys")),
            map_type: optional("x-kubernetes-map-type"),
            rules: list_of(doc, "x-kubernetes-validations").iter().map(parse_rule).collect(),
            checks: parse_checks(doc),
            titled: !text(doc, "/title").is_empty(),
            described: !text(doc, "/description").is_empty(),
            unsupported: UNSUPPORTED
                .iter()
                .filter(|k| {
                    doc.get(**k).is_some_and(|v| match v {
                        Value::Null => false,
                        Value::String(s) => **k == "$ref" || !s.is_empty(),
                        Value::Object(m) => **k == "dependencies" || !m.is_empty(),
                        _ => true,
                    })
                })
                .map(|k| (*k).to_string())
                .collect(),
        }
    }

    /// The schema of the entries that are no named property.
    pub fn additional_schema(&self) -> Option<&Self> {
        match &self.additional {
            Some(Additional::Schema(s)) => Some(s),
            _ => None,
        }
    }

    /// Whether any node satisfies `test`, junctors included.
    pub fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        if test(self) {
            return true;
        }
        let c = &self.checks;
        self.properties.values().any(|s| s.any(test))
            || self.additional_schema().is_some_and(|s| s.any(test))
            || self.items.as_ref().is_some_and(|s| s.any(test))
            || c.all_of.iter().chain(&c.any_of).chain(&c.one_of).any(|s| s.any(test))
            || c.not.as_ref().is_some_and(|s| s.any(test))
    }
}

fn list_of<'a>(doc: &'a Value, key: &str) -> &'a [Value] {
    doc.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|v| v.as_str().map(str::to_string)).collect()
}

fn parse_map(map: &Map<String, Value>) -> BTreeMap<String, Schema> {
    map.iter().map(|(k, v)| (k.clone(), Schema::parse(v))).collect()
}

fn parse_rule(doc: &Value) -> Rule {
    let string = |key: &str| doc.get(key).and_then(Value::as_str).unwrap_or("").to_string();
    Rule {
        rule: string("rule"),
        message: string("message"),
        message_expression: string("messageExpression"),
        reason: doc.get("reason").and_then(Value::as_str).map(str::to_string),
        field_path: string("fieldPath"),
        optional_old_self: doc.get("optionalOldSelf").and_then(Value::as_bool),
    }
}

fn parse_checks(doc: &Value) -> Checks {
    let number = |key: &str| doc.get(key).and_then(Value::as_f64);
    let integer = |key: &str| doc.get(key).and_then(Value::as_i64);
    let flag = |key: &str| doc.get(key).and_then(Value::as_bool).unwrap_or(false);
    let schemas = |key: &str| list_of(doc, key).iter().map(Schema::parse).collect();
    let pattern = text(doc, "/pattern");
    Checks {
        format: text(doc, "/format").to_string(),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        max_length: integer("maxLength"),
        min_length: integer("minLength"),
        pattern: (!pattern.is_empty())
            .then(|| Pattern { source: pattern.to_string(), compiled: knarr_cel::regex::compile(pattern) }),
        max_items: integer("maxItems"),
        min_items: integer("minItems"),
        unique_items: flag("uniqueItems"),
        multiple_of: number("multipleOf"),
        values: doc.get("enum").and_then(Value::as_array).cloned(),
        max_properties: integer("maxProperties"),
        min_properties: integer("minProperties"),
        required: strings(doc.get("required")),
        all_of: schemas("allOf"),
        any_of: schemas("anyOf"),
        one_of: schemas("oneOf"),
        not: doc.get("not").filter(|n| n.is_object()).map(|n| Box::new(Schema::parse(n))),
    }
}
