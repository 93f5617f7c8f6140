//! JSON patch (RFC 6902) and merge patch (RFC 7386). Strategic merge patch is in the `strategic` module.

use serde_json::{Map, Value};

pub use crate::strategic::strategic;

use crate::status::ApiError;

/// Most operations a JSON patch may have.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;
/// Most bytes that the `copy` operations of one patch may add together.
pub const JSON_PATCH_COPY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The error of a patch that is well formed but cannot be applied. As upstream, the cause is not told.
pub fn unprocessable(_cause: &str) -> ApiError {
    ApiError {
        code: 422,
        reason: "Invalid".to_string(),
        message: "the server rejected our request due to an error in our request".to_string(),
        details: Some(Box::default()),
    }
}

/// Applies a JSON patch.
///
/// # Errors
/// 400 for a malformed patch, 413 for too many operations, 422 when an operation cannot be applied.
pub fn json_patch(doc: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let operations: Value =
        serde_json::from_slice(patch).map_err(|_| ApiError::bad_request("invalid JSON patch"))?;
    let Value::Array(operations) = operations else {
        return Err(ApiError::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ));
    };
    json_patch_operations(doc, &operations)
}

/// Applies the parsed operations of a JSON patch.
///
/// # Errors
/// As [`json_patch`].
pub fn json_patch_operations(doc: &Value, operations: &[Value]) -> Result<Value, ApiError> {
    if operations.len() > JSON_PATCH_OPERATIONS_MAX {
        return Err(ApiError::too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
            operations.len()
        )));
    }
    let mut doc = doc.clone();
    let mut copied = 0;
    for op in operations {
        if !op.is_object() {
            return Err(ApiError::bad_request("error decoding patch: an operation is not an object"));
        }
        apply_operation(&mut doc, op, &mut copied).map_err(|e| unprocessable(&e))?;
    }
    Ok(doc)
}

fn apply_operation(doc: &mut Value, op: &Value, copied: &mut usize) -> Result<(), String> {
    let kind = op["op"].as_str().unwrap_or("unknown");
    let path = op.get("path").and_then(Value::as_str);
    let path = path.ok_or_else(|| "Unexpected kind: unknown: operation without path".to_string())?;
    let from = || {
        let from = op.get("from").and_then(Value::as_str);
        from.ok_or_else(|| format!("{kind} operation: missing from field"))
    };
    let value = || op.get("value").cloned().unwrap_or(Value::Null);
    match kind {
        "add" => add(doc, path, value()),
        "remove" => remove(doc, path).map(|_| ()),
        "replace" => {
            if path.is_empty() {
                *doc = value();
                return Ok(());
            }
            match lookup(doc, path) {
                Some(slot) => *slot = value(),
                // The library of upstream adds what is not there.
                None => return add(doc, path, value()),
            }
            if in_map(doc, path) {
                // Upstream's library takes it for an addition if there is a map to add to.
                return add(doc, path, value());
            }
            Err(format!("replace operation does not apply: doc is missing key: {path}"))
        }
        "move" => {
            let from = from()?;
            if path.starts_with(&format!("{from}/")) {
                return Err(format!("move operation does not apply: {path} lies within {from}"));
            }
            let moved = remove(doc, from)?;
            add(doc, path, moved)
        }
        "copy" => {
            let from = from()?;
            // What a map does not have is copied as null, as upstream's library does.
            let found = lookup(doc, from).map(|source| source.clone());
            let source = match found {
                Some(source) => source,
                None if in_map(doc, from) => Value::Null,
                None => return Err(format!("copy operation does not apply: missing {from}")),
            };
            *copied += source.to_string().len();
            if *copied > JSON_PATCH_COPY_BYTES_MAX {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {JSON_PATCH_COPY_BYTES_MAX}"
                ));
            }
            add(doc, path, source)
        }
        "test" => {
            // An absent value equals null.
            let want = value();
            let same = lookup(doc, path).map_or(want.is_null(), |v| *v == want);
            if same { Ok(()) } else { Err(format!("testing value {path} failed")) }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// Whether the container that a path names is a map.
fn in_map(doc: &mut Value, path: &str) -> bool {
    parent(doc, path).is_some_and(|(container, _)| container.is_object())
}

fn token(raw: &str) -> String {
    raw.replace("~1", "/").replace("~0", "~")
}

/// A position in a list; negative ones count from the end.
fn position(token: &str, len: usize) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') {
        return None;
    }
    let i: i64 = token.parse().ok()?;
    let len = i64::try_from(len).ok()?;
    usize::try_from(if i < 0 { i + len } else { i }).ok()
}

fn child<'a>(value: &'a mut Value, token: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(token),
        Value::Array(items) => {
            let i = position(token, items.len())?;
            items.get_mut(i)
        }
        _ => None,
    }
}

fn lookup<'a>(doc: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(doc);
    }
    let path = path.strip_prefix('/')?;
    path.split('/').try_fold(doc, |v, raw| child(v, &token(raw)))
}

/// The container of the value at `path`, and the last token.
fn parent<'a>(doc: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (head, last) = path.rsplit_once('/')?;
    Some((lookup(doc, head)?, token(last)))
}

fn add(doc: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *doc = value;
        return Ok(());
    }
    let missing = || format!("add operation does not apply: doc is missing path: \"{path}\"");
    let (container, last) = parent(doc, path).ok_or_else(missing)?;
    match container {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(items) if last == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => {
            // A negative place counts from the end of the grown list.
            let len = if last.starts_with('-') { items.len() + 1 } else { items.len() };
            let i = position(&last, len).filter(|i| *i <= items.len());
            let i = i.ok_or_else(|| format!("Unable to access invalid index: {last}"))?;
            items.insert(i, value);
            Ok(())
        }
        _ => Err(missing()),
    }
}

fn remove(doc: &mut Value, path: &str) -> Result<Value, String> {
    let missing = || format!("remove operation does not apply: doc is missing path: \"{path}\"");
    let (container, last) = parent(doc, path).ok_or_else(missing)?;
    match container {
        Value::Object(map) => {
            map.remove(&last).ok_or_else(|| format!("Unable to remove nonexistent key: {last}"))
        }
        Value::Array(items) => {
            let i = position(&last, items.len()).filter(|i| *i < items.len());
            let i = i.ok_or_else(|| format!("Unable to access invalid index: {last}"))?;
            Ok(items.remove(i))
        }
        _ => Err(missing()),
    }
}

/// Applies a merge patch: null removes, objects merge, anything else replaces.
pub fn merge_patch(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut out = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            out.remove(key);
        } else {
            let old = out.remove(key).unwrap_or(Value::Null);
            out.insert(key.clone(), merge_patch(old, value));
        }
    }
    Value::Object(out)
}

/// The merge patch that turns `from` into `to` (as kubectl and kube-rs compute it).
pub fn create_merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (from, to) else {
        return to.clone();
    };
    let mut out = Map::new();
    for (k, v) in b {
        match a.get(k) {
            Some(old) if old == v => {}
            Some(old) if old.is_object() && v.is_object() => {
                out.insert(k.clone(), create_merge_patch(old, v));
            }
            _ => {
                out.insert(k.clone(), v.clone());
            }
        }
    }
    for k in a.keys().filter(|k| !b.contains_key(*k)) {
        out.insert(k.clone(), Value::Null);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let doc = json!({"a": {"b": [1, 2]}, "c/d": 1});
        for (patch, want) in [
            (json!([{"op": "add", "path": "/a/b/-", "value": 3}]), json!({"a": {"b": [1, 2, 3]}, "c/d": 1})),
            (json!([{"op": "add", "path": "/a/b/0", "value": 3}]), json!({"a": {"b": [3, 1, 2]}, "c/d": 1})),
            (json!([{"op": "remove", "path": "/c~1d"}]), json!({"a": {"b": [1, 2]}})),
            (json!([{"op": "remove", "path": "/a/b/-1"}]), json!({"a": {"b": [1]}, "c/d": 1})),
            (json!([{"op": "replace", "path": "/a", "value": 1}]), json!({"a": 1, "c/d": 1})),
            (json!([{"op": "move", "from": "/a/b", "path": "/x"}]), json!({"a": {}, "c/d": 1, "x": [1, 2]})),
            (
                json!([{"op": "copy", "from": "/c~1d", "path": "/x"}]),
                json!({"a": {"b": [1, 2]}, "c/d": 1, "x": 1}),
            ),
            (json!([{"op": "test", "path": "/a/b", "value": [1, 2]}]), doc.clone()),
            (json!([{"op": "test", "path": "/none", "value": null}]), doc.clone()),
        ] {
            let text = patch.to_string();
            assert_eq!(json_patch(&doc, text.as_bytes()).unwrap(), want, "{patch}");
        }
    }

    #[test]
    fn operation_errors() {
        let doc = json!({"a": [1]});
        for patch in [
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "replace", "path": "/x/y", "value": 1}]),
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "add", "path": "/a/5", "value": 1}]),
            json!([{"op": "test", "path": "/a", "value": [2]}]),
            json!([{"op": "frob", "path": "/a"}]),
        ] {
            let e = json_patch(&doc, patch.to_string().as_bytes()).unwrap_err();
            assert_eq!((e.code, e.reason.as_str()), (422, "Invalid"), "{patch}");
            assert_eq!(e.message, "the server rejected our request due to an error in our request");
        }
        assert_eq!(json_patch(&doc, b"{}").unwrap_err().code, 400);
        assert_eq!(json_patch(&doc, b"[").unwrap_err().code, 400);
        let many = vec![json!({"op": "test", "path": "/b", "value": null}); JSON_PATCH_OPERATIONS_MAX + 1];
        assert_eq!(json_patch_operations(&doc, &many).unwrap_err().code, 413);
    }

    #[test]
    fn merge() {
        let doc = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        assert_eq!(
            merge_patch(doc.clone(), &json!({"a": {"b": null, "d": {"e": null}}, "l": [2]})),
            json!({"a": {"c": 2, "d": {}}, "l": [2]})
        );
        let to = json!({"a": {"b": 2}, "l": [1], "n": 1});
        let patch = create_merge_patch(&doc, &to);
        assert_eq!(patch, json!({"a": {"b": 2, "c": null}, "n": 1}));
        assert_eq!(merge_patch(doc, &patch), to);
    }
}
