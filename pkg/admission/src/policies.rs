//! Admission policies: policies and bindings as a snapshot that watches feed.
//!
//! Entry points: [`Policies`] and [`Policy`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use knarr_cel::{Patches, Type};
use knarr_client::{Cached, Event, Store};
use knarr_kinds::expressions::Environment;
use kube::ResourceExt as _;
use parking_lot::Mutex;
use serde_json::Value;

use crate::evaluate::{Compiled, Conditions, Variables};
use crate::ready::Ready;
use crate::rules::Criteria;
use crate::state::Context;

/// A policy, compiled.
#[derive(Debug)]
pub(crate) struct Policy {
    pub name: String,
    pub criteria: Criteria,
    pub conditions: Conditions,
    pub variables: Variables,
    /// Whether a request goes on when the policy cannot be evaluated.
    pub ignores_failures: bool,
    /// apiVersion and kind of the parameters.
    pub params: Option<(String, String)>,
    pub validations: Vec<Validation>,
    pub audit: Vec<(String, Compiled)>,
    pub mutations: Vec<Mutation>,
    pub reinvoked: bool,
}

/// A rule of a validating policy.
#[derive(Debug)]
pub(crate) struct Validation {
    pub rule: Compiled,
    pub computed: Option<Compiled>,
    pub message: String,
    pub reason: String,
}

/// A rule of a mutating policy.
#[derive(Debug)]
pub(crate) enum Mutation {
    /// A partial object that is laid over.
    Apply(Compiled),
    /// A list of operations.
    Patch(Compiled),
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub name: String,
    pub policy: String,
    pub criteria: Criteria,
    /// `paramRef`.
    pub params: Option<Value>,
    pub actions: Vec<String>,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Policy {
    pub(crate) fn new(document: &Value) -> Self {
        let spec = document.get("spec").unwrap_or(&Value::Null);
        let kind = spec.get("paramKind").filter(|k| !k.is_null());
        let plain = Environment::conditions(kind.is_some());
        let mut environment = plain.clone();
        let variables = Variables::compile(list(spec, "/variables"), &mut environment);
        let messages = Environment { authorizer: false, ..environment.clone() };
        let validation = |v: &Value| Validation {
            rule: Compiled::new(text(v, "/expression"), &environment, &[Type::Bool]),
            computed: Some(text(v, "/messageExpression"))
                .filter(|m| !m.trim().is_empty())
                .map(|m| Compiled::new(m, &messages, &[Type::String])),
            message: text(v, "/message").trim().to_string(),
            reason: Some(text(v, "/reason")).filter(|r| !r.is_empty()).unwrap_or("Invalid").to_string(),
        };
        let audit = |a: &Value| {
            let results = [Type::String, Type::Null];
            let value = Compiled::new(text(a, "/valueExpression"), &environment, &results);
            (text(a, "/key").to_string(), value)
        };
        let changes = Environment { patches: Patches::Allowed, ..environment.clone() };
        Self {
            name: text(document, "/metadata/name").to_string(),
            criteria: Criteria::new(spec.get("matchConstraints").unwrap_or(&Value::Null)),
            conditions: Conditions::new(spec.get("matchConditions"), &plain),
            ignores_failures: text(spec, "/failurePolicy") == "Ignore",
            params: kind.map(|k| (text(k, "/apiVersion").to_string(), text(k, "/kind").to_string())),
            validations: list(spec, "/validations").iter().map(validation).collect(),
            audit: list(spec, "/auditAnnotations").iter().map(audit).collect(),
            mutations: list(spec, "/mutations").iter().map(|m| mutation(m, &changes)).collect(),
            reinvoked: text(spec, "/reinvocationPolicy") == "IfNeeded",
            variables,
        }
    }
}

fn mutation(mutation: &Value, environment: &Environment) -> Mutation {
    if text(mutation, "/patchType") == "JSONPatch" {
        let results = [Type::list(Type::Message("JSONPatch".into()))];
        return Mutation::Patch(Compiled::new(
            text(mutation, "/jsonPatch/expression"),
            environment,
            &results,
        ));
    }
    let results = [Type::Message("Object".into())];
    Mutation::Apply(Compiled::new(text(mutation, "/applyConfiguration/expression"), environment, &results))
}

impl Binding {
    pub(crate) fn new(document: &Value) -> Self {
        let actions = list(document, "/spec/validationActions").iter();
        Self {
            name: text(document, "/metadata/name").to_string(),
            policy: text(document, "/spec/policyName").to_string(),
            criteria: Criteria::binding(document.pointer("/spec/matchResources")),
            params: document.pointer("/spec/paramRef").filter(|p| !p.is_null()).cloned(),
            actions: actions.filter_map(Value::as_str).map(str::to_string).collect(),
        }
    }
}

/// A policy in force: one that is bound.
#[derive(Debug)]
pub(crate) struct Bound {
    pub policy: Arc<Policy>,
    pub bindings: Vec<Arc<Binding>>,
}

#[derive(Default)]
struct Known {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl Known {
    fn bound(&self) -> Vec<Bound> {
        let of = |policy: &Arc<Policy>| Bound {
            policy: policy.clone(),
            bindings: self.bindings.values().filter(|b| b.policy == policy.name).cloned().collect(),
        };
        self.policies.values().map(of).filter(|b| !b.bindings.is_empty()).collect()
    }
}

/// The policies of one sort that are in force.
pub(crate) struct Policies {
    known: Mutex<Known>,
    bound: ArcSwap<Vec<Bound>>,
    ready: Ready,
}

impl Policies {
    /// Follows policies of one kind and bindings of another.
    pub(crate) fn follow<P: Cached, B: Cached>(context: &Context) -> Arc<Self> {
        let policies =
            Arc::new(Self { known: Mutex::default(), bound: ArcSwap::default(), ready: Ready::default() });
        let (definitions, bindings) = (context.informers.of::<P>(), context.informers.of::<B>());
        let follower = policies.clone();
        on_change(&definitions, move |name, document| {
            let policy = document.map(|d| Arc::new(Policy::new(d)));
            follower.change(|known| match policy {
                Some(policy) => drop(known.policies.insert(name, policy)),
                None => drop(known.policies.remove(&name)),
            });
        });
        let follower = policies.clone();
        on_change(&bindings, move |name, document| {
            let binding = document.map(|d| Arc::new(Binding::new(d)));
            follower.change(|known| match binding {
                Some(binding) => drop(known.bindings.insert(name, binding)),
                None => drop(known.bindings.remove(&name)),
            });
        });
        let waiting = policies.clone();
        tokio::spawn(async move {
            definitions.synced().await;
            bindings.synced().await;
            waiting.ready.set();
        });
        policies
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        change(&mut known);
        self.bound.store(Arc::new(known.bound()));
    }

    /// The policies in force; waits for the first complete list.
    pub(crate) async fn load(&self) -> Arc<Vec<Bound>> {
        self.ready.wait().await;
        self.bound.load_full()
    }

    /// Whether there is none: one look at two atomics.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_set() && self.bound.load().is_empty()
    }
}

fn on_change<K: Cached>(
    store: &Arc<Store<K>>,
    change: impl Fn(String, Option<&Value>) + Send + Sync + 'static,
) {
    store.on_event(move |event| match event {
        Event::Applied { new, .. } => match serde_json::to_value(&**new) {
            Ok(document) => change(new.name_any(), Some(&document)),
            Err(error) => tracing::error!(%error, "a policy or binding cannot be read"),
        },
        Event::Deleted(old) => change(old.name_any(), None),
    });
}
