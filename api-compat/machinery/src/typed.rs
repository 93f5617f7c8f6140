//! Documents seen through their type, as server-side apply sees them: which paths they have, how two of them
//! differ, how one is laid over another, and how paths are taken out.
//!
//! The rules are those of structured-merge-diff: atomic values are leaves, sets and keyed lists have an owner per
//! item, maps and structs per entry.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::fieldset::{FieldSet, PathElement, item_element, path_text};
use crate::scalar::{go_text, scalar_error};
use crate::types::{ListKind, ListType, StructType, Type, TypeSet};

/// The type of a value during a walk.
#[derive(Clone, Copy)]
pub(crate) enum Node<'a> {
    /// A known type.
    Typed(&'a Type),
    /// Below a field that the schema keeps without knowing it: maps are granular, all else atomic.
    Deduced,
}

enum Shape<'a> {
    Leaf,
    Struct(&'a StructType),
    Map(Node<'a>),
    List(&'a ListType),
}

/// Walks documents of one type set.
#[derive(Clone, Copy)]
pub(crate) struct Walker<'a> {
    pub set: &'a TypeSet,
}

/// How two documents differ.
#[derive(Debug, Default, Clone)]
pub(crate) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    /// Leaves out paths that are not for this endpoint.
    pub fn without(&self, reset: &FieldSet) -> Self {
        Self {
            added: self.added.recursive_difference(reset),
            modified: self.modified.recursive_difference(reset),
            removed: self.removed.recursive_difference(reset),
        }
    }
}

fn is_empty(v: Option<&Value>) -> bool {
    match v {
        None | Some(Value::Null) => true,
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(_) => false,
    }
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn entries(v: Option<&Value>) -> &Map<String, Value> {
    v.and_then(Value::as_object).unwrap_or(&EMPTY)
}

fn items(v: Option<&Value>) -> &[Value] {
    v.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl<'a> Walker<'a> {
    fn shape(self, node: Node<'a>, v: Option<&Value>) -> Shape<'a> {
        match (node, v) {
            (Node::Deduced, Some(Value::Object(_))) => Shape::Map(Node::Deduced),
            (Node::Typed(Type::Struct(id)), None | Some(Value::Object(_) | Value::Null)) => {
                let s = self.set.get(*id);
                if s.atomic { Shape::Leaf } else { Shape::Struct(s) }
            }
            (Node::Typed(Type::Map(m)), None | Some(Value::Object(_) | Value::Null)) if !m.atomic => {
                Shape::Map(Node::Typed(&m.value))
            }
            (Node::Typed(Type::List(l)), None | Some(Value::Array(_) | Value::Null))
                if l.kind != ListKind::Atomic =>
            {
                Shape::List(l)
            }
            // Scalars, atomic values, and values that are not of their type.
            _ => Shape::Leaf,
        }
    }

    /// The type of a struct's or map's entry, and whether a struct declares it.
    fn entry(shape: &Shape<'a>, key: &str) -> (Node<'a>, bool) {
        match shape {
            Shape::Struct(s) => s.field(key).map_or((Node::Deduced, false), |f| (Node::Typed(&f.ty), true)),
            Shape::Map(value) => (*value, false),
            Shape::Leaf | Shape::List(_) => (Node::Deduced, false),
        }
    }

    /// All paths of a document.
    pub fn field_set(self, node: Node<'a>, v: &Value) -> FieldSet {
        let mut out = FieldSet::default();
        self.collect(node, v, &mut Vec::new(), &mut out);
        out
    }

    fn collect(self, node: Node<'a>, v: &Value, path: &mut Vec<PathElement>, out: &mut FieldSet) {
        let shape = self.shape(node, Some(v));
        match &shape {
            Shape::Leaf => out.insert(path),
            Shape::Struct(_) | Shape::Map(_) => {
                for (k, child) in entries(Some(v)) {
                    let (ty, declared) = Self::entry(&shape, k);
                    path.push(PathElement::Field(k.clone()));
                    self.collect(ty, child, path, out);
                    let hollow = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                    if hollow || !declared {
                        out.insert(path);
                    }
                    path.pop();
                }
            }
            Shape::List(l) => {
                for (i, child) in items(Some(v)).iter().enumerate() {
                    // Items that cannot be told apart have no path of their own.
                    let Ok(element) = item_element(&l.kind, child, i) else {
                        continue;
                    };
                    path.push(element);
                    self.collect(Node::Typed(&l.item), child, path, out);
                    out.insert(path);
                    path.pop();
                }
            }
        }
    }

    /// How `new` differs from `old`.
    pub fn compare(self, node: Node<'a>, old: &Value, new: &Value) -> Comparison {
        let mut out = Comparison::default();
        self.diff(node, Some(old), Some(new), &mut Vec::new(), &mut out);
        out
    }

    fn diff(
        self,
        node: Node<'a>,
        old: Option<&Value>,
        new: Option<&Value>,
        path: &mut Vec<PathElement>,
        out: &mut Comparison,
    ) {
        let (a, b) = (self.shape(node, old), self.shape(node, new));
        let leaf = |s: &Shape<'_>| matches!(s, Shape::Leaf);
        if old.is_some() && new.is_some() && leaf(&a) != leaf(&b) {
            self.diff(node, old, None, path, out);
            self.diff(node, None, new, path, out);
            return;
        }
        let shape = if new.is_some() { b } else { a };
        if leaf(&shape) || (is_empty(old) && is_empty(new)) {
            match (old, new) {
                (None, _) => out.added.insert(path),
                (_, None) => out.removed.insert(path),
                (Some(x), Some(y)) if x != y => out.modified.insert(path),
                _ => {}
            }
            return;
        }
        match &shape {
            Shape::List(l) => self.diff_items(l, items(old), items(new), path, out),
            _ => {
                let (x, y) = (entries(old), entries(new));
                let keys: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
                for k in keys {
                    path.push(PathElement::Field(k.clone()));
                    self.diff(Self::entry(&shape, k).0, x.get(k), y.get(k), path, out);
                    path.pop();
                }
            }
        }
        match (old, new) {
            (None, _) => out.added.insert(path),
            (_, None) => out.removed.insert(path),
            _ => {}
        }
    }

    fn diff_items(
        self,
        list: &'a ListType,
        old: &[Value],
        new: &[Value],
        path: &mut Vec<PathElement>,
        out: &mut Comparison,
    ) {
        let mut all: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (i, v) in old.iter().enumerate() {
            if let Ok(e) = item_element(&list.kind, v, i) {
                all.entry(e).or_default().0.push(v);
            }
        }
        for (i, v) in new.iter().enumerate() {
            if let Ok(e) = item_element(&list.kind, v, i) {
                all.entry(e).or_default().1.push(v);
            }
        }
        for (element, (x, y)) in all {
            path.push(element);
            if x.len() > 1 || y.len() > 1 {
                // Items of one key are compared together.
                match (x.is_empty(), y.is_empty()) {
                    (true, _) => out.added.insert(path),
                    (_, true) => out.removed.insert(path),
                    _ if x != y => out.modified.insert(path),
                    _ => {}
                }
            } else {
                self.diff(Node::Typed(&list.item), x.first().copied(), y.first().copied(), path, out);
            }
            path.pop();
        }
    }

    /// Lays `new` over `old`.
    pub fn merge(self, node: Node<'a>, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
        let shape = self.shape(node, new.or(old));
        let (Some(x), Some(y)) = (old, new) else {
            return new.or(old).cloned();
        };
        if is_empty(old) && is_empty(new) {
            return Some(y.clone());
        }
        match &shape {
            Shape::Leaf => Some(y.clone()),
            Shape::List(l) => Some(Value::Array(self.merge_items(l, items(Some(x)), items(Some(y))))),
            _ => {
                let (a, b) = (entries(Some(x)), entries(Some(y)));
                let mut out = Map::new();
                for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                    if let Some(v) = self.merge(Self::entry(&shape, k).0, a.get(k), b.get(k)) {
                        out.insert(k.clone(), v);
                    }
                }
                Some(Value::Object(out))
            }
        }
    }

    /// Merges lists: items of `new` keep their order, items only in `old` keep their place before what followed them.
    fn merge_items(self, list: &'a ListType, old: &[Value], new: &[Value]) -> Vec<Value> {
        let keyed = |l: &'_ [Value]| -> Vec<Option<PathElement>> {
            l.iter().enumerate().map(|(i, v)| item_element(&list.kind, v, i).ok()).collect()
        };
        let (xs, ys) = (keyed(old), keyed(new));
        let in_new = |e: &Option<PathElement>| e.is_some() && ys.contains(e);
        // The first item of each key is the one that merges.
        let in_old = |e: &Option<PathElement>| xs.iter().position(|x| x.is_some() && x == e);
        let shared: Vec<&Option<PathElement>> = ys.iter().filter(|e| in_old(e).is_some()).collect();
        let (mut i, mut j, mut next_shared) = (0, 0, 0);
        let mut out = Vec::with_capacity(old.len() + new.len());
        while i < old.len() || j < new.len() {
            if i < old.len() && j < new.len() && xs[i] != ys[j] && in_new(&xs[i]) {
                let wanted = shared.get(next_shared).is_some_and(|s| **s == xs[i]);
                if !wanted {
                    // It comes later, or came already, where the new list has it.
                    i += 1;
                    continue;
                }
            }
            if i < old.len() && !in_new(&xs[i]) {
                out.push(old[i].clone());
                i += 1;
            } else if j < new.len() {
                let at = in_old(&ys[j]);
                let item = Node::Typed(&list.item);
                out.extend(self.merge(item, at.map(|a| &old[a]), Some(&new[j])));
                if i < old.len() && xs[i] == ys[j] {
                    i += 1;
                }
                if at.is_some() {
                    next_shared += 1;
                }
                j += 1;
            } else {
                i += 1;
            }
        }
        out
    }

    /// Takes paths out of a document; a map or list that loses its last entry becomes null.
    pub fn remove(self, node: Node<'a>, v: &Value, gone: &FieldSet) -> Option<Value> {
        let shape = self.shape(node, Some(v));
        match &shape {
            Shape::Leaf => match node {
                Node::Typed(Type::Scalar(_) | Type::Any) | Node::Deduced => Some(v.clone()),
                // Something below an atomic value is to go: upstream drops the value.
                Node::Typed(_) => None,
            },
            Shape::List(l) => {
                let mut out = Vec::new();
                for (i, child) in items(Some(v)).iter().enumerate() {
                    let Ok(element) = item_element(&l.kind, child, i) else {
                        out.push(child.clone());
                        continue;
                    };
                    if gone.has_member(&element) {
                        continue;
                    }
                    match gone.child(&element) {
                        Some(below) => out.extend(self.remove(Node::Typed(&l.item), child, below)),
                        None => out.push(child.clone()),
                    }
                }
                (!out.is_empty()).then_some(Value::Array(out))
            }
            _ => {
                let mut out = Map::new();
                for (k, child) in entries(Some(v)) {
                    let element = PathElement::Field(k.clone());
                    if gone.has_member(&element) {
                        continue;
                    }
                    let kept = match gone.child(&element) {
                        Some(below) => self.remove(Self::entry(&shape, k).0, child, below),
                        None => Some(child.clone()),
                    };
                    out.insert(k.clone(), kept.unwrap_or(Value::Null));
                }
                (!out.is_empty()).then_some(Value::Object(out))
            }
        }
    }

    /// What makes a document unfit to be applied: undeclared fields, items without key, doubled items.
    pub fn check(self, node: Node<'a>, v: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        self.find_errors(node, v, &mut Vec::new(), &mut errors);
        errors
    }

    fn find_errors(self, node: Node<'a>, v: &Value, path: &mut Vec<PathElement>, errors: &mut Vec<String>) {
        let at = |path: &[PathElement]| path_text(path);
        if let Node::Typed(Type::Struct(id)) = node
            && self.set.get(*id).name == crate::types::DEDUCED
            && !v.is_object()
        {
            return;
        }
        if let (
            Node::Typed(Type::Struct(_) | Type::Map(_)),
            Value::Array(_) | Value::String(_) | Value::Number(_),
        ) = (node, v)
        {
            errors.push(format!("{}: expected map, got &{{{}}}", at(path), go_text(v)));
            return;
        }
        if let (Node::Typed(Type::List(_)), Value::Object(_) | Value::String(_) | Value::Number(_)) =
            (node, v)
        {
            errors.push(format!("{}: expected list, got &{{{}}}", at(path), go_text(v)));
            return;
        }
        let shape = match node {
            // Fields of atomic structs are declared as well.
            Node::Typed(Type::Struct(id)) => Shape::Struct(self.set.get(*id)),
            _ => self.shape(node, Some(v)),
        };
        match &shape {
            Shape::Leaf => {
                if let Node::Typed(Type::Scalar(scalar)) = node
                    && let Some(error) = scalar_error(*scalar, v)
                {
                    errors.push(format!("{}: {error}", at(path)));
                }
            }
            Shape::List(l) => {
                let mut seen = BTreeSet::new();
                for (i, child) in items(Some(v)).iter().enumerate() {
                    match item_element(&l.kind, child, i) {
                        Err(e) => errors.push(format!("{}: {e}", at(path))),
                        Ok(element) => {
                            if !seen.insert(element.clone()) {
                                errors.push(format!("{}: duplicate entries for key {element}", at(path)));
                            }
                            path.push(element);
                            self.find_errors(Node::Typed(&l.item), child, path, errors);
                            path.pop();
                        }
                    }
                }
            }
            _ => {
                for (k, child) in entries(Some(v)) {
                    path.push(PathElement::Field(k.clone()));
                    let (ty, declared) = Self::entry(&shape, k);
                    match &shape {
                        Shape::Struct(s) if !declared && !s.preserve_unknown => {
                            errors.push(format!("{}: field not declared in schema", at(path)));
                        }
                        _ => self.find_errors(ty, child, path, errors),
                    }
                    path.pop();
                }
            }
        }
    }

    /// Paths of the atomic lists, maps and structs in a document.
    pub fn atomics(self, node: Node<'a>, v: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.find_atomics(node, v, "", &mut found);
        found
    }

    fn find_atomics(self, node: Node<'a>, v: &Value, path: &str, found: &mut Vec<String>) {
        match (node, v) {
            (Node::Typed(Type::Struct(id)), Value::Object(map)) => {
                let s = self.set.get(*id);
                if s.atomic {
                    found.push(path.to_string());
                }
                for (k, child) in map {
                    if let Some(f) = s.field(k) {
                        self.find_atomics(Node::Typed(&f.ty), child, &format!("{path}.{k}"), found);
                    }
                }
            }
            (Node::Typed(Type::Map(m)), Value::Object(map)) => {
                if m.atomic {
                    found.push(path.to_string());
                }
                for (k, child) in map {
                    self.find_atomics(Node::Typed(&m.value), child, &format!("{path}.{k}"), found);
                }
            }
            (Node::Typed(Type::List(l)), Value::Array(list)) => {
                if l.kind == ListKind::Atomic {
                    found.push(path.to_string());
                }
                for (i, child) in list.iter().enumerate() {
                    self.find_atomics(Node::Typed(&l.item), child, &format!("{path}[{i}]"), found);
                }
            }
            _ => {}
        }
    }

    /// Fills in what Go writes for a built-in type even when nobody set it: struct fields that are no pointers.
    pub fn with_zeros(self, node: Node<'a>, v: &mut Value) {
        match (node, v) {
            (Node::Typed(Type::Struct(id)), Value::Object(map)) => {
                let s = self.set.get(*id);
                for f in s.fields.iter().filter(|f| f.tag != 0) {
                    let inline = f.default.as_ref().is_some_and(|d| d.as_object().is_some_and(Map::is_empty));
                    let written = f.required && matches!(f.ty, Type::List(_) | Type::Map(_));
                    if inline && matches!(f.ty, Type::Struct(_)) {
                        map.entry(f.name.to_string()).or_insert_with(|| Value::Object(Map::new()));
                    } else if written {
                        map.entry(f.name.to_string()).or_insert(Value::Null);
                    }
                }
                for (k, child) in map.iter_mut() {
                    if let Some(f) = s.field(k) {
                        self.with_zeros(Node::Typed(&f.ty), child);
                    }
                }
            }
            (Node::Typed(Type::List(l)), Value::Array(items)) => {
                for item in items {
                    self.with_zeros(Node::Typed(&l.item), item);
                }
            }
            (Node::Typed(Type::Map(m)), Value::Object(map)) => {
                for (_, child) in map.iter_mut() {
                    self.with_zeros(Node::Typed(&m.value), child);
                }
            }
            _ => {}
        }
    }
}
