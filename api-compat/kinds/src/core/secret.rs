//! Secret.

use base64::Engine as _;
use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Map, Value};

use super::configmap::{MAX_BYTES, immutable_data};
use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, drop_key, fill_text, map, name, sub, text};

static RULES: RuleSet = RuleSet {
    default,
    validate,
    validate_update: Some(validate_update),
    row,
    fields: |obj| vec![(Str::from("type"), text(obj, "/type").to_string())],
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Secret", "secrets")
        .namespaced()
        .columns(&[
            NAME,
            ("Type", "string", 0, "What kind of secret it is."),
            ("Data", "string", 0, "Number of entries."),
            AGE,
        ])
        .selectable(&["type"])
        .build(&RULES)
}

/// `stringData` is written into `data` and is never kept.
fn default(obj: &mut Value) {
    if let Some(Value::Object(plain)) = obj.get("stringData").cloned()
        && !plain.is_empty()
        && let Some(data) = sub(obj, "data").as_object_mut()
    {
        for (key, value) in plain {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
    drop_key(obj, "stringData");
    fill_text(obj, "type", "Opaque");
}

fn decoded(obj: &Value, key: &str) -> Option<Vec<u8>> {
    let value = map(obj, "/data")?.get(key)?.as_str()?;
    base64::engine::general_purpose::STANDARD.decode(value).ok()
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let data = Path::new("data");
    let mut total = 0;
    for (key, value) in map(obj, "/data").into_iter().flatten() {
        check::names(&mut errors, names::is_config_map_key(key), key.as_str().into(), &data.key(key));
        total += value.as_str().map_or(0, str::len) / 4 * 3;
    }
    if total > MAX_BYTES {
        errors.push(FieldError::too_long(&data, MAX_BYTES));
    }
    let has = |key: &str| map(obj, "/data").is_some_and(|m| m.contains_key(key));
    match text(obj, "/type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if text(obj, "/metadata/annotations/kubernetes.io~1service-account.name").is_empty() {
                errors.push(FieldError::required(&Path::new("metadata").child("annotations").key(key), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(&mut errors, obj, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker_config(&mut errors, obj, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.push(FieldError::required(&data.key("username"), ""));
            errors.push(FieldError::required(&data.key("password"), ""));
        }
        "kubernetes.io/ssh-auth" if decoded(obj, "ssh-privatekey").is_none_or(|v| v.is_empty()) => {
            errors.push(FieldError::required(&data.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    errors.push(FieldError::required(&data.key(key), ""));
                }
            }
        }
        _ => {}
    }
    errors
}

fn docker_config(errors: &mut Vec<FieldError>, obj: &Value, key: &str) {
    let at = Path::new("data").key(key);
    match decoded(obj, key) {
        None => errors.push(FieldError::required(&at, "")),
        Some(bytes) => {
            if let Err(e) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
                errors.push(FieldError::invalid(&at, "<secret contents redacted>", e.to_string()));
            }
        }
    }
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::immutable(&mut errors, obj.get("type"), old.get("type"), &Path::new("type"));
    immutable_data(&mut errors, obj, old, &["data"]);
    errors.extend(validate(ctx, obj));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let count = map(obj, "/data").map_or(0, Map::len);
    vec![name(obj), text(obj, "/type").into(), count.into(), age(obj, now)]
}

#[cfg(test)]
mod tests {
    use crate::testing::{check, defaulted};
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let s = defaulted("v1", "secrets", json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}}));
        assert_eq!(s, json!({"data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"}));
    }

    #[test]
    fn errors() {
        check(
            "v1",
            "secrets",
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
            &["data[tls.key]: Required value"],
        );
    }
}
