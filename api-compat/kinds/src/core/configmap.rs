//! ConfigMap.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, flag, map, name};

static RULES: RuleSet = RuleSet { validate, validate_update: Some(validate_update), row, ..PLAIN };

/// Largest total of the values, in bytes.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "ConfigMap", "configmaps")
        .namespaced()
        .short(&["cm"])
        .columns(&[NAME, ("Data", "string", 0, "Number of entries."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut total = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map(obj, &format!("/{field}")).into_iter().flatten() {
            let at = Path::new(field).key(key);
            check::names(&mut errors, names::is_config_map_key(key), key.as_str().into(), &at);
            if field == "data" && map(obj, "/binaryData").is_some_and(|b| b.contains_key(key)) {
                errors.push(FieldError::invalid(&at, key.as_str(), "duplicate of key present in binaryData"));
            }
            let length = value.as_str().map_or(0, str::len);
            total += if field == "data" { length } else { length / 4 * 3 };
        }
    }
    if total > MAX_BYTES {
        errors.push(FieldError::too_long(&Path::new(""), MAX_BYTES));
    }
    errors
}

/// An immutable object keeps its data and stays immutable.
pub(crate) fn immutable_data(errors: &mut Errors, obj: &Value, old: &Value, fields: &[&str]) {
    if !flag(old, "/immutable") {
        return;
    }
    if !flag(obj, "/immutable") {
        errors.push(FieldError::forbidden(
            &Path::new("immutable"),
            "field is immutable when `immutable` is set",
        ));
    }
    for field in fields {
        if !check::same(obj.get(*field), old.get(*field)) {
            errors
                .push(FieldError::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
        }
    }
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    immutable_data(&mut errors, obj, old, &["data", "binaryData"]);
    errors.extend(validate(ctx, obj));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let count = |key: &str| map(obj, key).map_or(0, serde_json::Map::len);
    vec![name(obj), (count("/data") + count("/binaryData")).into(), age(obj, now)]
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, check_update};
    use serde_json::json;

    #[test]
    fn errors() {
        check("v1", "configmaps", json!({"data": {"a.b-c_d": "x"}}), &[]);
        check(
            "v1",
            "configmaps",
            json!({"data": {"a": "x"}, "binaryData": {"a": "eA=="}}),
            &["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"],
        );
        check_update(
            "v1",
            "configmaps",
            json!({"immutable": true, "data": {"a": "2"}}),
            json!({"immutable": true, "data": {"a": "1"}}),
            &["data: Forbidden: field is immutable when `immutable` is set"],
        );
        check_update(
            "v1",
            "configmaps",
            json!({"data": {"a": "1"}}),
            json!({"immutable": true, "data": {"a": "1"}}),
            &["immutable: Forbidden: field is immutable when `immutable` is set"],
        );
    }
}
