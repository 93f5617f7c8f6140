//! The evaluator: walks the tree, counting every step against a limit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ast::{Expr, Literal, Macro, MacroKind, Node};
use crate::authority::{Answers, Check, Decision};
use crate::check::{qualified, type_named};
use crate::error::EvalError;
use crate::functions::overloads;
use crate::library;
use crate::value::{Message, Val};

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Machine<'a> {
    scope: Vec<(&'a str, Val<'a>)>,
    pub cost: u64,
    limit: u64,
    answers: Option<&'a Answers>,
}

impl<'a> Machine<'a> {
    pub fn new(scope: Vec<(&'a str, Val<'a>)>, limit: u64, answers: Option<&'a Answers>) -> Self {
        Self { scope, cost: 0, limit, answers }
    }

    /// What the authorizer has answered; asked anew where it has not.
    pub fn ask(&self, check: &Check) -> Option<Decision> {
        self.answers.and_then(|a| a.get(check))
    }

    /// Counts steps.
    pub fn charge(&mut self, steps: usize) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(steps as u64);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn variable(&self, name: &str) -> Option<&Val<'a>> {
        self.scope.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn run(&mut self, expr: &'a Expr) -> Outcome<'a> {
        match &expr.node {
            Node::Literal(l) => Ok(literal(l)),
            Node::Ident(name) => {
                self.charge(1)?;
                match self.variable(name) {
                    Some(v) => Ok(v.clone()),
                    None if type_named(name).is_some() => Ok(Val::Type(name.clone())),
                    None => Err(EvalError::text(format!("no such attribute(s): {name}"))),
                }
            }
            Node::Select { operand, field, test, optional } => {
                self.select(expr, operand, field, *test, *optional)
            }
            Node::And(list) => self.logical(list, false),
            Node::Or(list) => self.logical(list, true),
            Node::Call { function, target, args } => self.call(function, target.as_deref(), args),
            Node::List(items) => {
                self.charge(10)?;
                let mut out = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    match (self.run(item)?, optional) {
                        (Val::Optional(v), true) => out.extend(v.map(|v| *v)),
                        (v, _) => out.push(v),
                    }
                }
                Ok(Val::list(out))
            }
            Node::Map(entries) => {
                self.charge(30)?;
                let mut out = BTreeMap::new();
                for (k, v, optional) in entries {
                    let key = self.run(k)?;
                    let value = match (self.run(v)?, optional) {
                        (Val::Optional(None), true) => continue,
                        (Val::Optional(Some(v)), true) => *v,
                        (v, _) => v,
                    };
                    insert(&mut out, key, value)?;
                }
                Ok(Val::Map(Arc::new(out)))
            }
            Node::Macro(m) => self.walk(m),
            Node::Struct { name, fields } => {
                self.charge(40)?;
                let mut out = BTreeMap::new();
                for (field, value, optional) in fields {
                    let value = match (self.run(value)?, optional) {
                        (Val::Optional(None), true) => continue,
                        (Val::Optional(Some(v)), true) => *v,
                        (v, _) => v,
                    };
                    out.insert(field.clone(), value);
                }
                Ok(Val::Message(Arc::new(Message { name: name.clone(), fields: out })))
            }
        }
    }

    fn select(
        &mut self,
        expr: &'a Expr,
        operand: &'a Expr,
        field: &'a str,
        test: bool,
        optional: bool,
    ) -> Outcome<'a> {
        if !test && let Some(value) = qualified(expr).and_then(|name| self.variable(&name)) {
            return Ok(value.clone());
        }
        if !test
            && let Some(name) = qualified(expr)
            && self.variable(name.split('.').next().unwrap_or_default()).is_none()
            && type_named(&name).is_some()
        {
            return Ok(Val::Type(name));
        }
        let given = self.run(operand)?;
        self.charge(1)?;
        let (inner, chained) = match given {
            Val::Optional(None) if test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(v)) => (*v, true),
            v => (v, false),
        };
        if let Val::Fields(fields) = &inner
            && let Some(Err(error)) = fields.get(field)
        {
            return Err(error.clone());
        }
        let found = inner.field(field);
        if test {
            return Ok(Val::Bool(found.is_some()));
        }
        if optional || chained {
            return Ok(match found {
                Some(v @ Val::Optional(_)) => v,
                other => Val::Optional(other.map(Box::new)),
            });
        }
        found.ok_or_else(|| match inner {
            Val::Map(_) | Val::Json(..) => EvalError::text(format!("no such key: {field}")),
            _ => EvalError::overload(),
        })
    }

    /// `&&` and `||`: a decisive operand outweighs errors of others.
    fn logical(&mut self, list: &'a [Expr], decisive: bool) -> Outcome<'a> {
        let mut failed = None;
        for expr in list {
            match self.run(expr) {
                Ok(Val::Bool(b)) if b == decisive => return Ok(Val::Bool(b)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(EvalError::overload())),
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(e) => failed = failed.or(Some(e)),
            }
            self.charge(1)?;
        }
        failed.map_or(Ok(Val::Bool(!decisive)), Err)
    }

    fn call(&mut self, function: &'a str, target: Option<&'a Expr>, args: &'a [Expr]) -> Outcome<'a> {
        if function == "_?_:_" {
            let [condition, yes, no] = args else { return Err(EvalError::overload()) };
            let chosen = match self.run(condition)? {
                Val::Bool(true) => yes,
                Val::Bool(false) => no,
                _ => return Err(EvalError::overload()),
            };
            self.charge(1)?;
            return self.run(chosen);
        }
        if let Some(space) = target.and_then(qualified)
            && self.variable(space.split('.').next().unwrap_or_default()).is_none()
        {
            let name = format!("{space}.{function}");
            if overloads(&name).is_some() {
                let values = args.iter().map(|a| self.run(a)).collect::<Result<Vec<_>, _>>()?;
                return library::call(self, &name, false, values);
            }
        }
        // The second value of an optional is needed only without a first one.
        if let (Some(target), "or" | "orValue") = (target, function) {
            let given = self.run(target)?;
            self.charge(1)?;
            return match (given, function) {
                (Val::Optional(Some(v)), "orValue") => Ok(*v),
                (Val::Optional(Some(v)), _) => Ok(Val::Optional(Some(v))),
                (Val::Optional(None), _) => args.first().map_or(Err(EvalError::overload()), |a| self.run(a)),
                _ => Err(EvalError::overload()),
            };
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        if let Some(t) = target {
            values.push(self.run(t)?);
        }
        for a in args {
            values.push(self.run(a)?);
        }
        library::call(self, function, target.is_some(), values)
    }

    fn with<T>(
        &mut self,
        m: &'a Macro,
        first: Val<'a>,
        second: Option<Val<'a>>,
        f: impl FnOnce(&mut Self) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let depth = self.scope.len();
        self.scope.push((&m.var, first));
        if let (Some(name), Some(v)) = (&m.second, second) {
            self.scope.push((name, v));
        }
        let out = f(self);
        self.scope.truncate(depth);
        out
    }

    fn walk(&mut self, m: &'a Macro) -> Outcome<'a> {
        let range = self.run(&m.range)?;
        if matches!(m.kind, MacroKind::OptMap | MacroKind::OptFlatMap) {
            let Val::Optional(inner) = range else { return Err(EvalError::overload()) };
            let Some(v) = inner else { return Ok(Val::Optional(None)) };
            let out = self.with(m, *v, None, |s| s.run(&m.body))?;
            let plain = m.kind == MacroKind::OptMap;
            return Ok(if plain { Val::Optional(Some(Box::new(out))) } else { out });
        }
        let pairs: Vec<(Val<'a>, Option<Val<'a>>)> = match (range.items(), range.entries()) {
            (Some(items), _) if m.second.is_some() => {
                items.into_iter().enumerate().map(|(i, v)| (index(i), Some(v))).collect()
            }
            (Some(items), _) => items.into_iter().map(|v| (v, None)).collect(),
            (_, Some(entries)) => entries.into_iter().map(|(k, v)| (k, Some(v))).collect(),
            _ => return Err(EvalError::overload()),
        };
        match m.kind {
            MacroKind::All | MacroKind::Exists => self.any_or_all(m, pairs),
            MacroKind::ExistsOne => {
                let mut count = 0;
                for (first, second) in pairs {
                    self.charge(4)?;
                    match self.with(m, first, second, |s| s.run(&m.body))? {
                        Val::Bool(true) => count += 1,
                        Val::Bool(false) => {}
                        _ => return Err(EvalError::overload()),
                    }
                }
                Ok(Val::Bool(count == 1))
            }
            MacroKind::SortBy => self.sort_by(m, pairs),
            _ => self.build(m, pairs),
        }
    }

    fn any_or_all(&mut self, m: &'a Macro, pairs: Vec<(Val<'a>, Option<Val<'a>>)>) -> Outcome<'a> {
        let decisive = m.kind == MacroKind::Exists;
        let mut failed = None;
        for (first, second) in pairs {
            self.charge(4)?;
            match self.with(m, first, second, |s| s.run(&m.body)) {
                Ok(Val::Bool(b)) if b == decisive => return Ok(Val::Bool(b)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(EvalError::overload())),
                Err(EvalError::CostLimit) => return Err(EvalError::CostLimit),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(Val::Bool(!decisive)), Err)
    }

    fn sort_by(&mut self, m: &'a Macro, pairs: Vec<(Val<'a>, Option<Val<'a>>)>) -> Outcome<'a> {
        let mut keyed = Vec::with_capacity(pairs.len());
        for (first, second) in pairs {
            self.charge(4)?;
            let key = self.with(m, first.clone(), second, |s| s.run(&m.body))?;
            keyed.push((key, first));
        }
        self.charge(keyed.len() * 4)?;
        library::lists::sort_keyed(&mut keyed)?;
        Ok(Val::list(keyed.into_iter().map(|(_, v)| v).collect()))
    }

    fn build(&mut self, m: &'a Macro, pairs: Vec<(Val<'a>, Option<Val<'a>>)>) -> Outcome<'a> {
        let mut list = Vec::new();
        let mut map = BTreeMap::new();
        for (first, second) in pairs {
            self.charge(4)?;
            let kept = first.clone();
            let out = self.with(m, first, second, |s| {
                if let Some(filter) = &m.filter {
                    match s.run(filter)? {
                        Val::Bool(true) => {}
                        Val::Bool(false) => return Ok(None),
                        _ => return Err(EvalError::overload()),
                    }
                }
                s.run(&m.body).map(Some)
            })?;
            let Some(out) = out else { continue };
            match m.kind {
                MacroKind::Filter => match out {
                    Val::Bool(true) => list.push(kept),
                    Val::Bool(false) => {}
                    _ => return Err(EvalError::overload()),
                },
                MacroKind::TransformMap => insert(&mut map, kept, out)?,
                MacroKind::TransformMapEntry => {
                    for (k, v) in out.entries().ok_or_else(EvalError::overload)? {
                        insert(&mut map, k, v)?;
                    }
                }
                _ => list.push(out),
            }
        }
        Ok(match m.kind {
            MacroKind::TransformMap | MacroKind::TransformMapEntry => Val::Map(Arc::new(map)),
            _ => Val::list(list),
        })
    }
}

fn index<'a>(i: usize) -> Val<'a> {
    Val::Int(i64::try_from(i).unwrap_or(i64::MAX))
}

fn insert<'a>(
    map: &mut BTreeMap<String, (Val<'a>, Val<'a>)>,
    key: Val<'a>,
    value: Val<'a>,
) -> Result<(), EvalError> {
    let Some(text) = key.key() else {
        return Err(EvalError::text(format!("unsupported key type: {}", key.type_name())));
    };
    if map.insert(text, (key, value)).is_some() {
        return Err(EvalError::text("Failed with repeated key"));
    }
    Ok(())
}

fn literal(l: &Literal) -> Val<'_> {
    match l {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::String(s) => Val::String(Cow::Borrowed(s)),
        Literal::Bytes(b) => Val::Bytes(b.as_slice().into()),
    }
}
