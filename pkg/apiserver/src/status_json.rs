//! `Status` documents with their keys in the order of a Go server.

use serde_json::Value;

const STATUS: &[&str] = &["kind", "apiVersion", "metadata", "status", "message", "reason", "details", "code"];
const DETAILS: &[&str] = &["name", "group", "kind", "uid", "causes", "retryAfterSeconds"];
const CAUSE: &[&str] = &["reason", "message", "field"];

/// Whether a document is a Status.
pub fn is_status(value: &Value) -> bool {
    value.get("kind").is_some_and(|k| k == "Status") && value.get("apiVersion").is_some_and(|v| v == "v1")
}

/// The document in JSON.
pub fn write(value: &Value, pretty: bool) -> Vec<u8> {
    let mut out = String::new();
    object(value, STATUS, if pretty { Some(0) } else { None }, &mut out);
    if out.contains(['<', '>', '&']) {
        // They stand in strings only, and Go escapes them there.
        out = out.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    }
    out.into_bytes()
}

fn line(indent: Option<usize>, out: &mut String) {
    if let Some(n) = indent {
        out.push('\n');
        out.push_str(&"  ".repeat(n));
    }
}

fn object(value: &Value, order: &[&str], indent: Option<usize>, out: &mut String) {
    let Some(map) = value.as_object().filter(|m| !m.is_empty()) else {
        out.push_str(&value.to_string());
        return;
    };
    let known = order.iter().filter_map(|k| map.get_key_value(*k));
    let other = map.iter().filter(|(k, _)| !order.contains(&k.as_str()));
    out.push('{');
    for (i, (key, v)) in known.chain(other).enumerate() {
        if i > 0 {
            out.push(',');
        }
        line(indent.map(|n| n + 1), out);
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        if indent.is_some() {
            out.push(' ');
        }
        match (key.as_str(), v) {
            ("details", Value::Object(_)) => object(v, DETAILS, indent.map(|n| n + 1), out),
            ("causes", Value::Array(causes)) => list(causes, indent.map(|n| n + 1), out),
            (_, Value::Object(_)) => object(v, &[], indent.map(|n| n + 1), out),
            _ => out.push_str(&v.to_string()),
        }
    }
    line(indent, out);
    out.push('}');
}

fn list(causes: &[Value], indent: Option<usize>, out: &mut String) {
    out.push('[');
    for (i, cause) in causes.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        line(indent.map(|n| n + 1), out);
        object(cause, CAUSE, indent.map(|n| n + 1), out);
    }
    if !causes.is_empty() {
        line(indent, out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ordered() {
        let status = json!({"code": 422, "details": {"causes": [{"field": "f", "message": "m", "reason": "r"}], "kind": "K",
            "name": "n"}, "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "message": "<m>"});
        assert_eq!(
            String::from_utf8(write(&status, false)).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"\u003cm\u003e","details":{"name":"n","kind":"K","causes":[{"reason":"r","message":"m","field":"f"}]},"code":422}"#
        );
        let pretty = String::from_utf8(write(&status, true)).unwrap();
        assert!(pretty.starts_with("{\n  \"kind\": \"Status\",\n"), "{pretty}");
        assert_eq!(serde_json::from_str::<Value>(&pretty).unwrap(), status);
    }
}
