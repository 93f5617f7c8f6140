//! Values. Documents are read in place: only what an expression touches is converted.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use jiff::Timestamp;
use knarr_machinery::quantity::Quantity;
use serde_json::Value as Json;

use crate::authority::{Check, Decision, Stage};
use crate::error::EvalError;
use crate::time;
use crate::types::Type;

/// A value during an evaluation.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// null
    Null,
    /// bool
    Bool(bool),
    /// int
    Int(i64),
    /// uint
    Uint(u64),
    /// double
    Double(f64),
    /// string
    String(Cow<'a, str>),
    /// bytes
    Bytes(Arc<[u8]>),
    /// A list that was computed.
    List(Arc<Vec<Val<'a>>>),
    /// A map that was computed, by the text of its keys.
    Map(Arc<BTreeMap<String, (Val<'a>, Val<'a>)>>),
    /// A list or map of a document with its declared type.
    Json(&'a Json, &'a Type),
    /// Nanoseconds.
    Duration(i64),
    /// A point in time.
    Timestamp(Timestamp),
    /// A type, by its name.
    Type(String),
    /// An optional value.
    Optional(Option<Box<Val<'a>>>),
    /// kubernetes.Quantity
    Quantity(Arc<Quantity>),
    /// net.IP
    Ip(IpAddr),
    /// net.CIDR
    Cidr(IpAddr, u8),
    /// kubernetes.URL
    Url(Arc<crate::library::net::Url>),
    /// kubernetes.Semver
    Semver(Arc<crate::library::semver::Semver>),
    /// kubernetes.NamedFormat
    Format(&'static str),
    /// A struct that the expression made.
    Message(Arc<Message<'a>>),
    /// Named values that were computed before; what failed tells so when it is read.
    Fields(Arc<Fields<'a>>),
    /// A question to the authorizer, as far as it is put.
    Authority(Stage, Arc<Check>),
    /// The authorizer's answer.
    Decision(Arc<Decision>),
}

/// Named values, each with its outcome.
pub type Fields<'a> = BTreeMap<String, Result<Val<'a>, EvalError>>;

/// A struct that an expression made.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// `Object`, `Object.spec`, `JSONPatch`.
    pub name: String,
    /// The fields that were given.
    pub fields: BTreeMap<String, Val<'a>>,
}

impl Message<'_> {
    /// Where a struct's name is not that of the fields which lead to it: `Object.spec` belongs into `spec`.
    pub fn misplaced(&self) -> Vec<String> {
        let mut found = Vec::new();
        misplaced(&Val::Message(Arc::new(self.clone())), &self.name, &mut found);
        found
    }
}

fn misplaced(value: &Val<'_>, path: &str, found: &mut Vec<String>) {
    match value {
        Val::Message(m) => {
            if m.name != path {
                found.push(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    m.name
                ));
            }
            for (key, below) in &m.fields {
                misplaced(below, &format!("{path}.{key}"), found);
            }
        }
        Val::List(items) => items.iter().for_each(|v| misplaced(v, path, found)),
        Val::Map(map) => map.values().for_each(|(_, v)| misplaced(v, path, found)),
        _ => {}
    }
}

/// A value of a document as its declared type has it.
pub(crate) fn from_json<'a>(json: &'a Json, ty: &'a Type) -> Val<'a> {
    match (json, ty) {
        (Json::Null, _) => Val::Null,
        (Json::Bool(b), _) => Val::Bool(*b),
        (Json::Number(n), Type::Double) => Val::Double(n.as_f64().unwrap_or(0.0)),
        (Json::Number(n), _) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Val::Int(i),
            (None, Some(u)) => Val::Uint(u),
            _ => Val::Double(n.as_f64().unwrap_or(0.0)),
        },
        (Json::String(s), Type::Duration) => {
            time::parse_duration(s).map_or_else(|| Val::String(Cow::Borrowed(s)), Val::Duration)
        }
        (Json::String(s), Type::Timestamp) => {
            time::parse_timestamp(s).map_or_else(|| Val::String(Cow::Borrowed(s)), Val::Timestamp)
        }
        (Json::String(s), Type::Bytes) => base64::engine::general_purpose::STANDARD
            .decode(s)
            .map_or_else(|_| Val::String(Cow::Borrowed(s)), |b| Val::Bytes(b.into())),
        (Json::String(s), _) => Val::String(Cow::Borrowed(s)),
        (Json::Array(_) | Json::Object(_), _) => Val::Json(json, ty),
    }
}

/// The type of what is below a list or map.
pub(crate) fn element_type<'a>(ty: &'a Type, key: &str) -> &'a Type {
    match ty {
        Type::List(t) => t,
        Type::Map(_, v) => v,
        Type::Object(o) => o.fields.get(key).unwrap_or(&Type::Dyn),
        _ => &Type::Dyn,
    }
}

/// A name of an expression as a field name of a document.
pub(crate) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && KEYWORDS.contains(&word)
    {
        return Cow::Owned(word.to_string());
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = ESCAPES.iter().find(|(from, _)| rest.starts_with(from));
        match found {
            Some((from, to)) => {
                out.push_str(to);
                rest = &rest[from.len()..];
            }
            None => {
                out.push_str("__");
                rest = &rest[2..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

const KEYWORDS: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const ESCAPES: &[(&str, &str)] =
    &[("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// A field name of a document as it is written in expressions; None for names that cannot be.
pub fn escape(name: &str) -> Option<String> {
    let first = name.chars().next()?;
    if first.is_ascii_digit() || (KEYWORDS.contains(&name)) {
        return KEYWORDS.contains(&name).then(|| format!("__{name}__"));
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((to, from)) = ESCAPES.iter().find(|(_, from)| rest.starts_with(from)) {
            out.push_str(to);
            rest = &rest[from.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

impl<'a> Val<'a> {
    /// A string.
    pub fn string(text: impl Into<String>) -> Self {
        Self::String(Cow::Owned(text.into()))
    }

    /// A list.
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::Json(Json::Array(_), _) => "list",
            Self::Map(_) | Self::Json(..) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Message(m) if m.name == "JSONPatch" => "JSONPatch",
            Self::Message(_) | Self::Fields(_) => "Object",
            Self::Authority(stage, _) => stage.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::List(items) => Some(items.to_vec()),
            Self::Json(Json::Array(items), ty) => {
                Some(items.iter().map(|v| from_json(v, element_type(ty, ""))).collect())
            }
            _ => None,
        }
    }

    /// Keys and values of a map.
    pub(crate) fn entries(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Self::Map(map) => Some(map.values().cloned().collect()),
            Self::Json(Json::Object(map), ty) => Some(
                map.iter()
                    .map(|(k, v)| (Val::String(Cow::Borrowed(k.as_str())), from_json(v, element_type(ty, k))))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The number of items, entries, code points or bytes.
    pub(crate) fn size(&self) -> Option<usize> {
        Some(match self {
            Self::String(s) => s.chars().count(),
            Self::Bytes(b) => b.len(),
            Self::List(l) => l.len(),
            Self::Map(m) => m.len(),
            Self::Json(Json::Array(l), _) => l.len(),
            Self::Json(Json::Object(m), _) => m.len(),
            _ => return None,
        })
    }

    /// The key under which a map holds this value; None for what can be none.
    pub(crate) fn key(&self) -> Option<String> {
        Some(match self {
            Self::Bool(b) => format!("b{b}"),
            Self::Int(i) => format!("n{i}"),
            Self::Uint(u) => format!("n{u}"),
            Self::Double(d) if d.fract() == 0.0 => format!("n{}", *d as i64),
            Self::String(s) => format!("s{s}"),
            _ => return None,
        })
    }

    /// The entry of a map.
    pub(crate) fn lookup(&self, key: &Val<'_>) -> Option<Val<'a>> {
        match (self, key) {
            (Self::Map(map), _) => map.get(&key.key()?).map(|(_, v)| v.clone()),
            (Self::Json(Json::Object(map), ty), Val::String(s)) => {
                map.get(s.as_ref()).map(|v| from_json(v, element_type(ty, s)))
            }
            _ => None,
        }
    }

    /// The field of a struct or the entry of a map, by its name in an expression.
    pub(crate) fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(Json::Object(map), ty @ Type::Object(_)) => {
                map.get(unescape(name).as_ref()).map(|v| from_json(v, element_type(ty, name)))
            }
            Self::Json(Json::Object(_), _) | Self::Map(_) => self.lookup(&Val::String(Cow::Borrowed(name))),
            Self::Message(m) => m.fields.get(name).cloned(),
            Self::Fields(fields) => fields.get(name).and_then(|f| f.as_ref().ok()).cloned(),
            _ => None,
        }
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// Values that JSON does not have, maps with keys that are no strings.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(i) => (*i).into(),
            Self::Uint(u) => (*u).into(),
            Self::Double(d) => (*d).into(),
            Self::String(s) => s.as_ref().into(),
            Self::Bytes(b) => base64::engine::general_purpose::STANDARD.encode(b).into(),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect::<Result<Vec<_>, _>>()?),
            Self::Json(json, _) => (*json).clone(),
            Self::Map(map) => {
                let entry = |(k, v): &(Val<'_>, Val<'_>)| match k {
                    Val::String(k) => Ok((k.to_string(), v.to_json()?)),
                    other => {
                        Err(EvalError::text(format!("map key is of type {}, not string", other.type_name())))
                    }
                };
                Json::Object(map.values().map(entry).collect::<Result<_, _>>()?)
            }
            Self::Message(m) => {
                let entry = |(k, v): (&String, &Val<'_>)| Ok((k.clone(), v.to_json()?));
                Json::Object(m.fields.iter().map(entry).collect::<Result<_, EvalError>>()?)
            }
            Self::Timestamp(t) => t.to_string().into(),
            Self::Duration(_) => match crate::library::convert::call("string", std::slice::from_ref(self))? {
                Val::String(s) => s.into_owned().into(),
                _ => return Err(EvalError::overload()),
            },
            Self::Optional(Some(v)) => v.to_json()?,
            other => return Err(EvalError::text(format!("{} has no JSON form", other.type_name()))),
        })
    }

    /// Equality across types: values of different kinds are unequal.
    pub fn equals(&self, other: &Val<'_>) -> bool {
        use Val::{
            Bool, Bytes, Cidr, Double, Duration, Int, Ip, Null, Optional, Quantity, Semver, String,
            Timestamp, Type, Uint, Url,
        };
        match (self, other) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {
                compare_numbers(self, other) == Some(Ordering::Equal)
            }
            (String(a), String(b)) => a == b,
            (Bytes(a), Bytes(b)) => a == b,
            (Duration(a), Duration(b)) => a == b,
            (Timestamp(a), Timestamp(b)) => a == b,
            (Type(a), Type(b)) => a == b,
            (Optional(a), Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equals(b),
                _ => false,
            },
            (Quantity(a), Quantity(b)) => a.cmp(b).is_eq(),
            (Ip(a), Ip(b)) => a == b,
            (Cidr(a, x), Cidr(b, y)) => a == b && x == y,
            (Url(a), Url(b)) => a == b,
            (Semver(a), Semver(b)) => a == b,
            (Val::Json(a, x), Val::Json(b, y)) if x == y && a == b => true,
            (Val::Message(a), Val::Message(b)) => {
                a.name == b.name
                    && a.fields.len() == b.fields.len()
                    && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|w| v.equals(w)))
            }
            _ => match (self.items(), other.items(), self.entries(), other.entries()) {
                (Some(a), Some(b), _, _) => a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| x.equals(y)),
                (_, _, Some(a), Some(b)) => {
                    a.len() == b.len() && a.iter().all(|(k, v)| other.lookup(k).is_some_and(|w| v.equals(&w)))
                }
                _ => false,
            },
        }
    }

    /// The order of two values of one kind.
    ///
    /// # Errors
    /// Kinds without an order.
    pub(crate) fn compare(&self, other: &Val<'_>) -> Result<Ordering, EvalError> {
        use Val::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
        match (self, other) {
            (Bool(a), Bool(b)) => Ok(a.cmp(b)),
            (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => {
                compare_numbers(self, other).ok_or_else(|| EvalError::text("NaN values cannot be ordered"))
            }
            (String(a), String(b)) => Ok(a.cmp(b)),
            (Bytes(a), Bytes(b)) => Ok(a.cmp(b)),
            (Duration(a), Duration(b)) => Ok(a.cmp(b)),
            (Timestamp(a), Timestamp(b)) => Ok(a.cmp(b)),
            _ => Err(EvalError::overload()),
        }
    }
}

fn compare_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let wide = |v: &Val<'_>| match v {
        Val::Int(i) => Some(i128::from(*i)),
        Val::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    let double = |v: &Val<'_>| match v {
        Val::Int(i) => *i as f64,
        Val::Uint(u) => *u as f64,
        Val::Double(d) => *d,
        _ => f64::NAN,
    };
    match (wide(a), wide(b)) {
        (Some(x), Some(y)) => Some(x.cmp(&y)),
        _ => double(a).partial_cmp(&double(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("a", Some("a")),
            ("a.b", Some("a__dot__b")),
            ("a-b/c", Some("a__dash__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("namespace", Some("__namespace__")),
            ("1a", None),
            ("a b", None),
        ] {
            assert_eq!(escape(name).as_deref(), want, "{name}");
            if let Some(want) = want {
                assert_eq!(unescape(want), name);
            }
        }
    }
}
