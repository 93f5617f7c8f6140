//! Value validation of a custom resource against its schema, with the texts of the stock server's validator.
//!
//! Entry points: [`validate`] and, for updates, [`validate_update`], which tolerates errors in parts that did not
//! change (ratcheting).

use knarr_machinery::field::ErrorType;
use knarr_machinery::{FieldError, Path};
use serde_json::{Map, Value};

use crate::custom::formats;
use crate::custom::lists::find_item;
use crate::custom::schema::{Additional, Checks, Schema};

/// One error before it is placed below a root path.
#[derive(Debug, Clone, PartialEq)]
struct Issue {
    kind: ErrorType,
    path: String,
    value: Option<Value>,
    detail: String,
}

/// Errors, and how many checks passed: junctors tell the errors of the alternative that came closest.
#[derive(Debug, Default)]
struct Outcome {
    issues: Vec<Issue>,
    matched: usize,
}

impl Outcome {
    fn add(&mut self, issue: Issue) {
        if !self.issues.contains(&issue) {
            self.issues.push(issue);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matched += other.matched;
        other.issues.into_iter().for_each(|i| self.add(i));
    }
}

/// Validates a value; error paths begin with `root`.
pub(crate) fn validate(schema: &Schema, value: &Value, root: &Path) -> Vec<FieldError> {
    place(run(schema, value, None, ""), root)
}

/// Validates a changed value; errors in parts that are as before are tolerated.
pub(crate) fn validate_update(schema: &Schema, value: &Value, old: &Value, root: &Path) -> Vec<FieldError> {
    place(ratcheted(schema, value, Some(old), ""), root)
}

fn place(outcome: Outcome, root: &Path) -> Vec<FieldError> {
    let at = |path: &str| {
        let path = path.trim_start_matches('.');
        if path.is_empty() { root.to_string() } else { root.child(path).to_string() }
    };
    let to_error = |i: Issue| FieldError {
        field: at(&i.path),
        kind: i.kind,
        value: i.value,
        shown: None,
        detail: i.detail,
    };
    outcome.issues.into_iter().map(to_error).collect()
}

/// A node that has an old counterpart: unchanged values pass.
fn ratcheted(schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
    let mut outcome = run(schema, value, old, path);
    if !outcome.issues.is_empty() && old == Some(value) {
        outcome.issues.clear();
    }
    outcome
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn invalid(path: &str, value: impl Into<Value>, detail: String) -> Issue {
    Issue { kind: ErrorType::Invalid, path: path.to_string(), value: Some(value.into()), detail }
}

/// An error about the whole, without a field.
fn general(detail: String) -> Issue {
    invalid("", "", detail)
}

fn wrong_type(path: &str, want: &str, got: &str) -> Issue {
    let detail = format!("{path} in body must be of type {want}: {}", quoted(got));
    Issue { kind: ErrorType::TypeInvalid, path: path.to_string(), value: Some(got.into()), detail }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn run(schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
    let mut out = Outcome::default();
    let (types, format) = (types_of(schema), formats::effective(schema));
    if let Some(issue) = check_type(&types, format, schema.nullable, value, path) {
        out.add(issue);
    } else {
        out.matched += 1;
    }
    let c = &schema.checks;
    if value.is_null() {
        check_values(c, value, path, &mut out);
        return out;
    }
    out.matched += 3;
    junctors(c, value, old, path, &mut out);
    match value {
        Value::String(s) => {
            check_string(c, s, path, &mut out);
            if !format.is_empty() && formats::known(format) && !formats::valid(format, s) {
                out.add(wrong_type(path, format, s));
            }
        }
        Value::Number(n) => check_number(schema, n, value, path, &mut out),
        Value::Array(items) => check_items(schema, items, old, path, &mut out),
        _ => {}
    }
    check_values(c, value, path, &mut out);
    if let Value::Object(map) = value {
        check_map(schema, map, old, path, &mut out);
    }
    out.matched += 2;
    out
}

fn types_of(schema: &Schema) -> Vec<&str> {
    if schema.int_or_string {
        vec!["integer", "string"]
    } else if schema.ty.is_empty() {
        Vec::new()
    } else {
        vec![&schema.ty]
    }
}

fn check_type(types: &[&str], format: &str, nullable: bool, value: &Value, path: &str) -> Option<Issue> {
    if types.is_empty() && format.is_empty() {
        return None;
    }
    if value.is_null() {
        return (!types.is_empty() && !nullable).then(|| wrong_type(path, &types.join(","), "null"));
    }
    let got = type_name(value);
    let number_wanted = types.contains(&"number");
    let fits = types.contains(&got) || (got == "integer" && number_wanted) || integral(value, types);
    let data_format = match got {
        "integer" => "int64",
        "number" => "float64",
        _ => "",
    };
    let textual = matches!(value, Value::String(_) | Value::Array(_));
    if !textual && !format.is_empty() && !fits && data_format != format {
        return Some(wrong_type(path, format, data_format));
    }
    if textual && !format.is_empty() && !number_wanted && !types.contains(&"integer") {
        return None;
    }
    (!fits).then(|| wrong_type(path, &types.join(","), got))
}

fn integral(value: &Value, types: &[&str]) -> bool {
    types.contains(&"integer") && value.is_f64() && value.as_f64().is_some_and(|f| f.fract() == 0.0)
}

fn check_values(c: &Checks, value: &Value, path: &str, out: &mut Outcome) {
    let Some(values) = &c.values else { return };
    if values.is_empty() || values.iter().any(|v| same_value(v, value)) {
        return;
    }
    let texts: Vec<String> = values
        .iter()
        .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
        .map(|t| format!("\"{t}\""))
        .collect();
    out.add(Issue {
        kind: ErrorType::NotSupported,
        path: path.to_string(),
        value: Some(value.clone()),
        detail: format!("supported values: {}", texts.join(", ")),
    });
}

fn same_value(a: &Value, b: &Value) -> bool {
    a == b
        || match (a, b) {
            (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
            _ => false,
        }
}

fn check_string(c: &Checks, s: &str, path: &str, out: &mut Outcome) {
    let length = i64::try_from(s.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = c.max_length.filter(|m| length > *m) {
        let detail = format!("may not be more than {max} bytes");
        out.add(Issue { kind: ErrorType::TooLong, path: path.to_string(), value: None, detail });
    } else if let Some(min) = c.min_length.filter(|m| length < *m) {
        out.add(invalid(path, s, format!("{path} in body should be at least {min} chars long")));
    } else if let Some(pattern) = &c.pattern {
        match &pattern.compiled {
            Ok(regex) if regex.is_match(s) => {}
            Ok(_) => out.add(invalid(path, s, format!("{path} in body should match '{}'", pattern.source))),
            Err(e) => out.add(invalid(
                path,
                s,
                format!("{path} in body should match '{}, but pattern is invalid: {e}'", pattern.source),
            )),
        }
    }
}

/// A float as Go's `%v` prints it.
fn go_float(f: f64) -> String {
    if f != 0.0 && (f.abs() >= 1e21 || f.abs() < 1e-4) {
        let text = format!("{f:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(d) => ('-', d),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{f}")
}

/// A bound as it is told: an integer when the value is one.
fn bound(f: f64, value: &Value) -> String {
    if value.is_f64() { go_float(f) } else { (f as i64).to_string() }
}

fn check_number(schema: &Schema, number: &serde_json::Number, value: &Value, path: &str, out: &mut Outcome) {
    let c = &schema.checks;
    let f = number.as_f64().unwrap_or(0.0);
    let range = |n: f64, int: Option<i64>, what: &str| -> Option<Issue> {
        let format = schema.checks.format.as_str();
        let fits = match (schema.ty.as_str(), format) {
            ("integer", "int32") if !schema.int_or_string => int.is_some_and(|i| i32::try_from(i).is_ok()),
            ("integer", _) if !schema.int_or_string => {
                int.is_some() || (n.fract() == 0.0 && n.abs() < 9.3e18)
            }
            ("number", "float") => n.abs() <= f64::from(f32::MAX),
            _ => true,
        };
        let known = matches!(format, "int32" | "int64" | "float" | "double");
        let suffix = if known {
            format!("with format {format} in {path}")
        } else {
            format!("(default format) in {path}")
        };
        (!fits).then(|| general(format!("{what} value must be of type {} {suffix}", schema.ty)))
    };
    if let Some(issue) = range(f, number.as_i64(), "Checked") {
        out.add(issue);
    }
    let whole = |b: f64| (b.fract() == 0.0).then_some(b as i64);
    if let Some(factor) = c.multiple_of {
        match range(factor, whole(factor), "MultipleOf") {
            _ if factor <= 0.0 => {
                let shown = bound(factor, value);
                let text = format!("factor MultipleOf declared for {path} must be positive: {shown}");
                out.add(invalid(
                    path,
                    if value.is_f64() { Value::from(factor) } else { Value::from(factor as i64) },
                    text,
                ));
            }
            Some(issue) => out.add(issue),
            None if !multiple(value, f, factor) => {
                let detail = format!("{path} in body should be a multiple of {}", bound(factor, value));
                out.add(invalid(path, value.clone(), detail));
            }
            None => {}
        }
    }
    for (limit, what) in [(c.minimum, "Minimum boundary"), (c.maximum, "Maximum boundary")] {
        if let Some(issue) = limit.and_then(|l| range(l, whole(l), what)) {
            out.add(issue);
        }
    }
    bounds(c, f, value, path, out);
    out.matched += 1;
}

fn bounds(c: &Checks, f: f64, value: &Value, path: &str, out: &mut Outcome) {
    let tell = |word: &str, limit: f64| {
        invalid(path, value.clone(), format!("{path} in body should be {word} {}", bound(limit, value)))
    };
    if let Some(min) = c.minimum.filter(|m| if c.exclusive_minimum { f <= *m } else { f < *m }) {
        out.add(tell(if c.exclusive_minimum { "greater than" } else { "greater than or equal to" }, min));
    }
    if let Some(max) = c.maximum.filter(|m| if c.exclusive_maximum { f >= *m } else { f > *m }) {
        out.add(tell(if c.exclusive_maximum { "less than" } else { "less than or equal to" }, max));
    }
}

fn multiple(value: &Value, f: f64, factor: f64) -> bool {
    if factor <= 0.0 {
        return false;
    }
    if let (Some(i), true) = (value.as_i64(), factor >= 1.0) {
        return i % (factor as i64) == 0;
    }
    let quotient = if factor < 1.0 { 1.0 / factor * f } else { f / factor };
    (quotient - quotient.round()).abs() < 1e-9
}

fn check_items(schema: &Schema, items: &[Value], old: Option<&Value>, path: &str, out: &mut Outcome) {
    let c = &schema.checks;
    let before = old.and_then(Value::as_array);
    if let Some(below) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            let at = format!("{path}[{i}]");
            let counterpart = before.and_then(|b| find_item(schema, item, b));
            out.merge(match counterpart {
                Some(_) => ratcheted(below, item, counterpart, &at),
                None => run(below, item, None, &at),
            });
        }
    }
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(min) = c.min_items.filter(|m| size < *m) {
        out.add(invalid(path, size, format!("{path} in body should have at least {min} items")));
    }
    if let Some(max) = c.max_items.filter(|m| size > *m) {
        out.add(too_many(path, size, max));
    }
    if c.unique_items && (1..items.len()).any(|i| items[..i].contains(&items[i])) {
        out.add(invalid(path, "", format!("{path} in body shouldn't contain duplicates")));
    }
    out.matched += 1;
}

fn too_many(path: &str, size: i64, max: i64) -> Issue {
    let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
    Issue { kind: ErrorType::TooMany, path: path.to_string(), value: Some(size.into()), detail }
}

fn check_map(schema: &Schema, map: &Map<String, Value>, old: Option<&Value>, path: &str, out: &mut Outcome) {
    let c = &schema.checks;
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = c.min_properties.filter(|m| size < *m) {
        out.add(invalid(path, size, format!("{path} in body should have at least {min} properties")));
    }
    if let Some(max) = c.max_properties.filter(|m| size > *m) {
        out.add(too_many(path, size, max));
    }
    let at = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    let before = |key: &str| {
        // The type of a resource is not ratcheted: old and new were both converted.
        let typed = path.is_empty() && matches!(key, "apiVersion" | "kind");
        old.filter(|_| !typed).and_then(|o| o.get(key))
    };
    let child = |below: &Schema, key: &str, value: &Value, at: &str| match before(key) {
        Some(o) => ratcheted(below, value, Some(o), at),
        None => run(below, value, None, at),
    };
    match &schema.additional {
        Some(Additional::Bool(false)) => {
            for key in map.keys().filter(|k| !schema.properties.contains_key(*k)) {
                out.add(invalid(path, key.as_str(), format!("{path}.{key} in body is a forbidden property")));
            }
        }
        Some(Additional::Schema(below)) => {
            for (key, value) in map.iter().filter(|(k, _)| !schema.properties.contains_key(*k)) {
                out.merge(child(below, key, value, &format!("{path}.{key}")));
            }
        }
        _ => {}
    }
    for (key, below) in &schema.properties {
        if let Some(value) = map.get(key) {
            out.merge(child(below, key, value, &at(key)));
        }
    }
    for key in c.required.iter().filter(|k| !map.contains_key(*k)) {
        out.add(Issue {
            kind: ErrorType::Required,
            path: format!("{path}.{key}"),
            value: None,
            detail: String::new(),
        });
    }
}

fn junctors(c: &Checks, value: &Value, old: Option<&Value>, path: &str, out: &mut Outcome) {
    let name = quoted(path);
    if !c.any_of.is_empty() {
        let results: Vec<Outcome> = c.any_of.iter().map(|s| run(s, value, old, path)).collect();
        if !results.iter().any(|r| r.issues.is_empty()) {
            out.add(general(format!("{name} must validate at least one schema (anyOf)")));
            merge_best(results, out);
        }
    }
    if !c.one_of.is_empty() {
        let results: Vec<Outcome> = c.one_of.iter().map(|s| run(s, value, old, path)).collect();
        let valid = results.iter().filter(|r| r.issues.is_empty()).count();
        if valid != 1 {
            let found = if valid == 0 {
                "Found none valid".to_string()
            } else {
                format!("Found {valid} valid alternatives")
            };
            out.add(general(format!("{name} must validate one and only one schema (oneOf). {found}")));
            if valid == 0 {
                merge_best(results, out);
            }
        }
    }
    if !c.all_of.is_empty() {
        let results: Vec<Outcome> = c.all_of.iter().map(|s| run(s, value, old, path)).collect();
        let valid = results.iter().filter(|r| r.issues.is_empty()).count();
        let all = results.len();
        results.into_iter().for_each(|r| out.merge(r));
        if valid != all {
            let more = if valid == 0 { ". None validated" } else { "" };
            out.add(general(format!("{name} must validate all the schemas (allOf){more}")));
        }
    }
    if let Some(not) = &c.not
        && run(not, value, old, path).issues.is_empty()
    {
        out.add(general(format!("{name} must not validate the schema (not)")));
    }
}

/// The errors of the alternative with most passed checks, the first of equals.
fn merge_best(results: Vec<Outcome>, out: &mut Outcome) {
    let mut best: Option<Outcome> = None;
    for result in results {
        if best.as_ref().is_none_or(|b| result.matched > b.matched) {
            best = Some(result);
        }
    }
    if let Some(best) = best {
        out.merge(best);
    }
}
