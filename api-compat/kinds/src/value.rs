//! Reading and filling JSON documents, and the cells that several kinds print.

use knarr_machinery::time;
use serde_json::{Map, Value};

/// The string at a JSON pointer, "" if there is none.
pub(crate) fn text<'a>(obj: &'a Value, pointer: &str) -> &'a str {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The integer at a JSON pointer.
pub(crate) fn int(obj: &Value, pointer: &str) -> Option<i64> {
    obj.pointer(pointer).and_then(Value::as_i64)
}

/// The boolean at a JSON pointer, false if there is none.
pub(crate) fn flag(obj: &Value, pointer: &str) -> bool {
    obj.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer, empty if there is none.
pub(crate) fn list<'a>(obj: &'a Value, pointer: &str) -> &'a [Value] {
    obj.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at a JSON pointer.
pub(crate) fn map<'a>(obj: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    obj.pointer(pointer).and_then(Value::as_object)
}

/// Whether a value says nothing: absent, null, "", [] or {}.
pub(crate) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(m)) => m.is_empty(),
        Some(_) => false,
    }
}

/// Sets a field that is absent or null.
pub(crate) fn fill(obj: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = obj.as_object_mut()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_string(), value.into());
    }
}

/// Sets a string field that is absent, null or "".
pub(crate) fn fill_text(obj: &mut Value, key: &str, value: &str) {
    if let Some(map) = obj.as_object_mut()
        && is_empty(map.get(key))
    {
        map.insert(key.to_string(), value.into());
    }
}

/// The object under `key`, made if it is absent or null.
pub(crate) fn sub<'a>(obj: &'a mut Value, key: &str) -> &'a mut Value {
    fill(obj, key, Map::new());
    &mut obj[key]
}

/// Calls `f` for each item of the list at `pointer`.
pub(crate) fn each(obj: &mut Value, pointer: &str, f: impl FnMut(&mut Value)) {
    if let Some(items) = obj.pointer_mut(pointer).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(f);
    }
}

/// Calls `f` for the value at `pointer` if it is an object.
pub(crate) fn with(obj: &mut Value, pointer: &str, f: impl FnOnce(&mut Value)) {
    if let Some(value) = obj.pointer_mut(pointer).filter(|v| v.is_object()) {
        f(value);
    }
}

/// Removes a field at the top of `obj`.
pub(crate) fn drop_key(obj: &mut Value, key: &str) {
    if let Some(map) = obj.as_object_mut() {
        map.remove(key);
    }
}

/// A struct as upstream prints it in errors: all fields by their internal names, in their order. A field is its
/// internal name, its JSON name and what is printed where it is absent.
pub(crate) fn go_form(value: &Value, fields: &[(&str, &str, &str)]) -> String {
    let parts: Vec<String> = fields
        .iter()
        .map(|(go, json, absent)| match value.get(json).filter(|v| !v.is_null()) {
            Some(given) => format!("\"{go}\":{given}"),
            None => format!("\"{go}\":{absent}"),
        })
        .collect();
    format!("{{{}}}", parts.join(","))
}

/// The name cell.
pub(crate) fn name(obj: &Value) -> Value {
    text(obj, "/metadata/name").into()
}

/// Age of the object as kubectl prints it.
pub(crate) fn age(obj: &Value, now: &str) -> Value {
    since(text(obj, "/metadata/creationTimestamp"), now).into()
}

/// Time since `then`, `<unknown>` when it is not known.
pub(crate) fn since(then: &str, now: &str) -> String {
    if then.is_empty() { "<unknown>".to_string() } else { time::age(then, now) }
}

/// A string cell with `<none>` for "".
pub(crate) fn or_none(text: impl Into<String>) -> Value {
    let text = text.into();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// `a=b,c=d`, `<none>` when empty.
pub(crate) fn labels_text(labels: Option<&Map<String, Value>>) -> String {
    let mut pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".to_string() } else { pairs.join(",") }
}

/// A LabelSelector document as upstream's FormatLabelSelector prints it.
pub(crate) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_string() };
    let mut parts: Vec<String> = map(selector, "/matchLabels")
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for e in list(selector, "/matchExpressions") {
        let key = text(e, "/key");
        let mut values: Vec<&str> = list(e, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        parts.push(match text(e, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    if parts.is_empty() { "<none>".to_string() } else { parts.join(",") }
}

/// Names and images of the containers of a pod spec.
pub(crate) fn container_cells(pod_spec: Option<&Value>) -> (Value, Value) {
    let join = |key: &str| {
        pod_spec
            .map(|s| list(s, "/containers").iter().map(|c| text(c, key)).collect::<Vec<_>>().join(","))
            .unwrap_or_default()
    };
    (join("/name").into(), join("/image").into())
}

/// A number cell, 0 when absent.
pub(crate) fn number(obj: &Value, pointer: &str) -> Value {
    int(obj, pointer).unwrap_or(0).into()
}

/// The condition of this type.
pub(crate) fn condition<'a>(obj: &'a Value, kind: &str) -> Option<&'a Value> {
    list(obj, "/status/conditions").iter().find(|c| text(c, "/type") == kind)
}
