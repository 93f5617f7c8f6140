//! Questions to the authorizer: `authorizer.group('').resource('pods').check('get').allowed()`.
//!
//! An evaluation is pure and the authorizer is not: expressions read [`Answers`], and what has no answer yet is noted
//! there. Whoever evaluates puts the noted questions and evaluates again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::EvalError;
use crate::eval::Machine;
use crate::value::Val;

/// A question, as far as it is put.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Check {
    /// Namespace and name of the service account that is asked about, instead of the request's user.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Field selector.
    pub field_selector: String,
    /// Label selector.
    pub label_selector: String,
    /// Verb.
    pub verb: String,
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `authorizer`.
    Authorizer,
    /// After `path`.
    Path,
    /// After `group`.
    Group,
    /// After `resource`.
    Resource,
}

impl Stage {
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::Path => "kubernetes.authorization.PathCheck",
            Self::Group => "kubernetes.authorization.GroupCheck",
            Self::Resource => "kubernetes.authorization.ResourceCheck",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, "" if nothing did.
    pub error: String,
}

/// The answers so far, and the questions that had none.
#[derive(Debug, Default)]
pub struct Answers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<Check, Decision>,
    asked: Vec<Check>,
}

impl Answers {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, check: &Check) -> Option<Decision> {
        let mut state = self.state();
        let known = state.known.get(check).cloned();
        if known.is_none() && !state.asked.contains(check) {
            state.asked.push(check.clone());
        }
        known
    }

    /// Takes the questions that had no answer.
    pub fn take_asked(&self) -> Vec<Check> {
        std::mem::take(&mut self.state().asked)
    }

    /// Answers a question.
    pub fn answer(&self, check: Check, decision: Decision) {
        self.state().known.insert(check, decision);
    }
}

/// The variable `authorizer`.
pub fn authorizer<'a>() -> Val<'a> {
    Val::Authority(Stage::Authorizer, Arc::default())
}

/// The variable `authorizer.requestResource`.
pub fn resource<'a>(check: Check) -> Val<'a> {
    Val::Authority(Stage::Resource, Arc::new(check))
}

pub(crate) fn call<'a>(machine: &Machine<'_>, name: &str, args: &[Val<'a>]) -> Result<Val<'a>, EvalError> {
    let text = |i: usize| match args.get(i) {
        Some(Val::String(s)) => Ok(s.to_string()),
        _ => Err(EvalError::overload()),
    };
    let (stage, check) = match args.first() {
        Some(Val::Authority(stage, check)) => (*stage, check),
        Some(Val::Decision(d)) => {
            return Ok(match name {
                "allowed" => Val::Bool(d.allowed),
                "reason" => Val::string(d.reason.clone()),
                "errored" => Val::Bool(!d.error.is_empty()),
                "error" => Val::string(d.error.clone()),
                _ => return Err(EvalError::overload()),
            });
        }
        _ => return Err(EvalError::overload()),
    };
    let mut next = Check::clone(check);
    let reached = match (stage, name) {
        (Stage::Authorizer, "path") => {
            next.path = Some(text(1)?);
            Stage::Path
        }
        (Stage::Authorizer, "serviceAccount") => {
            next.service_account = Some((text(1)?, text(2)?));
            Stage::Authorizer
        }
        (Stage::Authorizer, "group") => {
            next.group = text(1)?;
            Stage::Group
        }
        (Stage::Group, "resource") => {
            next.resource = text(1)?;
            Stage::Resource
        }
        (Stage::Resource, "subresource" | "namespace" | "name" | "fieldSelector" | "labelSelector") => {
            let field = match name {
                "subresource" => &mut next.subresource,
                "namespace" => &mut next.namespace,
                "name" => &mut next.name,
                "fieldSelector" => &mut next.field_selector,
                _ => &mut next.label_selector,
            };
            *field = text(1)?;
            Stage::Resource
        }
        (Stage::Path | Stage::Resource, "check") => {
            next.verb = text(1)?;
            return match machine.ask(&next) {
                Some(decision) => Ok(Val::Decision(Arc::new(decision))),
                None => Err(EvalError::text("the authorizer has not answered yet")),
            };
        }
        _ => return Err(EvalError::overload()),
    };
    Ok(Val::Authority(reached, Arc::new(next)))
}
