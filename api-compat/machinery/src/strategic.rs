//! Strategic merge patch: a merge patch that knows which lists merge, by which key.
//!
//! Entry point: [`strategic`]. Directives: `$patch` (replace, delete, merge), `$retainKeys`,
//! `$setElementOrder/<field>` and `$deleteFromPrimitiveList/<field>`.

use serde_json::{Map, Value};

use crate::patch::unprocessable;
use crate::status::ApiError;
use crate::types::{Field, Type, TypeRef, TypeSet};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";
const LIST_OF_LISTS: &str = "lists of lists are not supported";

type Object = Map<String, Value>;

/// Applies a strategic merge patch to a document.
///
/// # Errors
/// 400 for malformed directives, 422 for lists of lists, 500 (as upstream answers) for a list item without its key.
pub fn strategic(types: &TypeRef, original: Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    let original = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let merged = Merge { set: &types.set }.map(original, patch.clone(), &types.root);
    merged.map(Value::Object).map_err(|e| to_api_error(&e))
}

fn to_api_error(text: &str) -> ApiError {
    match text {
        BAD_PRIMITIVE_LIST | BAD_RETAIN_KEYS | BAD_SET_ORDER => ApiError::bad_request(text),
        LIST_OF_LISTS => unprocessable(text),
        // Upstream does not wrap the other errors: code 500 without a reason.
        _ => ApiError::new(500, "", text),
    }
}

/// What a field says about patching its list or map.
struct Meta<'a> {
    ty: &'a Type,
    merge: bool,
    replace: bool,
    key: &'a str,
}

/// A type for values below unknown or untyped fields.
static ANY: Type = Type::Any;

struct Merge<'a> {
    set: &'a TypeSet,
}

impl<'a> Merge<'a> {
    fn meta(&self, ty: &'a Type, key: &str) -> Result<Meta<'a>, String> {
        let plain = |ty| Meta { ty, merge: false, replace: false, key: "" };
        match ty {
            Type::Struct(id) => {
                let s = self.set.get(*id);
                let Some(field) = s.field(key) else {
                    if s.preserve_unknown {
                        return Ok(plain(&ANY));
                    }
                    let name = s.name.rsplit('.').next().unwrap_or_default();
                    return Err(format!(
                        "unable to find api field in struct {name} for the json field \"{key}\""
                    ));
                };
                Ok(Self::of_field(field))
            }
            Type::Map(map) => Ok(plain(&map.value)),
            _ => Ok(plain(&ANY)),
        }
    }

    fn of_field(field: &'a Field) -> Meta<'a> {
        Meta {
            ty: &field.ty,
            merge: field.strategy.merge,
            replace: field.strategy.replace,
            key: field.merge_key.as_deref().unwrap_or_default(),
        }
    }

    fn map(&self, mut original: Object, mut patch: Object, ty: &'a Type) -> Result<Object, String> {
        if let Some(directive) = patch.get(PATCH) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(PATCH);
                    Ok(patch)
                }
                Some("delete") => Ok(Map::new()),
                _ => Err(unknown_directive(directive, &patch)),
            };
        }
        retain_keys(&mut original, &mut patch)?;
        self.ordered_lists(&mut original, &mut patch, ty)?;
        for (key, value) in patch {
            if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
                delete_from_list(&mut original, field, &value)?;
                continue;
            }
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let merged = match (original.remove(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let meta = self.meta(ty, &key)?;
                    Some(Value::Object(if meta.replace { new } else { self.map(old, new, meta.ty)? }))
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    let meta = self.meta(ty, &key)?;
                    Some(Value::Array(if meta.merge { self.list(old, new, &meta)? } else { new }))
                }
                (_, value) => without_directives(value),
            };
            if let Some(value) = merged {
                original.insert(key, value);
            }
        }
        Ok(original)
    }

    /// Handles the lists for which the patch gives an order, and takes them out of the patch.
    fn ordered_lists(&self, original: &mut Object, patch: &mut Object, ty: &'a Type) -> Result<(), String> {
        let keys: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
        for directive in keys {
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(BAD_SET_ORDER.to_string());
            };
            let field = &directive[SET_ORDER.len()..];
            let as_list = |v: Option<Value>| match v {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Array(a)) => Ok(Some(a)),
                Some(_) => Err(BAD_SET_ORDER.to_string()),
            };
            let old = as_list(original.get(field).cloned())?;
            if patch.get(field).is_some_and(Value::is_null) {
                // Upstream's text, with Go's mark for a missing type.
                return Err("expected a []interface {}, but received a %!s(<nil>)".to_string());
            }
            let new = as_list(patch.remove(field))?;
            let meta = self.meta(ty, field)?;
            if let Some(new) = &new {
                check_order(new, &order, meta.key)?;
            }
            let merged = match (old.clone(), new) {
                (None, None) => continue,
                (Some(old), None) => old,
                (None, Some(new)) => new,
                (Some(old), Some(new)) if meta.merge => self.list(old, new, &meta)?,
                (Some(_), Some(new)) => new,
            };
            // Deletions from the list come later, out of the ordered whole.
            let sorted = in_order(merged, &order, old.as_deref().unwrap_or_default(), meta.key);
            original.insert(field.to_string(), Value::Array(sorted));
        }
        Ok(())
    }

    fn list(&self, old: Vec<Value>, new: Vec<Value>, meta: &Meta<'a>) -> Result<Vec<Value>, String> {
        if old.is_empty() && new.is_empty() {
            return Ok(old);
        }
        let maps = old.iter().chain(&new).filter(|v| v.is_object()).count();
        if old.iter().chain(&new).any(Value::is_array) {
            return Err(LIST_OF_LISTS.to_string());
        }
        if maps == 0 {
            let mut merged: Vec<Value> = Vec::new();
            for v in old.iter().chain(&new) {
                if !merged.contains(v) {
                    merged.push(v.clone());
                }
            }
            return Ok(in_order(merged, &new, &old, ""));
        }
        if maps != old.len() + new.len() {
            let all: Vec<Value> = old.into_iter().chain(new).collect();
            return Err(format!("list element types are not identical: {}", Value::Array(all)));
        }
        let item = match meta.ty {
            Type::List(list) => &list.item,
            _ => &ANY,
        };
        if meta.key.is_empty() {
            return Err(format!("cannot merge lists without merge key for {}", self.type_name(item)));
        }
        let (mut merged, new) = match special_items(old.clone(), new, meta.key)? {
            Special::Replaced(list) => return Ok(list),
            Special::Remaining(old, new) => (old, new),
        };
        for patch in &new {
            let Value::Object(fields) = patch else {
                continue;
            };
            let key = fields.get(meta.key).ok_or_else(|| no_merge_key(fields, meta.key))?;
            match merged.iter_mut().find(|v| v.get(meta.key) == Some(key)) {
                Some(slot) => {
                    if let Value::Object(before) = slot.take() {
                        *slot = Value::Object(self.map(before, fields.clone(), item)?);
                    }
                }
                // A new item is taken as it is.
                None => merged.push(patch.clone()),
            }
        }
        Ok(in_order(merged, &new, &old, meta.key))
    }

    fn type_name(&self, ty: &Type) -> String {
        match ty {
            Type::Struct(id) => self.set.get(*id).name.rsplit('.').next().unwrap_or_default().to_string(),
            _ => "interface {}".to_string(),
        }
    }
}

fn unknown_directive(directive: &Value, map: &Object) -> String {
    let text = directive.as_str().map_or_else(|| directive.to_string(), str::to_string);
    format!("unknown patch type: {text} in map: {}", go_map(map))
}

fn no_merge_key(map: &Object, key: &str) -> String {
    format!("map: {} does not contain declared merge key: {key}", go_map(map))
}

/// A map as Go prints it: `map[a:1 b:map[]]`.
fn go_map(map: &Object) -> String {
    let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_value(v))).collect();
    format!("map[{}]", entries.join(" "))
}

fn go_value(v: &Value) -> String {
    match v {
        Value::Null => "<nil>".to_string(),
        Value::String(s) => s.clone(),
        Value::Object(m) => go_map(m),
        Value::Array(a) => format!("[{}]", a.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

/// Keeps only the keys that `$retainKeys` names.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), String> {
    let Some(keep) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keep) = keep else {
        return Err(BAD_RETAIN_KEYS.to_string());
    };
    let kept = |k: &str| keep.iter().any(|v| v == k);
    for (k, v) in patch.iter() {
        if !v.is_null() && !k.starts_with(DELETE_FROM_LIST) && !k.starts_with(SET_ORDER) && !kept(k) {
            return Err(BAD_RETAIN_KEYS.to_string());
        }
    }
    original.retain(|k, _| kept(k));
    Ok(())
}

fn delete_from_list(original: &mut Object, field: &str, deleted: &Value) -> Result<(), String> {
    let Value::Array(deleted) = deleted else {
        return Err(BAD_PRIMITIVE_LIST.to_string());
    };
    match original.get_mut(field) {
        Some(Value::Array(items)) => items.retain(|v| !deleted.contains(v)),
        Some(_) => return Err(BAD_PRIMITIVE_LIST.to_string()),
        None => {}
    }
    Ok(())
}

/// A value that is taken as it is: nulls and maps with `$patch` are left out.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let keep = |(k, v): (String, Value)| {
                if v.is_null() { None } else { without_directives(v).map(|v| (k, v)) }
            };
            Some(Value::Object(map.into_iter().filter_map(keep).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

/// What `$patch` in list items leaves to do.
enum Special {
    /// Nothing: this is the list.
    Replaced(Vec<Value>),
    /// The list that remains, and the items still to merge.
    Remaining(Vec<Value>, Vec<Value>),
}

/// Carries out `$patch` of list items.
fn special_items(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<Special, String> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in new {
        let Value::Object(fields) = &item else {
            continue;
        };
        match fields.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
            None => rest.push(item),
            Some("delete") => {
                let id = fields.get(key).ok_or_else(|| no_merge_key(fields, key))?;
                old.retain(|v| v.get(key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err("merging lists cannot yet be specified in the patch".to_string());
            }
            Some(_) => return Err(unknown_directive(&fields[PATCH], fields)),
        }
    }
    Ok(if replace { Special::Replaced(rest) } else { Special::Remaining(old, rest) })
}

fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some() && a.get(key) == b.get(key) }
}

fn index_in(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    list.iter().position(|v| same(v, item, key))
}

/// Sorts items that `order` names by it, keeps the others in the order of `server`, and interleaves both: an item
/// only the server has goes before a named one where it stood before it on the server.
fn in_order(items: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|v| index_in(order, v, key).is_some());
    named.sort_by_key(|v| index_in(order, v, key));
    others.sort_by_key(|v| index_in(server, v, key));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(o), Some(n)) => match (index_in(server, o, key), index_in(server, n, key)) {
                (Some(a), Some(b)) => a < b,
                _ => false,
            },
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

/// The items of the patch must come in the order that `$setElementOrder` gives.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), String> {
    let directive = |v: &Value| v.get(PATCH).and_then(Value::as_str).map(str::to_string);
    if patch.iter().any(|v| directive(v).as_deref() == Some("merge")) {
        return Err("merging lists cannot yet be specified in the patch".to_string());
    }
    let mut left = patch.iter().filter(|v| directive(v).as_deref() != Some("delete")).peekable();
    for wanted in order {
        // Items with a directive stand for no place, as long as the order goes on.
        while left.next_if(|v| directive(v).is_some()).is_some() {}
        left.next_if(|v| same(v, wanted, key));
    }
    if left.peek().is_none() {
        return Ok(());
    }
    Err(format!(
        "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
        go_value(&Value::Array(patch.to_vec())),
        go_value(&Value::Array(order.to_vec()))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deployment_types, pod_types, service_types};
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        json!({"spec": spec})
    }

    #[test]
    fn lists_and_maps() {
        let table = [
            // Items merge by key; new ones go in front.
            (
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
                json!({"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}),
                json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "c"}]}),
                json!({"containers": [{"name": "c"}, {"name": "a"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}),
                json!({"containers": [{"name": "z"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "s"}]}),
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "n"}],
                    "containers": [{"name": "a", "image": "x"}, {"name": "n"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a", "image": "x"}, {"name": "n"}, {"name": "s"}]}),
            ),
            // Lists without a strategy are replaced, maps merge, null deletes.
            (
                json!({"containers": [{"name": "a", "args": ["1"]}], "nodeName": "x"}),
                json!({"containers": [{"name": "a", "args": ["2"]}], "nodeName": null}),
                json!({"containers": [{"name": "a", "args": ["2"]}]}),
            ),
            (
                json!({"nodeSelector": {"a": "1", "b": "2"}}),
                json!({"nodeSelector": {"b": null, "c": "3"}}),
                json!({"nodeSelector": {"a": "1", "c": "3"}}),
            ),
            (
                json!({"nodeSelector": {"a": "1"}}),
                json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
                json!({"nodeSelector": {"c": "3"}}),
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
            ),
            // Nulls and deletions of what is not there vanish.
            (
                json!({"containers": [{"name": "a"}]}),
                json!({"nodeSelector": {"a": null, "b": "1"}, "restartPolicy": null}),
                json!({"containers": [{"name": "a"}], "nodeSelector": {"b": "1"}}),
            ),
        ];
        for (original, patch, want) in table {
            let got = strategic(&pod_types(), pod(original), &pod(patch.clone()));
            assert_eq!(got.unwrap_or_else(|e| panic!("{patch}: {e}")), pod(want), "{patch}");
        }
    }

    #[test]
    fn primitive_lists() {
        let doc = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
        let p = |m: Value| strategic(&pod_types(), doc.clone(), &json!({"metadata": m})).unwrap();
        assert_eq!(
            p(json!({"$deleteFromPrimitiveList/finalizers": ["b"]}))["metadata"]["finalizers"],
            json!(["a", "c"])
        );
        assert_eq!(
            p(
                json!({"$setElementOrder/finalizers": ["c", "d"], "$deleteFromPrimitiveList/finalizers": ["a"],
                "finalizers": ["d"]})
            )["metadata"]["finalizers"],
            json!(["b", "c", "d"])
        );
        assert_eq!(
            p(json!({"finalizers": ["a", "x"]}))["metadata"]["finalizers"],
            json!(["a", "x", "b", "c"])
        );
    }

    #[test]
    fn retain_keys_of_a_struct() {
        let doc = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            strategic(&deployment_types(), doc, &patch).unwrap(),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
    }

    #[test]
    fn service_ports_merge_by_port() {
        let doc = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "t"}]}});
        let patch = json!({"spec": {"ports": [{"port": 53, "nodePort": 30053}]}});
        assert_eq!(
            strategic(&service_types(), doc, &patch).unwrap()["spec"]["ports"],
            json!([{"port": 53, "protocol": "TCP", "name": "t", "nodePort": 30053}])
        );
    }

    #[test]
    fn errors() {
        let doc = pod(json!({"containers": [{"name": "a"}], "nodeSelector": {"a": "b"}}));
        for (patch, code, want) in [
            (
                pod(json!({"containers": [{"image": "x"}]})),
                500,
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                pod(json!({"nodeSelector": {"$patch": "merge"}})),
                500,
                "unknown patch type: merge in map: map[$patch:merge]",
            ),
            (pod(json!({"$retainKeys": "x"})), 400, BAD_RETAIN_KEYS),
            (pod(json!({"$retainKeys": ["a"], "nodeName": "x"})), 400, BAD_RETAIN_KEYS),
            (pod(json!({"$setElementOrder/containers": 1})), 400, BAD_SET_ORDER),
            (pod(json!({"$deleteFromPrimitiveList/x": 1})), 400, BAD_PRIMITIVE_LIST),
            (
                pod(json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]})),
                500,
                "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
            ),
            (json!([]), 400, "invalid JSON document"),
        ] {
            let e = strategic(&pod_types(), doc.clone(), &patch).unwrap_err();
            assert_eq!((e.code, e.message.as_str()), (code, want), "{patch}");
        }
    }
}
