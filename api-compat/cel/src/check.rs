//! The type checker.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::{Expr, Literal, Macro, MacroKind, Node};
use crate::error::Issue;
use crate::functions::{Overload, overloads};
use crate::types::{Substitution, Type};

/// Checks an expression; returns its type. `patches`: whether it may make `Object` and `JSONPatch` structs.
pub(crate) fn check(expr: &Expr, variables: &[(String, Type)], patches: Patches) -> Result<Type, Vec<Issue>> {
    let mut checker = Checker {
        scope: variables.to_vec(),
        types: Substitution::default(),
        issues: Vec::new(),
        mixed: 0,
        patches,
    };
    let ty = checker.expr(expr);
    if checker.issues.is_empty() { Ok(checker.types.resolve(&ty, true)) } else { Err(checker.issues) }
}

/// `a.b` as the name of a namespaced function or type.
pub(crate) fn qualified(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select { operand, field, test: false, optional: false } => {
            Some(format!("{}.{field}", qualified(operand)?))
        }
        _ => None,
    }
}

/// The types that have names.
pub(crate) fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::Map(Arc::new(Type::Dyn), Arc::new(Type::Dyn)),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "dyn" => Type::Dyn,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "optional_type" => Type::optional(Type::Dyn),
        "kubernetes.URL" => Type::Opaque("kubernetes.URL"),
        "net.IP" => Type::Opaque("net.IP"),
        "net.CIDR" => Type::Opaque("net.CIDR"),
        "kubernetes.Quantity" => Type::Opaque("kubernetes.Quantity"),
        "kubernetes.Semver" => Type::Opaque("kubernetes.Semver"),
        "kubernetes.NamedFormat" => Type::Opaque("kubernetes.NamedFormat"),
        "kubernetes.authorization.Authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
        "kubernetes.authorization.Decision" => Type::Opaque("kubernetes.authorization.Decision"),
        _ => return None,
    })
}

/// Whether an expression may describe a change of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patches {
    /// There are no structs to make.
    None,
    /// `Object{...}`, `Object.spec{...}` and `JSONPatch{...}` can be made.
    Allowed,
}

struct Checker {
    patches: Patches,
    scope: Vec<(String, Type)>,
    types: Substitution,
    issues: Vec<Issue>,
    /// Above zero where lists may be of mixed types.
    mixed: usize,
}

impl Checker {
    fn fail(&mut self, at: usize, message: String) -> Type {
        self.issues.push(Issue::new(at, message));
        Type::Dyn
    }

    fn show(&self, ty: &Type) -> String {
        self.types.resolve(ty, true).to_string()
    }

    fn variable(&self, name: &str) -> Option<Type> {
        self.scope.iter().rev().find(|(n, _)| n == name).map(|(_, t)| t.clone())
    }

    fn expr(&mut self, expr: &Expr) -> Type {
        match &expr.node {
            Node::Literal(l) => literal(l),
            Node::Ident(name) => {
                match self.variable(name).or_else(|| type_named(name).map(|t| Type::Type(Arc::new(t)))) {
                    Some(t) => t,
                    None => self.fail(expr.at, format!("undeclared reference to '{name}' (in container '')")),
                }
            }
            Node::Select { .. } => self.select(expr),
            Node::Call { function, target, args } => self.call(expr.at, function, target.as_deref(), args),
            Node::And(list) => self.logical(expr.at, "_&&_", list),
            Node::Or(list) => self.logical(expr.at, "_||_", list),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Macro(m) => self.walk(expr.at, m),
            Node::Struct { name, fields } => self.message(expr.at, name, fields),
        }
    }

    /// A struct of a change: `Object` may have any fields, `JSONPatch` has four.
    fn message(&mut self, at: usize, name: &str, fields: &[(String, Expr, bool)]) -> Type {
        let patch = name == "JSONPatch";
        let known = patch || name == "Object" || name.starts_with("Object.");
        if !known || self.patches == Patches::None {
            return self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        }
        for (field, value, optional) in fields {
            let given = self.expr(value);
            let given = match (self.types.resolve(&given, false), optional) {
                (Type::Optional(t), true) => (*t).clone(),
                (t, _) => t,
            };
            let wanted = match field.as_str() {
                "op" | "path" | "from" if patch => Type::String,
                "value" => Type::Dyn,
                _ if patch => {
                    self.fail(value.at, format!("undefined field '{field}'"));
                    continue;
                }
                _ => Type::Dyn,
            };
            if !self.types.fits(&wanted, &given) {
                let shown = self.show(&given);
                let text =
                    format!("expected type of field '{field}' is '{wanted}' but provided type is '{shown}'");
                self.fail(value.at, text);
            }
        }
        Type::Message(name.to_string())
    }

    fn logical(&mut self, at: usize, function: &str, list: &[Expr]) -> Type {
        let types: Vec<Type> = list.iter().map(|e| self.expr(e)).collect();
        if !types.iter().all(|t| self.types.clone().fits(&Type::Bool, t)) {
            let shown: Vec<String> = types.iter().take(2).map(|t| self.show(t)).collect();
            return self.fail(
                at,
                format!("found no matching overload for '{function}' applied to '({})'", shown.join(", ")),
            );
        }
        types.iter().for_each(|t| {
            self.types.fits(&Type::Bool, t);
        });
        Type::Bool
    }

    fn select(&mut self, expr: &Expr) -> Type {
        let Node::Select { operand, field, test, optional } = &expr.node else { return Type::Dyn };
        // A name with dots may be a variable.
        if let Some(t) = qualified(expr).filter(|_| !test).and_then(|name| self.variable(&name)) {
            return t;
        }
        // A name with dots may be a type.
        if let Some(name) = qualified(expr).filter(|_| !test)
            && self.variable(name.split('.').next().unwrap_or_default()).is_none()
            && let Some(t) = type_named(&name)
        {
            return Type::Type(Arc::new(t));
        }
        let given = self.expr(operand);
        let given = self.types.resolve(&given, false);
        let (inner, chained) = match &given {
            Type::Optional(t) => ((**t).clone(), true),
            other => (other.clone(), false),
        };
        let found = match &inner {
            Type::Object(o) => match o.fields.get(field) {
                Some(t) => t.clone(),
                None => return self.fail(expr.at, format!("undefined field '{field}'")),
            },
            Type::Map(_, v) => (**v).clone(),
            Type::Dyn | Type::Param(_) | Type::Message(_) => Type::Dyn,
            other => {
                let text = format!("type '{}' does not support field selection", self.show(other));
                return self.fail(expr.at, text);
            }
        };
        if *test {
            Type::Bool
        } else if *optional || chained {
            match found {
                Type::Optional(_) => found,
                _ => Type::optional(found),
            }
        } else {
            found
        }
    }

    fn call(&mut self, at: usize, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        // A namespace before the dot makes it a plain function.
        if let Some(space) = target.and_then(qualified)
            && self.variable(space.split('.').next().unwrap_or_default()).is_none()
            && let Some(found) = overloads(&format!("{space}.{function}"))
        {
            let types: Vec<Type> = args.iter().map(|a| self.expr(a)).collect();
            return self.resolve(at, &format!("{space}.{function}"), found, false, &types);
        }
        let Some(found) = overloads(function) else {
            if let Some(t) = target {
                self.expr(t);
            }
            args.iter().for_each(|a| {
                self.expr(a);
            });
            return self.fail(at, format!("undeclared reference to '{function}' (in container '')"));
        };
        let mut types: Vec<Type> = target.iter().map(|t| self.expr(t)).collect();
        // The arguments of a format may be of any types.
        self.mixed += usize::from(function == "format");
        types.extend(args.iter().map(|a| self.expr(a)));
        self.mixed -= usize::from(function == "format");
        if function == "format"
            && let (
                Some(Expr { node: Node::Literal(Literal::String(text)), .. }),
                Some(Expr { node: Node::List(items), at }),
            ) = (target, args.first())
            && let Err(e) = crate::library::format::check(text, items.len())
        {
            return self.fail(*at, e);
        }
        self.resolve(at, function, found, target.is_some(), &types)
    }

    fn resolve(
        &mut self,
        at: usize,
        function: &str,
        found: &[Overload],
        member: bool,
        given: &[Type],
    ) -> Type {
        let mut results: Vec<(Type, Substitution)> = Vec::new();
        for overload in found.iter().filter(|o| o.member == member && o.params.len() == given.len()) {
            let mut types = self.types.clone();
            let mut names = BTreeMap::new();
            let params: Vec<Type> =
                overload.params.iter().map(|p| types.instantiate(p, &mut names)).collect();
            let result = types.instantiate(&overload.result, &mut names);
            if params.iter().zip(given).all(|(p, g)| types.fits(p, g)) {
                results.push((types.resolve(&result, false), types));
            }
        }
        match results.len() {
            0 => {
                let shown: Vec<String> = given.iter().map(|t| self.show(t)).collect();
                let applied = match (member, shown.split_first()) {
                    (true, Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.fail(at, format!("found no matching overload for '{function}' applied to '{applied}'"))
            }
            1 => {
                let (result, types) = results.remove(0);
                self.types = types;
                result
            }
            _ => {
                let first = results[0].0.clone();
                let next = results.iter().map(|(_, t)| t.clone()).max_by_key(Substitution::age);
                if let Some(next) = next {
                    self.types.skip_to(&next);
                }
                if results.iter().all(|(r, _)| *r == first) && !matches!(first, Type::Param(_)) {
                    first
                } else {
                    Type::Dyn
                }
            }
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut element: Option<Type> = None;
        for (item, optional) in items {
            let given = self.expr(item);
            let given = match (self.types.resolve(&given, false), optional) {
                (Type::Optional(t), true) => (*t).clone(),
                (t, _) => t,
            };
            element = Some(self.same(item.at, element, given));
        }
        Type::list(element.unwrap_or_else(|| self.types.fresh()))
    }

    /// Elements of a literal are of one type.
    fn same(&mut self, at: usize, before: Option<Type>, given: Type) -> Type {
        let Some(before) = before else { return given };
        match self.types.join(&before, &given) {
            Some(t) => t,
            None if self.mixed > 0 => Type::Dyn,
            None => {
                let (want, got) = (self.show(&before), self.show(&given));
                self.fail(at, format!("expected type '{want}' but found '{got}'"));
                before
            }
        }
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Type {
        let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
        for (k, v, optional) in entries {
            let given = self.expr(k);
            key = Some(self.same(k.at, key, given));
            let given = self.expr(v);
            let given = match (self.types.resolve(&given, false), optional) {
                (Type::Optional(t), true) => (*t).clone(),
                (t, _) => t,
            };
            value = Some(self.same(v.at, value, given));
        }
        let key = key.unwrap_or_else(|| self.types.fresh());
        let value = value.unwrap_or_else(|| self.types.fresh());
        Type::Map(Arc::new(key), Arc::new(value))
    }

    fn walk(&mut self, at: usize, m: &Macro) -> Type {
        use MacroKind::{
            All, Exists, ExistsOne, Filter, Map, OptFlatMap, OptMap, SortBy, TransformList, TransformMap,
            TransformMapEntry,
        };
        let range = self.expr(&m.range);
        let range = self.types.resolve(&range, false);
        let optional = matches!(m.kind, OptMap | OptFlatMap);
        let (first, second, element) = match &range {
            Type::Optional(t) if optional => ((**t).clone(), None, (**t).clone()),
            Type::Dyn | Type::Param(_) => (Type::Dyn, Some(Type::Dyn), Type::Dyn),
            Type::List(t) if !optional => {
                let item = (**t).clone();
                if m.second.is_some() {
                    (Type::Int, Some(item.clone()), item)
                } else {
                    (item.clone(), None, item)
                }
            }
            Type::Map(k, v) if !optional => ((**k).clone(), Some((**v).clone()), (**k).clone()),
            other => {
                let shown = self.show(other);
                let what = if optional { "optional value" } else { "range of a comprehension" };
                let text =
                    format!("expression of type '{shown}' cannot be {what} (must be list, map, or dynamic)");
                return self.fail(m.range.at, text);
            }
        };
        let depth = self.scope.len();
        self.scope.push((m.var.clone(), first));
        if let (Some(name), Some(ty)) = (&m.second, second) {
            self.scope.push((name.clone(), ty));
        }
        if let Some(filter) = &m.filter {
            let given = self.expr(filter);
            self.boolean(filter.at, &given);
        }
        let body = self.expr(&m.body);
        self.scope.truncate(depth);
        match m.kind {
            All | Exists | ExistsOne => {
                self.boolean_part(at, m.kind, &body);
                Type::Bool
            }
            Filter => {
                self.boolean(m.body.at, &body);
                Type::list(element)
            }
            Map | TransformList => Type::list(body),
            SortBy => Type::list(element),
            TransformMap => {
                let key = if matches!(range, Type::List(_)) { Type::Int } else { element };
                Type::Map(Arc::new(key), Arc::new(body))
            }
            TransformMapEntry => body,
            OptMap => Type::optional(body),
            OptFlatMap => match self.types.resolve(&body, false) {
                t @ (Type::Optional(_) | Type::Dyn) => t,
                t => {
                    let shown = self.show(&t);
                    self.fail(m.body.at, format!("expected an optional value but found '{shown}'"))
                }
            },
        }
    }

    fn boolean(&mut self, at: usize, given: &Type) {
        if !self.types.fits(&Type::Bool, given) {
            let shown = self.show(given);
            self.fail(at, format!("expected type 'bool' but found '{shown}'"));
        }
    }

    /// cel-go expands these macros to logical operators, and so tells their errors.
    fn boolean_part(&mut self, at: usize, kind: MacroKind, given: &Type) {
        if self.types.clone().fits(&Type::Bool, given) {
            self.types.fits(&Type::Bool, given);
            return;
        }
        let shown = self.show(given);
        let text = match kind {
            MacroKind::All => format!("found no matching overload for '_&&_' applied to '(bool, {shown})'"),
            MacroKind::Exists => {
                format!("found no matching overload for '_||_' applied to '(bool, {shown})'")
            }
            _ => format!("found no matching overload for '_?_:_' applied to '({shown}, int, int)'"),
        };
        self.fail(at, text);
    }
}

fn literal(l: &Literal) -> Type {
    match l {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
