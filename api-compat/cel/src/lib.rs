//! The Common Expression Language as Kubernetes uses it: rules of custom resources, and later policies.
//!
//! Entry point: [`Program::compile`], which checks types, and [`Program::evaluate`], which counts every step against
//! a limit: no evaluation runs without bounds. The libraries of Kubernetes are in `library`. No tokio, HTTP, disk or
//! clock here.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod ast;
pub mod authority;
mod check;
mod error;
mod eval;
mod functions;
mod lex;
pub(crate) mod library;
mod parse;
pub mod regex;
#[cfg(test)]
mod tests;
pub mod time;
pub mod types;
pub mod value;

pub use check::Patches;
pub use error::{CompileError, EvalError};
pub use types::{ObjectType, Type};
pub use value::{Fields, Message, Val, escape};

use ast::{Expr, Node};
use authority::Answers;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// A checked expression.
#[derive(Debug)]
pub struct Program {
    expr: Expr,
    variables: Vec<(String, Type)>,
    output: Type,
}

/// What a variable is bound to.
#[derive(Debug, Clone)]
pub enum Binding<'a> {
    /// A document.
    Value(&'a Json),
    /// A document that may be missing.
    Optional(Option<&'a Json>),
    /// A value that was computed before.
    Given(Val<'a>),
}

/// The result of an evaluation with what it cost.
#[derive(Debug)]
pub struct Evaluated<'a> {
    /// The result.
    pub value: Result<Val<'a>, EvalError>,
    /// Steps.
    pub cost: u64,
}

impl Program {
    /// Parses and checks an expression over variables.
    ///
    /// # Errors
    /// Every problem with its place.
    pub fn compile(source: &str, variables: Vec<(String, Type)>) -> Result<Self, CompileError> {
        Self::compile_for(source, variables, Patches::None)
    }

    /// As [`Program::compile`], for expressions that may make the structs of a change.
    ///
    /// # Errors
    /// Every problem with its place.
    pub fn compile_for(
        source: &str,
        variables: Vec<(String, Type)>,
        patches: Patches,
    ) -> Result<Self, CompileError> {
        let expr = parse::parse(source).map_err(|issue| error::report(source, vec![issue]))?;
        let output =
            check::check(&expr, &variables, patches).map_err(|issues| error::report(source, issues))?;
        Ok(Self { expr, variables, output })
    }

    /// The fields of a variable that the expression selects.
    pub fn selected(&self, variable: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        selected(&self.expr, variable, &mut found);
        found
    }

    /// The type of the result.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Whether the expression reads a variable.
    pub fn uses(&self, name: &str) -> bool {
        uses(&self.expr, name)
    }

    /// Evaluates with documents bound to the variables in their order, within `limit` steps.
    pub fn evaluate<'a>(&'a self, bindings: &[Binding<'a>], limit: u64) -> Evaluated<'a> {
        self.evaluate_with(bindings, limit, None)
    }

    /// As [`Program::evaluate`], with the authorizer's answers. A question that has none yet is noted there and
    /// makes the result void: it is put, and the evaluation done again.
    pub fn evaluate_with<'a>(
        &'a self,
        bindings: &[Binding<'a>],
        limit: u64,
        answers: Option<&'a Answers>,
    ) -> Evaluated<'a> {
        let bind = |((name, ty), binding): (&'a (String, Type), &Binding<'a>)| {
            let value = match (binding, ty) {
                (Binding::Given(value), _) => value.clone(),
                (Binding::Value(json), ty) => value::from_json(json, ty),
                (Binding::Optional(json), Type::Optional(inner)) => {
                    Val::Optional(json.map(|j| Box::new(value::from_json(j, inner))))
                }
                (Binding::Optional(json), _) => {
                    Val::Optional(json.map(|j| Box::new(value::from_json(j, &Type::Dyn))))
                }
            };
            (name.as_str(), value)
        };
        let scope = self.variables.iter().zip(bindings).map(bind).collect();
        let mut machine = eval::Machine::new(scope, limit, answers);
        let value = machine.run(&self.expr);
        Evaluated { value, cost: machine.cost }
    }
}

fn uses(expr: &Expr, name: &str) -> bool {
    match &expr.node {
        Node::Ident(n) => n == name,
        Node::Macro(m) if m.var == name || m.second.as_deref() == Some(name) => uses(&m.range, name),
        _ => parse::children(expr).into_iter().any(|e| uses(e, name)),
    }
}

fn selected(expr: &Expr, variable: &str, found: &mut BTreeSet<String>) {
    if let Node::Select { operand, field, .. } = &expr.node
        && matches!(&operand.node, Node::Ident(n) if n == variable)
    {
        found.insert(field.clone());
    }
    parse::children(expr).into_iter().for_each(|e| selected(e, variable, found));
}
