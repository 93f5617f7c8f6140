//! Strict decoding: JSON with duplicate detection, and the check of a document against its type.
//!
//! [`parse_json`] reads the text, [`prune`] (built-in kinds) and [`prune_custom`] (custom resources) bring the
//! document to the form that the type describes.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::quantity::Quantity;
use crate::status::ApiError;
use crate::types::{Field, Scalar, StructType, Type, TypeRef, TypeSet};
use crate::{GroupVersionKind, time};

/// Something strict field validation complains about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `unknown field "spec.foo"` or `duplicate field "spec.foo"`.
    pub message: String,
}

/// Most findings that are told; the rest are left out, as upstream does.
pub const FINDINGS_MAX: usize = 100;

/// The 400 error of strict validation: all findings in one text.
pub fn strict_error(gvk: &GroupVersionKind, findings: &[Finding]) -> ApiError {
    let texts: Vec<&str> = findings.iter().map(|f| f.message.as_str()).collect();
    cannot_handle(gvk, &format!("strict decoding error: {}", texts.join(", ")))
}

/// The 400 error for a body that does not fit its kind.
pub fn cannot_handle(gvk: &GroupVersionKind, cause: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {cause}",
        gvk.kind, gvk.version, gvk.kind
    ))
}

/// Parses JSON; repeated keys are reported and the last one counts.
///
/// # Errors
/// Malformed JSON, in the words of [`crate::syntax`].
pub fn parse_json(bytes: &[u8]) -> Result<(Value, Vec<Finding>), ApiError> {
    let mut findings = Vec::new();
    let mut path = String::new();
    // As Go does, what is no UTF-8 becomes the replacement character.
    let text = String::from_utf8_lossy(bytes);
    let mut de = serde_json::Deserializer::from_str(&text);
    let value = Seed { path: &mut path, findings: &mut findings }
        .deserialize(&mut de)
        .and_then(|v| de.end().map(|()| v))
        .map_err(|e| {
            let text = crate::syntax::error(bytes).unwrap_or_else(|| e.to_string());
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {text}"))
        })?;
    Ok((value, findings))
}

struct Seed<'a> {
    path: &'a mut String,
    findings: &'a mut Vec<Finding>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_string()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        let len = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", out.len()));
            let item = seq.next_element_seed(Seed { path: self.path, findings: self.findings })?;
            self.path.truncate(len);
            match item {
                Some(v) => out.push(v),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let len = self.path.len();
        while let Some(key) = map.next_key::<String>()? {
            push_name(self.path, &key);
            let value = map.next_value_seed(Seed { path: self.path, findings: self.findings })?;
            if out.insert(key, value).is_some() && self.findings.len() < FINDINGS_MAX {
                self.findings.push(Finding { message: format!("duplicate field \"{}\"", self.path) });
            }
            self.path.truncate(len);
        }
        Ok(Value::Object(out))
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Brings a document of a built-in kind to what its type describes: unknown fields are dropped and reported, nulls
/// and empty optional lists and maps are dropped, times and quantities get their stored form.
///
/// # Errors
/// A value of a wrong type (400, with the text that follows `cannot be handled as a Pod: `).
pub fn prune(types: &TypeRef, obj: &mut Value) -> Result<Vec<Finding>, ApiError> {
    let mut walk = Walk {
        set: &types.set,
        path: String::new(),
        fields: String::new(),
        owner: String::new(),
        findings: Vec::new(),
        go: true,
    };
    walk.value(&types.root, obj).map_err(ApiError::bad_request)?;
    Ok(walk.findings)
}

/// Brings a custom resource to what its schema describes: unknown fields are dropped and reported, nulls are
/// dropped where the schema does not allow them. Types are left to the schema validation of the CRD.
pub fn prune_custom(types: &TypeRef, obj: &mut Value) -> Vec<Finding> {
    let mut walk = Walk {
        set: &types.set,
        path: String::new(),
        fields: String::new(),
        owner: String::new(),
        findings: Vec::new(),
        go: false,
    };
    // Without Go's rules no value is of a wrong type for the walk.
    let _ = walk.value(&types.root, obj);
    walk.findings
}

struct Walk<'a> {
    set: &'a TypeSet,
    path: String,
    /// The fields of structs on the way, for messages: without positions in lists and keys of maps, as Go tells it.
    fields: String,
    /// Struct that holds the field at hand, for messages.
    owner: String,
    findings: Vec<Finding>,
    /// Whether values are decoded as Go would do it.
    go: bool,
}

impl Walk<'_> {
    fn value(&mut self, ty: &Type, v: &mut Value) -> Result<(), String> {
        match ty {
            Type::Any => Ok(()),
            Type::Struct(id) => {
                let set = self.set;
                self.structure(set.get(*id), ty, v)
            }
            Type::List(list) => match v {
                Value::Array(items) => {
                    for (i, item) in items.iter_mut().enumerate() {
                        let len = self.path.len();
                        self.path.push_str(&format!("[{i}]"));
                        if self.go && item.is_null() {
                            *item = zero(&list.item);
                        }
                        self.value(&list.item, item)?;
                        self.path.truncate(len);
                    }
                    Ok(())
                }
                _ => self.mismatch(ty, v),
            },
            Type::Map(map) => match v {
                Value::Object(entries) => {
                    for (k, item) in entries.iter_mut() {
                        let len = self.path.len();
                        push_name(&mut self.path, k);
                        if self.go && item.is_null() {
                            *item = zero(&map.value);
                        }
                        self.value(&map.value, item)?;
                        self.path.truncate(len);
                    }
                    Ok(())
                }
                _ => self.mismatch(ty, v),
            },
            Type::Scalar(s) if self.go => self.scalar(*s, ty, v),
            Type::Scalar(_) => Ok(()),
        }
    }

    fn structure(&mut self, s: &StructType, ty: &Type, v: &mut Value) -> Result<(), String> {
        let Value::Object(map) = v else {
            return self.mismatch(ty, v);
        };
        let owner =
            std::mem::replace(&mut self.owner, s.name.rsplit('.').next().unwrap_or_default().to_string());
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            let (len, fields) = (self.path.len(), self.fields.len());
            push_name(&mut self.path, &key);
            push_name(&mut self.fields, &key);
            match s.field(&key) {
                Some(field) => self.field(field, &key, map)?,
                None if s.preserve_unknown => {}
                None => {
                    map.remove(&key);
                    if self.findings.len() < FINDINGS_MAX {
                        self.findings.push(Finding { message: format!("unknown field \"{}\"", self.path) });
                    }
                }
            }
            self.path.truncate(len);
            self.fields.truncate(fields);
        }
        self.owner = owner;
        Ok(())
    }

    fn field(&mut self, field: &Field, key: &str, map: &mut Map<String, Value>) -> Result<(), String> {
        let Some(value) = map.get_mut(key) else {
            return Ok(());
        };
        if value.is_null() {
            if !field.nullable && !matches!(field.ty, Type::Any) {
                map.remove(key);
            }
            return Ok(());
        }
        self.value(&field.ty, value)?;
        let empty = match (&field.ty, &*value) {
            (Type::List(_), Value::Array(a)) => a.is_empty(),
            (Type::Map(_), Value::Object(o)) => o.is_empty(),
            _ => false,
        };
        // An empty list of managed fields is an order to forget them, not the absence of one.
        if self.go && empty && !field.required && key != "managedFields" {
            map.remove(key);
        }
        Ok(())
    }

    fn mismatch(&self, ty: &Type, v: &Value) -> Result<(), String> {
        if !self.go {
            return Ok(());
        }
        let got = match v {
            Value::Null => return Ok(()),
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        Err(self.unmarshal(got, &go_type(self.set, ty)))
    }

    fn unmarshal(&self, got: &str, want: &str) -> String {
        let (owner, fields) = (&self.owner, &self.fields);
        if fields.is_empty() {
            return format!("json: cannot unmarshal {got} into Go value of type {want}");
        }
        format!("json: cannot unmarshal {got} into Go struct field {owner}.{fields} of type {want}")
    }

    fn scalar(&mut self, s: Scalar, ty: &Type, v: &mut Value) -> Result<(), String> {
        match (s, &*v) {
            (Scalar::String, Value::String(_))
            | (Scalar::Bool, Value::Bool(_))
            | (Scalar::Double, Value::Number(_)) => Ok(()),
            (Scalar::Int32, Value::Number(n)) => {
                self.integer(n, i64::from(i32::MIN), i64::from(i32::MAX), "int32")
            }
            (Scalar::Int64, Value::Number(n)) => self.integer(n, i64::MIN, i64::MAX, "int64"),
            (Scalar::IntOrString, Value::String(_)) => Ok(()),
            (Scalar::IntOrString, Value::Number(n)) => {
                self.integer(n, i64::from(i32::MIN), i64::from(i32::MAX), "int32")
            }
            (Scalar::IntOrString, other) => {
                let got = if other.is_boolean() { "bool" } else { "object" };
                Err(format!("json: cannot unmarshal {got} into Go value of type int32"))
            }
            (Scalar::Quantity, given) => {
                *v = Value::String(Quantity::from_json(given)?.to_string());
                Ok(())
            }
            (Scalar::Bytes, Value::String(text)) => check_base64(text),
            (Scalar::Time, Value::String(text)) => {
                *v = Value::String(
                    time::normalize(text).ok_or_else(|| time_error(text, "2006-01-02T15:04:05Z07:00"))?,
                );
                Ok(())
            }
            (Scalar::MicroTime, Value::String(text)) => {
                let layout = "2006-01-02T15:04:05.000000Z07:00";
                *v = Value::String(time::normalize_micro(text).ok_or_else(|| time_error(text, layout))?);
                Ok(())
            }
            (Scalar::Duration, Value::String(_)) => Ok(()),
            _ => self.mismatch(ty, v),
        }
    }

    fn integer(&self, n: &Number, low: i64, high: i64, ty: &str) -> Result<(), String> {
        if n.as_i64().is_some_and(|i| (low..=high).contains(&i)) {
            return Ok(());
        }
        Err(self.unmarshal(&format!("number {n}"), ty))
    }
}

fn time_error(text: &str, layout: &str) -> String {
    format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\"")
}

/// Go reports the first byte that is no base64; so does this.
fn check_base64(text: &str) -> Result<(), String> {
    use base64::Engine as _;
    let clean: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
    base64::engine::general_purpose::STANDARD.decode(&clean).map(|_| ()).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => clean.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn zero(ty: &Type) -> Value {
    match ty {
        Type::Struct(_) => Value::Object(Map::new()),
        Type::Scalar(Scalar::String | Scalar::Bytes | Scalar::Duration) => Value::String(String::new()),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString | Scalar::Double) => Value::from(0),
        Type::Scalar(Scalar::Bool) => Value::Bool(false),
        Type::Scalar(Scalar::Quantity) => Value::String("0".to_string()),
        _ => Value::Null,
    }
}

fn go_type(set: &TypeSet, ty: &Type) -> String {
    match ty {
        Type::Any => "interface {}".to_string(),
        Type::Struct(id) => {
            let mut parts = set.get(*id).name.rsplit('.');
            match (parts.next(), parts.next()) {
                (Some(name), Some(version)) => format!("{version}.{name}"),
                (Some(name), None) => name.to_string(),
                _ => String::new(),
            }
        }
        Type::List(l) => format!("[]{}", go_type(set, &l.item)),
        Type::Map(m) => format!("map[string]{}", go_type(set, &m.value)),
        Type::Scalar(s) => match s {
            Scalar::String => "string",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Double => "float64",
            Scalar::Bool => "bool",
            Scalar::Bytes => "[]uint8",
            Scalar::Quantity => "resource.Quantity",
            Scalar::IntOrString => "intstr.IntOrString",
            Scalar::Time | Scalar::MicroTime | Scalar::Duration => "string",
        }
        .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_types;
    use serde_json::json;

    #[test]
    fn duplicates() {
        let (v, f) = parse_json(br#"{"a":1,"spec":{"b":[{"c":1,"c":2}]},"a":3}"#).unwrap();
        assert_eq!(v, json!({"a": 3, "spec": {"b": [{"c": 2}]}}));
        let texts: Vec<&str> = f.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(texts, ["duplicate field \"spec.b[0].c\"", "duplicate field \"a\""]);
        assert_eq!(parse_json(b"{").unwrap_err().code, 400);
        assert_eq!(parse_json(b"{} x").unwrap_err().code, 400);
    }

    #[test]
    fn unknown_and_null() {
        let mut v = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {}, "x": 1,
            "creationTimestamp": null}, "spec": {"containers": [{"name": "c", "imagee": "i"}]}});
        let f = prune(&pod_types(), &mut v).unwrap();
        let texts: Vec<&str> = f.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(texts, ["unknown field \"metadata.x\"", "unknown field \"spec.containers[0].imagee\""]);
        assert_eq!(
            v,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})
        );
        let gvk = GroupVersionKind::new("", "v1", "Pod");
        assert_eq!(
            strict_error(&gvk, &f).message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"metadata.x\", unknown field \"spec.containers[0].imagee\""
        );
    }

    #[test]
    fn wrong_types() {
        for (doc, want) in [
            (
                json!({"spec": {"containers": "x"}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"containers": [{"name": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": 1.5}]}]}}),
                "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"metadata": {"creationTimestamp": "now"}}),
                "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\"",
            ),
            (
                json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}),
                crate::quantity::FORMAT_ERROR,
            ),
        ] {
            assert_eq!(prune(&pod_types(), &mut doc.clone()).unwrap_err().message, want, "{doc}");
        }
    }

    #[test]
    fn stored_forms() {
        let mut v = json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05.6+01:00"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]}});
        prune(&pod_types(), &mut v).unwrap();
        assert_eq!(v["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
        assert_eq!(
            v["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1Mi"})
        );
    }
}
