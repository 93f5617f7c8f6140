//! The protobuf form of OpenAPI 2.0, `openapi.v2.Document`: one table of fields for each message, read from the JSON
//! form. Extensions (`x-...`) and other free values are kept as JSON text, which is YAML.

use serde_json::{Map, Value};

/// How a JSON value is written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    Int,
    Double,
    /// A free value.
    Any,
    Texts,
    Anys,
    Message(&'static [Field]),
    /// A schema; schemas nest, so their table cannot name itself.
    Schema,
    Schemas,
    /// An object whose entries are `additional_properties` (field 1) of name and value.
    Named(&'static Form),
    /// A string or a list of strings in a TypeItem.
    TypeItem,
    /// `additionalProperties`: a schema (1) or a boolean (2).
    Additional,
    /// `items`: a list of schemas (1).
    Items,
    /// A list of ParametersItem.
    Parameters,
    /// Status code to response.
    Responses,
    /// Path to path item.
    Paths,
    /// A list of objects of string lists.
    Security,
    /// Named API keys.
    SecuritySchemes,
    /// A schema in a SchemaItem.
    SchemaItem,
}

struct Field {
    name: &'static str,
    tag: u32,
    form: Form,
}

const fn f(name: &'static str, tag: u32, form: Form) -> Field {
    Field { name, tag, form }
}

/// Name of the field that takes extensions; its tag is the message's own.
const EXTENSIONS: &str = "x-";

static DOCUMENT: &[Field] = &[
    f("swagger", 1, Form::Text),
    f("info", 2, Form::Message(INFO)),
    f("host", 3, Form::Text),
    f("basePath", 4, Form::Text),
    f("schemes", 5, Form::Texts),
    f("consumes", 6, Form::Texts),
    f("produces", 7, Form::Texts),
    f("paths", 8, Form::Paths),
    f("definitions", 9, Form::Named(&Form::Schema)),
    f("security", 12, Form::Security),
    f("securityDefinitions", 13, Form::SecuritySchemes),
    f(EXTENSIONS, 16, Form::Any),
];

static INFO: &[Field] =
    &[f("title", 1, Form::Text), f("version", 2, Form::Text), f("description", 3, Form::Text)];

static PATH_ITEM: &[Field] = &[
    f("get", 2, Form::Message(OPERATION)),
    f("put", 3, Form::Message(OPERATION)),
    f("post", 4, Form::Message(OPERATION)),
    f("delete", 5, Form::Message(OPERATION)),
    f("options", 6, Form::Message(OPERATION)),
    f("head", 7, Form::Message(OPERATION)),
    f("patch", 8, Form::Message(OPERATION)),
    f("parameters", 9, Form::Parameters),
    f(EXTENSIONS, 10, Form::Any),
];

static OPERATION: &[Field] = &[
    f("tags", 1, Form::Texts),
    f("summary", 2, Form::Text),
    f("description", 3, Form::Text),
    f("operationId", 5, Form::Text),
    f("produces", 6, Form::Texts),
    f("consumes", 7, Form::Texts),
    f("parameters", 8, Form::Parameters),
    f("responses", 9, Form::Responses),
    f("schemes", 10, Form::Texts),
    f("deprecated", 11, Form::Bool),
    f(EXTENSIONS, 13, Form::Any),
];

static RESPONSE: &[Field] =
    &[f("description", 1, Form::Text), f("schema", 2, Form::SchemaItem), f(EXTENSIONS, 5, Form::Any)];

static BODY_PARAMETER: &[Field] = &[
    f("description", 1, Form::Text),
    f("name", 2, Form::Text),
    f("in", 3, Form::Text),
    f("required", 4, Form::Bool),
    f("schema", 5, Form::Schema),
    f(EXTENSIONS, 6, Form::Any),
];

static QUERY_PARAMETER: &[Field] = &[
    f("required", 1, Form::Bool),
    f("in", 2, Form::Text),
    f("description", 3, Form::Text),
    f("name", 4, Form::Text),
    f("type", 6, Form::Text),
    f("format", 7, Form::Text),
    f("uniqueItems", 20, Form::Bool),
    f(EXTENSIONS, 23, Form::Any),
];

static PATH_PARAMETER: &[Field] = &[
    f("required", 1, Form::Bool),
    f("in", 2, Form::Text),
    f("description", 3, Form::Text),
    f("name", 4, Form::Text),
    f("type", 5, Form::Text),
    f("format", 6, Form::Text),
    f("uniqueItems", 19, Form::Bool),
    f(EXTENSIONS, 22, Form::Any),
];

static API_KEY: &[Field] = &[
    f("type", 1, Form::Text),
    f("name", 2, Form::Text),
    f("in", 3, Form::Text),
    f("description", 4, Form::Text),
];

static SCHEMA: &[Field] = &[
    f("$ref", 1, Form::Text),
    f("format", 2, Form::Text),
    f("title", 3, Form::Text),
    f("description", 4, Form::Text),
    f("default", 5, Form::Any),
    f("multipleOf", 6, Form::Double),
    f("maximum", 7, Form::Double),
    f("exclusiveMaximum", 8, Form::Bool),
    f("minimum", 9, Form::Double),
    f("exclusiveMinimum", 10, Form::Bool),
    f("maxLength", 11, Form::Int),
    f("minLength", 12, Form::Int),
    f("pattern", 13, Form::Text),
    f("maxItems", 14, Form::Int),
    f("minItems", 15, Form::Int),
    f("uniqueItems", 16, Form::Bool),
    f("maxProperties", 17, Form::Int),
    f("minProperties", 18, Form::Int),
    f("required", 19, Form::Texts),
    f("enum", 20, Form::Anys),
    f("additionalProperties", 21, Form::Additional),
    f("type", 22, Form::TypeItem),
    f("items", 23, Form::Items),
    f("allOf", 24, Form::Schemas),
    f("properties", 25, Form::Named(&Form::Schema)),
    f("discriminator", 26, Form::Text),
    f("readOnly", 27, Form::Bool),
    f("example", 30, Form::Any),
    f(EXTENSIONS, 31, Form::Any),
];

/// Encodes a version 2 document.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Object(map) = document {
        message(DOCUMENT, map, &mut out);
    }
    out
}

fn number(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn bytes(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    number(u64::from(tag) << 3 | 2, out);
    number(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn nested(tag: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(tag, &inner, out);
}

fn message(fields: &[Field], map: &Map<String, Value>, out: &mut Vec<u8>) {
    for field in fields {
        if field.name != EXTENSIONS {
            if let Some(v) = map.get(field.name) {
                value(field.form, field.tag, v, out);
            }
            continue;
        }
        for (key, v) in map.iter().filter(|(k, _)| k.starts_with("x-")) {
            named(field.tag, key, out, |o| value(Form::Any, 2, v, o));
        }
    }
}

/// A message of name (1) and whatever `write` puts (2).
fn named(tag: u32, name: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    nested(tag, out, |o| {
        bytes(1, name.as_bytes(), o);
        write(o);
    });
}

fn texts(tag: u32, v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::String(s) => bytes(tag, s.as_bytes(), out),
        Value::Array(list) => list.iter().for_each(|v| texts(tag, v, out)),
        _ => {}
    }
}

fn value(form: Form, tag: u32, v: &Value, out: &mut Vec<u8>) {
    match (form, v) {
        (Form::Text, Value::String(s)) => bytes(tag, s.as_bytes(), out),
        (Form::Bool, Value::Bool(b)) => {
            number(u64::from(tag) << 3, out);
            number(u64::from(*b), out);
        }
        (Form::Int, Value::Number(n)) => {
            number(u64::from(tag) << 3, out);
            number(n.as_i64().unwrap_or_default() as u64, out);
        }
        (Form::Double, Value::Number(n)) => {
            number(u64::from(tag) << 3 | 1, out);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Form::Any, v) => nested(tag, out, |o| bytes(2, format!("{v}\n").as_bytes(), o)),
        (Form::Anys, Value::Array(list)) => list.iter().for_each(|v| value(Form::Any, tag, v, out)),
        (Form::Texts, v) => texts(tag, v, out),
        (Form::TypeItem, v) => nested(tag, out, |o| texts(1, v, o)),
        (Form::Message(fields), Value::Object(map)) => nested(tag, out, |o| message(fields, map, o)),
        (Form::Schema, v) => value(Form::Message(SCHEMA), tag, v, out),
        (Form::Schemas, Value::Array(list)) => list.iter().for_each(|v| value(Form::Schema, tag, v, out)),
        (Form::Named(inner), Value::Object(map)) => nested(tag, out, |o| {
            for (name, v) in map {
                named(1, name, o, |o| value(*inner, 2, v, o));
            }
        }),
        (Form::Additional, Value::Bool(_)) => nested(tag, out, |o| value(Form::Bool, 2, v, o)),
        (Form::Additional | Form::Items | Form::SchemaItem, v) => {
            nested(tag, out, |o| value(Form::Schema, 1, v, o));
        }
        (Form::Parameters, Value::Array(list)) => list.iter().for_each(|p| parameter(tag, p, out)),
        (Form::Responses, Value::Object(map)) => nested(tag, out, |o| {
            for (code, v) in map {
                named(1, code, o, |o| nested(2, o, |o| value(Form::Message(RESPONSE), 1, v, o)));
            }
        }),
        (Form::Paths, Value::Object(map)) => nested(tag, out, |o| {
            for (path, v) in map {
                named(2, path, o, |o| value(Form::Message(PATH_ITEM), 2, v, o));
            }
        }),
        (Form::Security, Value::Array(list)) => {
            for v in list {
                value(Form::Named(&Form::TypeItem), tag, v, out);
            }
        }
        (Form::SecuritySchemes, Value::Object(map)) => nested(tag, out, |o| {
            for (name, v) in map {
                named(1, name, o, |o| nested(2, o, |o| value(Form::Message(API_KEY), 2, v, o)));
            }
        }),
        _ => {}
    }
}

/// ParametersItem.parameter (1) is body (1) or non-body (2), which is query (3) or path (4).
fn parameter(tag: u32, p: &Value, out: &mut Vec<u8>) {
    nested(tag, out, |o| {
        nested(1, o, |o| match p.get("in").and_then(Value::as_str) {
            Some("body") => value(Form::Message(BODY_PARAMETER), 1, p, o),
            Some("path") => nested(2, o, |o| value(Form::Message(PATH_PARAMETER), 4, p, o)),
            _ => nested(2, o, |o| value(Form::Message(QUERY_PARAMETER), 3, p, o)),
        });
    });
}
