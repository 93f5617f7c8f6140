//! Leaves of applied documents: whether a value fits, in upstream's words.

use serde_json::Value;

use crate::types::Scalar;

/// What is wrong with a value where a scalar belongs; null always fits.
pub(crate) fn scalar_error(scalar: Scalar, v: &Value) -> Option<String> {
    let fits = match scalar {
        Scalar::Int32 | Scalar::Int64 | Scalar::Double => v.is_number(),
        Scalar::Bool => v.is_boolean(),
        Scalar::Quantity | Scalar::IntOrString => !v.is_array() && !v.is_object(),
        _ => v.is_string(),
    };
    if fits || v.is_null() {
        return None;
    }
    let text = go_text(v);
    Some(match scalar {
        Scalar::Int32 | Scalar::Int64 | Scalar::Double => {
            let got = match v {
                Value::Bool(_) => "bool",
                Value::String(_) => "string",
                Value::Array(_) => "[]interface {}",
                _ => "map[string]interface {}",
            };
            format!("expected numeric (int or float), got {got}")
        }
        Scalar::Bool => format!("expected boolean, got &{{{text}}}"),
        Scalar::Quantity | Scalar::IntOrString => format!("expected any scalar, got &{{{text}}}"),
        _ => format!("expected string, got &value.valueUnstructured{{Value:{v}}}"),
    })
}

/// A value as Go prints it.
pub(crate) fn go_text(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit() {
        let check = |scalar, value: Value| scalar_error(scalar, &value).unwrap_or_default();
        assert_eq!(check(Scalar::Int32, json!("many")), "expected numeric (int or float), got string");
        assert_eq!(check(Scalar::Bool, json!([1, "a"])), "expected boolean, got &{[1 a]}");
        assert_eq!(check(Scalar::Quantity, json!({"a": 1})), "expected any scalar, got &{map[a:1]}");
        for fits in [json!(null), json!(1.5)] {
            assert_eq!(check(Scalar::Double, fits), "");
        }
        assert_eq!(check(Scalar::IntOrString, json!("80")), "");
    }
}
