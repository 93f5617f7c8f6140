//! Rules in CEL (`x-kubernetes-validations`): compiled once for a schema, run for every write, within a budget.

mod declare;

use std::collections::BTreeMap;

use knarr_cel::{Binding, EvalError, Evaluated, Program, Type, Val};
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::custom::definition::parts::field_path_text;
use crate::custom::lists::find_item;
use crate::custom::schema::{Rule, Schema};

/// Steps of one rule.
const CALL_MAX: u64 = 1_000_000;
/// Steps of all rules of one write.
const BUDGET: u64 = 10_000_000;
/// Bytes of a computed message.
const MESSAGE_MAX: usize = 5 * 1024;

/// The compiled rules of a schema.
#[derive(Debug)]
pub(crate) struct CelRules {
    root: Node,
}

/// The rules of one node of the schema, and of those below it; nodes without any are left out.
#[derive(Debug, Default)]
struct Node {
    /// Type of the node for values that are told in errors.
    ty: String,
    rules: Vec<Compiled>,
    items: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    program: Result<Program, String>,
    message: Option<Program>,
    uses_old: bool,
    /// `fieldPath` as it is told.
    path: Option<String>,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.items.is_none()
            && self.properties.is_empty()
            && self.additional.is_none()
    }
}

fn variables(rule: &Rule, ty: &Type) -> Vec<(String, Type)> {
    let optional = rule.optional_old_self == Some(true);
    let old = if optional { Type::optional(ty.clone()) } else { ty.clone() };
    vec![("self".to_string(), ty.clone()), ("oldSelf".to_string(), old)]
}

fn compile(rule: &Rule, schema: &Schema, ty: &Type) -> Compiled {
    let program = Program::compile(&rule.rule, variables(rule, ty))
        .map_err(|e| format!("compilation failed: {e}"))
        .and_then(|p| {
            if matches!(p.output(), Type::Bool) {
                Ok(p)
            } else {
                Err("cel expression must evaluate to a bool".into())
            }
        });
    let message = Some(&rule.message_expression)
        .filter(|m| !m.trim().is_empty())
        .and_then(|m| Program::compile(m, variables(rule, ty)).ok())
        .filter(|p| matches!(p.output(), Type::String));
    Compiled {
        uses_old: program.as_ref().is_ok_and(|p| p.uses("oldSelf")),
        path: field_path_text(schema, &rule.field_path),
        rule: rule.clone(),
        program,
        message,
    }
}

fn build(schema: &Schema, root: bool) -> Node {
    let mut node = Node { ty: schema.ty.clone(), ..Node::default() };
    if !schema.rules.is_empty()
        && let Some(ty) = declare::of(schema, root || schema.embedded)
    {
        node.rules = schema.rules.iter().map(|r| compile(r, schema, &ty)).collect();
    }
    node.items = schema.items.as_ref().map(|s| Box::new(build(s, false))).filter(|n| !n.is_empty());
    for (key, s) in &schema.properties {
        let below = build(s, false);
        if !below.is_empty() {
            node.properties.insert(key.clone(), below);
        }
    }
    node.additional = schema.additional_schema().map(|s| Box::new(build(s, false))).filter(|n| !n.is_empty());
    node
}

impl CelRules {
    /// None when there are no rules.
    pub fn new(schema: &Schema) -> Option<Self> {
        if !schema.any(&|s| !s.rules.is_empty()) {
            return None;
        }
        let root = build(schema, true);
        (!root.is_empty()).then_some(Self { root })
    }

    /// Errors of an object; rules about unchanged parts are tolerated.
    pub fn check(&self, schema: &Schema, obj: &Value, old: Option<&Value>) -> Vec<FieldError> {
        run(&self.root, schema, obj, old, &Path::new("")).errors
    }

    /// Errors that an update is spared because they are about what did not change.
    pub fn tolerated(&self, schema: &Schema, obj: &Value, old: &Value) -> Vec<FieldError> {
        run(&self.root, schema, obj, Some(old), &Path::new("")).tolerated
    }
}

fn run(node: &Node, schema: &Schema, obj: &Value, old: Option<&Value>, path: &Path) -> Walk {
    let mut walk = Walk { errors: Vec::new(), tolerated: Vec::new(), budget: BUDGET, over: false };
    walk.node(
        node,
        schema,
        obj,
        old,
        Tolerance { unchanged: old == Some(obj), correlated: old.is_some() },
        path,
    );
    walk
}

/// Errors of a default.
pub(crate) fn check_default(schema: &Schema, value: &Value, path: &Path) -> Vec<FieldError> {
    if !schema.any(&|s| !s.rules.is_empty()) {
        return Vec::new();
    }
    let node = build(schema, false);
    run(&node, schema, value, Some(value), path)
        .errors
        .into_iter()
        .chain(run(&node, schema, value, None, path).errors)
        .fold(Vec::new(), |mut all, e| {
            if !all.contains(&e) {
                all.push(e);
            }
            all
        })
}

/// Whether errors here are tolerated: the node, or the nearest ancestor with an old counterpart, is unchanged.
#[derive(Clone, Copy)]
struct Tolerance {
    unchanged: bool,
    correlated: bool,
}

struct Walk {
    errors: Vec<FieldError>,
    tolerated: Vec<FieldError>,
    budget: u64,
    over: bool,
}

impl Walk {
    fn node(
        &mut self,
        node: &Node,
        schema: &Schema,
        obj: &Value,
        old: Option<&Value>,
        tolerance: Tolerance,
        path: &Path,
    ) {
        if obj.is_null() || self.over {
            return;
        }
        let old = old.filter(|o| !o.is_null());
        for compiled in &node.rules {
            self.rule(compiled, node, obj, old, tolerance, path);
            if self.over {
                return;
            }
        }
        let below = |old: Option<&Value>, new: &Value| match old {
            Some(o) if tolerance.correlated => Tolerance { unchanged: o == new, correlated: true },
            _ => Tolerance { correlated: false, ..tolerance },
        };
        match obj {
            Value::Array(items) => {
                let (Some(n), Some(s)) = (&node.items, schema.items.as_deref()) else { return };
                let before = old.and_then(Value::as_array);
                for (i, item) in items.iter().enumerate() {
                    let counterpart = before.and_then(|b| find_item(schema, item, b));
                    self.node(n, s, item, counterpart, below(counterpart, item), &path.index(i));
                }
            }
            Value::Object(map) => {
                for (key, value) in map {
                    let counterpart = old.and_then(|o| o.get(key));
                    if let (Some(n), Some(s)) = (node.properties.get(key), schema.properties.get(key)) {
                        self.node(n, s, value, counterpart, below(counterpart, value), &path.child(key));
                    } else if let (Some(n), Some(s)) = (&node.additional, schema.additional_schema())
                        && !schema.properties.contains_key(key)
                    {
                        self.node(n, s, value, counterpart, below(counterpart, value), &path.key(key));
                    }
                }
            }
            _ => {}
        }
    }

    fn rule(
        &mut self,
        compiled: &Compiled,
        node: &Node,
        obj: &Value,
        old: Option<&Value>,
        tolerance: Tolerance,
        path: &Path,
    ) {
        let kind = Value::from(node.ty.as_str());
        let rule = &compiled.rule;
        let program = match &compiled.program {
            Ok(p) => p,
            Err(e) => {
                let text = format!("rule compile error: {e}");
                self.errors.push(FieldError::invalid(path, kind, text));
                return;
            }
        };
        let optional = rule.optional_old_self == Some(true);
        if compiled.uses_old && old.is_none() && !optional {
            return;
        }
        let bindings = bindings(obj, old, optional);
        let Evaluated { value, cost } = program.evaluate(&bindings, CALL_MAX);
        if cost > self.budget {
            let text = "validation failed due to running out of cost budget, no further validation rules will be run";
            self.stop(FieldError::invalid(path, kind, text));
            return;
        }
        self.budget -= cost;
        let told = rule_text(rule);
        match value {
            Ok(Val::Bool(true)) => {}
            Ok(_) => {
                let detail = self.message(compiled, &bindings).unwrap_or_else(|| default_message(rule));
                let spared = !compiled.uses_old && tolerance.unchanged;
                let errors = if spared { &mut self.tolerated } else { &mut self.errors };
                errors.push(failure(compiled, obj, path, detail));
            }
            Err(EvalError::CostLimit) => {
                let text = format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {told}",
                    EvalError::CostLimit
                );
                self.stop(FieldError::invalid(path, kind, text));
            }
            Err(EvalError::Failed(e)) if e.starts_with("no such overload") => {
                let text = format!(
                    "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {told}"
                );
                self.errors.push(FieldError::invalid(path, kind, text));
            }
            Err(EvalError::Failed(e)) => {
                self.errors.push(FieldError::invalid(path, kind, format!("{e} evaluating rule: {told}")));
            }
        }
    }

    fn stop(&mut self, error: FieldError) {
        self.errors.push(error);
        self.over = true;
    }

    /// The computed message; None when it cannot be had.
    fn message(&mut self, compiled: &Compiled, bindings: &[Binding<'_>]) -> Option<String> {
        let out = compiled.message.as_ref()?.evaluate(bindings, CALL_MAX.min(self.budget));
        self.budget = self.budget.saturating_sub(out.cost);
        let Ok(Val::String(text)) = out.value else { return None };
        let text = text.trim();
        let fits = !text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains(['\n', '\r']);
        fits.then(|| text.to_string())
    }
}

static NOTHING: Value = Value::Null;

fn bindings<'a>(obj: &'a Value, old: Option<&'a Value>, optional: bool) -> [Binding<'a>; 2] {
    let old = if optional { Binding::Optional(old) } else { Binding::Value(old.unwrap_or(&NOTHING)) };
    [Binding::Value(obj), old]
}

fn failure(compiled: &Compiled, obj: &Value, path: &Path, detail: String) -> FieldError {
    let at = match &compiled.path {
        Some(p) => path.child(p),
        None => path.clone(),
    };
    let value = obj.clone();
    let mut error = match compiled.rule.reason.as_deref() {
        Some("FieldValueRequired") => return FieldError::required(&at, detail),
        Some("FieldValueForbidden") => return FieldError::forbidden(&at, detail),
        Some("FieldValueDuplicate") => FieldError::duplicate(&at, value),
        _ => FieldError::invalid(&at, value, detail),
    };
    // Whole objects are not repeated.
    if obj.is_object() || obj.is_array() {
        error.value = None;
    }
    error
}

/// The rule, or the message that stands for it.
fn rule_text(rule: &Rule) -> &str {
    if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() }
}

fn default_message(rule: &Rule) -> String {
    if rule.message.is_empty() {
        format!("failed rule: {}", rule.rule.trim())
    } else {
        rule.message.trim().to_string()
    }
}

/// Errors of the rules of a definition: what does not compile, or could cost too much.
pub(crate) fn definition_errors(schema: &Schema, path: &Path) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema.any(&|s| !s.rules.is_empty()) {
        define(schema, true, path, None, &mut errors);
    }
    errors
}

/// `uncorrelated`: the outermost part above whose items have no old counterparts.
fn define(
    schema: &Schema,
    root: bool,
    path: &Path,
    uncorrelated: Option<&Path>,
    errors: &mut Vec<FieldError>,
) {
    for (key, s) in &schema.properties {
        define(s, false, &path.child("properties").key(key), uncorrelated, errors);
    }
    if let Some(s) = schema.additional_schema() {
        define(s, false, &path.child("additionalProperties"), uncorrelated, errors);
    }
    if let Some(s) = &schema.items {
        let keyed = schema.list_type.as_deref() == Some("map");
        let inner = uncorrelated.or((!keyed).then_some(path));
        define(s, false, &path.child("items"), inner, errors);
    }
    if schema.rules.is_empty() {
        return;
    }
    let at = path.child("x-kubernetes-validations");
    let Some(ty) = declare::of(schema, root || schema.embedded) else {
        errors.push(FieldError::internal(
            &at,
            "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations",
        ));
        return;
    };
    for (i, rule) in schema.rules.iter().enumerate() {
        let at = at.index(i);
        let compiled = compile(rule, schema, &ty);
        if let Err(e) = &compiled.program {
            errors.push(about_rule(&at.child("rule"), rule, e));
        } else if !rule.message_expression.trim().is_empty() {
            let text = match Program::compile(&rule.message_expression, variables(rule, &ty)) {
                Err(e) => Some(format!("messageExpression compilation failed: {e}")),
                Ok(p) if !matches!(p.output(), Type::String) => {
                    Some("messageExpression must evaluate to a string".to_string())
                }
                Ok(_) => None,
            };
            errors.extend(text.map(|t| about_rule(&at.child("messageExpression"), rule, &t)));
        }
        if compiled.uses_old {
            if let Some(part) = uncorrelated {
                let text = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {part}"
                );
                errors.push(FieldError::invalid(&at.child("rule"), rule.rule.as_str(), text));
            }
        } else if let (Some(given), Ok(_)) = (rule.optional_old_self, &compiled.program) {
            let text = "may not be set if oldSelf is not used in rule";
            errors.push(FieldError::invalid(&at.child("optionalOldSelf"), given, text));
        }
    }
}

/// An error that shows the rule in the order and escapes of Go.
fn about_rule(path: &Path, rule: &Rule, detail: &str) -> FieldError {
    let json =
        |v: Value| v.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let shown = format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        json(rule.rule.as_str().into()),
        json(rule.message.as_str().into()),
        json(rule.message_expression.as_str().into()),
        json(rule.reason.as_deref().map_or(Value::Null, Value::from)),
        json(rule.field_path.as_str().into()),
        json(rule.optional_old_self.map_or(Value::Null, Value::from)),
    );
    let mut error = FieldError::invalid(path, Value::Null, format!("{shown}: {detail}"));
    error.value = None;
    error
}
