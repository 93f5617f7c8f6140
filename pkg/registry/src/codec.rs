//! The stored form: canonical JSON without resourceVersion, and the splice that puts one in.
//!
//! Canonical means `{"kind":…,"apiVersion":…,"metadata":{…},…}` with all other keys sorted, so that the place of
//! `metadata` is found by looking at the head only and equal objects have equal bytes.

use bytes::Bytes;
use knarr_machinery::ApiError;
use serde_json::Value;

const METADATA: &[u8] = b"\"metadata\":{";

/// Serializes a document for storage; `metadata.resourceVersion` is left out.
///
/// # Errors
/// Never for JSON documents; the serializer's error otherwise.
pub fn to_stored(obj: &Value) -> Result<Bytes, ApiError> {
    write(obj, None).map(Bytes::from)
}

/// Serializes a document in the canonical order with its resourceVersion first in metadata.
///
/// # Errors
/// As [`to_stored`].
pub fn to_bytes(obj: &Value) -> Result<Bytes, ApiError> {
    let version = crate::obj::resource_version(obj);
    write(obj, (!version.is_empty()).then_some(version)).map(Bytes::from)
}

/// Serializes a document with all keys sorted, as a Go server writes what it knows by schema only.
///
/// # Errors
/// As [`to_stored`].
pub fn to_sorted(obj: &Value, revision: i64) -> Result<Bytes, ApiError> {
    let mut obj = obj.clone();
    crate::obj::set_meta(&mut obj, "resourceVersion", &revision.to_string());
    serde_json::to_vec(&obj).map(Bytes::from).map_err(ApiError::internal)
}

fn write(obj: &Value, version: Option<&str>) -> Result<Vec<u8>, ApiError> {
    let Some(map) = obj.as_object() else {
        return Err(ApiError::internal("object to store is no JSON object"));
    };
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(value) = map.get(key) {
            comma(&mut out);
            field(&mut out, key, value)?;
        }
    }
    comma(&mut out);
    out.extend_from_slice(METADATA);
    if let Some(version) = version {
        field(&mut out, "resourceVersion", &Value::String(version.to_string()))?;
    }
    if let Some(meta) = map.get("metadata").and_then(Value::as_object) {
        for (key, value) in sorted(meta) {
            if key != "resourceVersion" {
                comma(&mut out);
                field(&mut out, key, value)?;
            }
        }
    }
    out.push(b'}');
    for (key, value) in sorted(map) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            comma(&mut out);
            field(&mut out, key, value)?;
        }
    }
    out.push(b'}');
    Ok(out)
}

fn comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn field(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), ApiError> {
    serde_json::to_writer(&mut *out, key).map_err(ApiError::internal)?;
    out.push(b':');
    serde_json::to_writer(out, value).map_err(ApiError::internal)
}

/// serde_json's map is sorted unless some dependency switches on `preserve_order`.
fn sorted(map: &serde_json::Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(k, _)| *k);
    entries
}

/// Where the fields of `metadata` begin in canonical bytes.
fn metadata_at(bytes: &[u8]) -> Option<usize> {
    // Kind and apiVersion are short; foreign bytes that hide metadata further back take the slow path.
    let head = &bytes[..bytes.len().min(512)];
    if !head.starts_with(b"{\"kind\":") {
        return None;
    }
    head.windows(METADATA.len()).position(|w| w == METADATA).map(|at| at + METADATA.len())
}

/// The text of `metadata` in compact JSON of an object, braces included, found without parsing the rest; `None` for
/// other bytes.
pub fn metadata_of(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    if bytes.first() != Some(&b'{') {
        return None;
    }
    loop {
        let key = at..value_end(bytes, at)?;
        let value = key.end.checked_add(1).filter(|_| bytes.get(key.end) == Some(&b':'))?;
        let end = value_end(bytes, value)?;
        if &bytes[key] == b"\"metadata\"" {
            return (bytes[value] == b'{').then_some(&bytes[value..end]);
        }
        at = end.checked_add(1).filter(|_| bytes.get(end) == Some(&b','))?;
    }
}

/// Where the JSON value that begins at `at` ends.
fn value_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut depth, mut at, first) = (0_usize, at, *bytes.get(at)?);
    if !matches!(first, b'"' | b'{' | b'[') {
        return bytes[at..].iter().position(|b| matches!(b, b',' | b'}' | b']')).map(|len| at + len);
    }
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                while *bytes.get(at)? != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Puts a resourceVersion into stored bytes.
///
/// # Errors
/// Bytes that are not a JSON object.
pub fn splice(stored: &[u8], revision: i64) -> Result<Bytes, ApiError> {
    let Some(at) = metadata_at(stored) else {
        let mut value: Value = parse(stored)?;
        crate::obj::set_meta(&mut value, "resourceVersion", &revision.to_string());
        return to_bytes(&value);
    };
    let mut out = Vec::with_capacity(stored.len() + 48);
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if stored.get(at) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(&stored[at..]);
    Ok(Bytes::from(out))
}

/// Replaces the resourceVersion in bytes made by [`splice`].
///
/// # Errors
/// Bytes that are not a JSON object.
pub fn resplice(spliced: &[u8], revision: i64) -> Result<Bytes, ApiError> {
    const KEY: &[u8] = b"\"resourceVersion\":\"";
    if let Some(at) = metadata_at(spliced)
        && spliced[at..].starts_with(KEY)
        && let Some(len) = spliced[at + KEY.len()..].iter().position(|b| *b == b'"')
    {
        let start = at + KEY.len();
        let mut out = Vec::with_capacity(spliced.len() + 8);
        out.extend_from_slice(&spliced[..start]);
        out.extend_from_slice(revision.to_string().as_bytes());
        out.extend_from_slice(&spliced[start + len..]);
        return Ok(Bytes::from(out));
    }
    if spliced.starts_with(b"{\"apiVersion\":") {
        return to_sorted(&parse(spliced)?, revision);
    }
    splice(spliced, revision)
}

/// The bytes from `"metadata"` on, without `{`, for lists whose items carry no type.
pub fn without_type(bytes: &[u8]) -> Option<&[u8]> {
    metadata_at(bytes).map(|at| &bytes[at - METADATA.len()..])
}

/// Parses bytes of the store.
///
/// # Errors
/// Damaged bytes.
pub fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| ApiError::internal(format!("stored object is damaged: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_is_found_without_parsing() {
        let of = |text: &str| metadata_of(text.as_bytes()).map(|m| String::from_utf8(m.to_vec()).unwrap());
        let found = |text: &str, want: &str| assert_eq!(of(text).as_deref(), Some(want), "{text}");
        found(
            r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"},"spec":{"metadata":{}}}"#,
            r#"{"name":"a"}"#,
        );
        found(
            r#"{"apiVersion":"v1","data":{"metadata":{"no":"{\"}"},"x":[1,{"metadata":{}}]},"metadata":{"labels":{"q":"}\\"}}}"#,
            r#"{"labels":{"q":"}\\"}}"#,
        );
        found(r#"{"a":1.5e3,"b":null,"c":"","metadata":{}}"#, "{}");
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"metadata":null}"#,
            r#"{"metadata":{"#,
            r#"{"a":"\"#,
            r#"{"a":1}"#,
            r#"{"a" :1}"#,
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn splices_and_replaces() {
        let obj = json!({"apiVersion":"v1","data":{"metadata":"{"},"kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"9"}});
        let stored = to_stored(&obj).unwrap();
        assert_eq!(
            stored,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"metadata":"{"}}"#
        );
        let spliced = splice(&stored, 12).unwrap();
        assert_eq!(
            spliced,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"12","name":"a"},"data":{"metadata":"{"}}"#
        );
        let again = resplice(&spliced, 1_000).unwrap();
        assert_eq!(parse(&again).unwrap()["metadata"]["resourceVersion"], "1000");
        assert_eq!(to_stored(&parse(&again).unwrap()).unwrap(), stored);
        assert_eq!(to_bytes(&parse(&again).unwrap()).unwrap(), again);
    }

    #[test]
    fn splices_foreign_and_empty_forms() {
        let foreign = br#"{"apiVersion":"v1","kind":"X","metadata":{}}"#;
        assert_eq!(parse(&splice(foreign, 3).unwrap()).unwrap()["metadata"]["resourceVersion"], "3");
        let empty = to_stored(&json!({"kind":"X","apiVersion":"v1"})).unwrap();
        assert_eq!(
            splice(&empty, 3).unwrap(),
            r#"{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"3"}}"#
        );
    }
}
