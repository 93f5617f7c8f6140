//! Sets of field paths and their `FieldsV1` form (`f:`, `k:`, `v:`, `i:`, `.`).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use crate::types::{ListKind, Type, TypeSet};

/// One step of a path.
#[derive(Debug, Clone)]
pub enum PathElement {
    /// A field of a struct or an entry of a map.
    Field(String),
    /// A list item identified by these key fields, sorted by name.
    Key(Vec<(String, Value)>),
    /// A list item identified by its value.
    Value(Value),
    /// A list item identified by its place.
    Index(i64),
}

fn rank(v: &Value) -> u8 {
    match v {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

/// A total order of JSON values.
pub fn compare_values(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(0.0).total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(x), Value::Array(y)) => {
            let items = x.iter().zip(y).map(|(a, b)| compare_values(a, b)).find(|o| o.is_ne());
            items.unwrap_or_else(|| x.len().cmp(&y.len()))
        }
        (Value::Object(x), Value::Object(y)) => {
            let entries = x.iter().zip(y).map(|((k, a), (l, b))| k.cmp(l).then_with(|| compare_values(a, b)));
            entries.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| x.len().cmp(&y.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => {
                let map: Map<String, Value> = keys.iter().cloned().collect();
                format!("k:{}", Value::Object(map))
            }
            Self::Value(v) => format!("v:{v}"),
            Self::Index(i) => format!("i:{i}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_at_checked(2)?;
        match kind {
            "f:" => Some(Self::Field(rest.to_string())),
            "v:" => serde_json::from_str(rest).ok().map(Self::Value),
            "i:" => rest.parse().ok().map(Self::Index),
            "k:" => {
                let map: Map<String, Value> = serde_json::from_str(rest).ok()?;
                let mut keys: Vec<(String, Value)> = map.into_iter().collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                Some(Self::Key(keys))
            }
            _ => None,
        }
    }
}

impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (Self::Value(a), Self::Value(b)) => compare_values(a, b),
            (Self::Key(a), Self::Key(b)) => {
                let keys =
                    a.iter().zip(b).map(|((k, x), (l, y))| k.cmp(l).then_with(|| compare_values(x, y)));
                keys.into_iter().find(|o| o.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PathElement {}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(v) => write!(f, "[={v}]"),
            Self::Index(i) => write!(f, "[{i}]"),
        }
    }
}

/// A path as text: `.spec.containers[name="a"].image`.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    members: BTreeSet<PathElement>,
    children: BTreeMap<PathElement, FieldSet>,
}

impl FieldSet {
    /// A set of plain field paths.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|p| PathElement::Field((*p).to_string())).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Whether this very step is a member.
    pub fn has_member(&self, element: &PathElement) -> bool {
        self.members.contains(element)
    }

    /// Whether the path is in the set.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [first, rest @ ..] => self.children.get(first).is_some_and(|c| c.has(rest)),
        }
    }

    /// The paths below a step.
    pub fn child(&self, element: &PathElement) -> Option<&Self> {
        self.children.get(element).filter(|c| !c.is_empty())
    }

    /// Paths in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (k, c) in &other.children {
            let mine = out.children.entry(k.clone()).or_default();
            *mine = mine.union(c);
        }
        out
    }

    /// Paths in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        let both = self.children.iter().filter_map(|(k, c)| {
            let c = c.intersection(other.children.get(k)?);
            (!c.is_empty()).then(|| (k.clone(), c))
        });
        Self { members, children: both.collect() }
    }

    /// Paths of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let rest = self.children.iter().filter_map(|(k, c)| {
            let c = other.children.get(k).map_or_else(|| c.clone(), |o| c.difference(o));
            (!c.is_empty()).then(|| (k.clone(), c))
        });
        Self { members, children: rest.collect() }
    }

    /// Paths of this set that neither are in the other nor lie below one of its members.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let rest = self.children.iter().filter(|(k, _)| !other.members.contains(*k)).filter_map(|(k, c)| {
            let c = other.children.get(k).map_or_else(|| c.clone(), |o| c.recursive_difference(o));
            (!c.is_empty()).then(|| (k.clone(), c))
        });
        Self { members, children: rest.collect() }
    }

    /// Adds every declared struct field that has paths below it as a member of its own.
    #[must_use]
    pub fn with_named_fields(&self, set: &TypeSet, ty: &Type) -> Self {
        let mut out = Self { members: self.members.clone(), children: BTreeMap::new() };
        for (k, c) in &self.children {
            let (child_type, declared) = child_type(set, ty, k);
            if declared {
                out.members.insert(k.clone());
            }
            out.children.insert(k.clone(), c.with_named_fields(set, child_type));
        }
        out
    }

    /// All paths; on each level those that end there come before those that go deeper, as upstream tells them.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for k in &self.members {
            prefix.push(k.clone());
            out.push(prefix.clone());
            prefix.pop();
        }
        for (k, below) in &self.children {
            prefix.push(k.clone());
            below.collect(prefix, out);
            prefix.pop();
        }
    }

    /// The `fieldsV1` document.
    pub fn to_fields_v1(&self) -> Value {
        let mut map = Map::new();
        for k in self.members.iter().filter(|k| self.child(k).is_none()) {
            map.insert(k.encode(), Value::Object(Map::new()));
        }
        for (k, c) in self.children.iter().filter(|(_, c)| !c.is_empty()) {
            let mut below = c.to_fields_v1();
            if self.members.contains(k) {
                below["."] = Value::Object(Map::new());
            }
            map.insert(k.encode(), below);
        }
        Value::Object(map)
    }

    /// Reads a `fieldsV1` document; None when it is malformed.
    pub fn from_fields_v1(v: &Value) -> Option<Self> {
        let mut out = Self::default();
        for (k, below) in v.as_object()? {
            if k == "." {
                // Belongs to the step that leads here and is read there.
                continue;
            }
            let element = PathElement::decode(k)?;
            let map = below.as_object()?;
            if map.is_empty() || map.contains_key(".") {
                out.members.insert(element.clone());
            }
            let child = Self::from_fields_v1(below)?;
            if !child.is_empty() {
                out.children.insert(element, child);
            }
        }
        Some(out)
    }
}

/// The type below a step, and whether the step is a declared field of a struct.
pub(crate) fn child_type<'a>(set: &'a TypeSet, ty: &'a Type, element: &PathElement) -> (&'a Type, bool) {
    static ANY: Type = Type::Any;
    match (ty, element) {
        (Type::Struct(id), PathElement::Field(name)) => {
            set.get(*id).field(name).map_or((&ANY, false), |f| (&f.ty, true))
        }
        (Type::Map(m), PathElement::Field(_)) => (&m.value, false),
        (Type::List(l), _) => (&l.item, false),
        _ => (&ANY, false),
    }
}

/// The step that leads to an item of a list; `Err` when a key is missing.
pub(crate) fn item_element(kind: &ListKind, item: &Value, index: usize) -> Result<PathElement, String> {
    match kind {
        ListKind::Atomic => Ok(PathElement::Index(i64::try_from(index).unwrap_or(i64::MAX))),
        ListKind::Set => Ok(PathElement::Value(item.clone())),
        ListKind::Map(keys) => {
            if !item.is_object() {
                return Err(format!(
                    "element {index}: associative list with keys may not have non-map elements"
                ));
            }
            let mut out = Vec::with_capacity(keys.len());
            for key in keys {
                match item.get(key.name.as_ref()).or(key.default.as_ref()) {
                    Some(v) => out.push((key.name.to_string(), v.clone())),
                    None => {
                        return Err(format!(
                            "element {index}: associative list with keys has an element that omits key field \"{}\" (and doesn't have default value)",
                            key.name
                        ));
                    }
                }
            }
            out.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(PathElement::Key(out))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(v: Value) -> FieldSet {
        FieldSet::from_fields_v1(&v).unwrap()
    }

    #[test]
    fn round_trip() {
        let doc = json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                "f:list": {"i:0": {}}},
        });
        assert_eq!(set(doc.clone()).to_fields_v1(), doc);
        assert!(FieldSet::from_fields_v1(&json!({"x:y": {}})).is_none());
        assert!(FieldSet::from_fields_v1(&json!([])).is_none());
        let paths: Vec<String> = set(doc).paths().iter().map(|p| path_text(p)).collect();
        assert_eq!(
            paths,
            [
                ".metadata.labels",
                ".metadata.finalizers[=\"x/y\"]",
                ".metadata.labels.a",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].name",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
                ".spec.list[0]",
            ]
        );
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let b = set(json!({"f:a": {"f:b": {}}, "f:e": {}}));
        assert_eq!(a.union(&b), set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}, "f:e": {}})));
        assert_eq!(a.intersection(&b), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(a.difference(&b), set(json!({"f:a": {".": {}, "f:c": {}}, "f:d": {}})));
        assert_eq!(b.recursive_difference(&a), set(json!({"f:e": {}})));
        assert!(a.difference(&a).is_empty());
    }
}
