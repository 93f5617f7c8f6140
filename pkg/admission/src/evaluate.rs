//! Expressions of match conditions and policies, evaluated for one request.
//!
//! Entry points: [`Compiled`], [`Variables`] and [`Scene`], which holds the documents of one evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_cel::authority::{Answers, Check};
use knarr_cel::{EvalError, Evaluated, Fields, Program, Type, Val};
use knarr_kinds::expressions::{Environment, Inputs};
use knarr_machinery::UserInfo;
use serde_json::Value;

use crate::request::{Operation, Request};
use crate::review::describe;
use crate::rules::namespace_of;
use crate::state::Server;
use crate::versions::Target;

/// Steps of one expression.
const CALL_MAX: u64 = 1_000_000;
/// Steps of the match conditions of one webhook or policy.
pub(crate) const CONDITIONS_BUDGET: u64 = 2_500_000;
/// Steps of the rules of one policy.
pub(crate) const POLICY_BUDGET: u64 = 10_000_000;
/// How often an expression may come up with new questions to the authorizer.
const QUESTIONS_MAX: usize = 64;

/// An expression, or why it is none.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub source: String,
    program: Result<Program, String>,
    environment: Environment,
}

impl Compiled {
    pub(crate) fn new(source: &str, environment: &Environment, results: &[Type]) -> Self {
        Self {
            source: source.to_string(),
            program: environment.compile(source, results),
            environment: environment.clone(),
        }
    }
}

/// The variables of a policy; each sees those before it.
#[derive(Debug, Default)]
pub(crate) struct Variables(Vec<(String, Compiled)>);

impl Variables {
    /// Compiles `spec.variables` one after the other; `environment` learns their types.
    pub(crate) fn compile(list: &[Value], environment: &mut Environment) -> Self {
        let mut all = Vec::new();
        for variable in list {
            let text = |key: &str| variable.get(key).and_then(Value::as_str).unwrap_or("");
            let compiled = Compiled::new(text("expression"), environment, &[]);
            let ty = compiled.program.as_ref().map_or(Type::Dyn, |p| p.output().clone());
            environment.variables.push((text("name").to_string(), ty));
            all.push((text("name").to_string(), compiled));
        }
        Self(all)
    }
}

/// Why an expression has no result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// All steps are used up: nothing more is evaluated.
    Budget,
    /// What went wrong.
    Error(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Budget => f.write_str(
                "validation failed due to running out of cost budget, no further validation rules will be run",
            ),
            Self::Error(text) => f.write_str(text),
        }
    }
}

/// The documents of an evaluation, and the authorizer's answers so far.
pub(crate) struct Scene<'s> {
    pub object: Value,
    pub old: Value,
    pub namespace: Value,
    pub request: Value,
    pub params: Value,
    resource: Check,
    answers: Answers,
    user: &'s UserInfo,
    server: &'s dyn Server,
}

impl<'s> Scene<'s> {
    pub(crate) fn new(
        server: &'s dyn Server,
        request: &Request<'s>,
        target: &Target,
        documents: (Value, Value),
    ) -> Self {
        let verb = match request.operation {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Connect => "connect",
        };
        let resource = Check {
            group: request.resource.group.to_string(),
            resource: request.resource.resource.to_string(),
            subresource: request.subresource.unwrap_or("").to_string(),
            namespace: namespace_of(request).to_string(),
            name: request.object_name().to_string(),
            verb: verb.to_string(),
            ..Check::default()
        };
        Self {
            object: documents.0,
            old: documents.1,
            namespace: Value::Null,
            request: Value::Object(describe(request, target)),
            params: Value::Null,
            resource,
            answers: Answers::default(),
            user: request.user,
            server,
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            object: &self.object,
            old: &self.old,
            namespace: &self.namespace,
            request: &self.request,
            params: &self.params,
            resource: self.resource.clone(),
        }
    }

    /// Evaluates an expression; what it costs is taken from the budget.
    pub(crate) async fn run<'a>(
        &'a self,
        compiled: &'a Compiled,
        variables: &'a Variables,
        budget: &mut u64,
    ) -> Result<Val<'a>, Failure> {
        let program = match &compiled.program {
            Ok(program) => program,
            Err(error) => return Err(Failure::Error(format!("compilation error: {error}"))),
        };
        for _ in 0..QUESTIONS_MAX {
            let result = self.once(compiled, program, variables, budget);
            let asked = self.answers.take_asked();
            if asked.is_empty() {
                return result.map_err(|error| self.explain(compiled, error));
            }
            drop(result);
            for check in asked {
                let decision = self.server.decide(self.user, &check).await;
                self.answers.answer(check, decision);
            }
        }
        Err(Failure::Error(format!("expression '{}' asks the authorizer too often", compiled.source)))
    }

    fn explain(&self, compiled: &Compiled, error: Option<EvalError>) -> Failure {
        match error {
            None => Failure::Budget,
            Some(error) => {
                Failure::Error(format!("expression '{}' resulted in error: {error}", compiled.source))
            }
        }
    }

    /// One evaluation; `Err(None)` is the end of the budget.
    fn once<'a>(
        &'a self,
        compiled: &'a Compiled,
        program: &'a Program,
        variables: &'a Variables,
        budget: &mut u64,
    ) -> Result<Val<'a>, Option<EvalError>> {
        let inputs = self.inputs();
        let mut fields: Fields<'a> = BTreeMap::new();
        for (name, variable) in needed(program, variables) {
            let given = Arc::new(fields.clone());
            let outcome = match &variable.program {
                Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
                Ok(program) => {
                    let bindings = variable.environment.bindings(&inputs, given);
                    let Evaluated { value, cost } =
                        program.evaluate_with(&bindings, CALL_MAX, Some(&self.answers));
                    spend(budget, cost)?;
                    value
                }
            };
            let outcome = outcome.map_err(|e| {
                EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {e}"))
            });
            fields.insert(name.to_string(), outcome);
        }
        let bindings = compiled.environment.bindings(&inputs, Arc::new(fields));
        let Evaluated { value, cost } = program.evaluate_with(&bindings, CALL_MAX, Some(&self.answers));
        spend(budget, cost)?;
        value.map_err(Some)
    }
}

fn spend(budget: &mut u64, cost: u64) -> Result<(), Option<EvalError>> {
    *budget = budget.checked_sub(cost).ok_or(None)?;
    Ok(())
}

/// The variables that a program reads, and those that they read, in the order of their declaration.
fn needed<'a>(program: &Program, variables: &'a Variables) -> Vec<(&'a str, &'a Compiled)> {
    let mut wanted = program.selected("variables");
    let mut found = Vec::new();
    for (name, compiled) in variables.0.iter().rev() {
        if wanted.contains(name) {
            wanted.extend(compiled.program.iter().flat_map(|p| p.selected("variables")));
            found.push((name.as_str(), compiled));
        }
    }
    found.reverse();
    found
}

/// Match conditions, compiled.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<Compiled>);

/// What match conditions say about a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// All are true.
    Matches,
    /// One is false.
    Differs,
    /// None is false, but some have no result.
    Failed(String),
}

impl Conditions {
    pub(crate) fn new(list: Option<&Value>, environment: &Environment) -> Self {
        let source = |c: &Value| c.get("expression").and_then(Value::as_str).unwrap_or("").to_string();
        let list = list.and_then(Value::as_array).into_iter().flatten();
        Self(list.map(|c| Compiled::new(&source(c), environment, &[Type::Bool])).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) async fn judge(&self, scene: &Scene<'_>) -> Verdict {
        let mut budget = CONDITIONS_BUDGET;
        let mut failures = Vec::new();
        let none = Variables::default();
        for condition in &self.0 {
            match scene.run(condition, &none, &mut budget).await {
                Ok(Val::Bool(true)) => {}
                Ok(Val::Bool(false)) => return Verdict::Differs,
                Ok(other) => failures.push(format!(
                    "expression '{}' is of type {}, not bool",
                    condition.source,
                    other.type_name()
                )),
                Err(failure @ Failure::Budget) => return Verdict::Failed(failure.to_string()),
                Err(failure) => failures.push(failure.to_string()),
            }
        }
        if failures.is_empty() {
            return Verdict::Matches;
        }
        Verdict::Failed(crate::request::aggregate(&failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use crate::state::testing::FakeServer;
    use serde_json::json;

    async fn with_scene<T>(f: impl AsyncFnOnce(&Scene<'_>) -> T) -> T {
        let server = FakeServer;
        let mut case = Case::new(Operation::Create, "apps", "Deployment", "deployments");
        case.object = Some(json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"replicas": 3}}));
        let request = case.request();
        let target = Target { resource: case.resource.clone(), kind: case.kind.clone(), convert: None };
        let documents = (request.new_object().clone(), Value::Null);
        f(&Scene::new(&server, &request, &target, documents)).await
    }

    #[tokio::test]
    async fn conditions() {
        let judge = async |expressions: &[&str]| {
            let list: Vec<Value> =
                expressions.iter().map(|e| json!({"name": "c", "expression": e})).collect();
            let conditions = Conditions::new(Some(&Value::from(list)), &Environment::conditions(false));
            with_scene(async |scene| conditions.judge(scene).await).await
        };
        assert_eq!(
            judge(&["object.spec.replicas == 3", "request.operation == 'CREATE'"]).await,
            Verdict::Matches
        );
        assert_eq!(judge(&["object.spec.nothing == 3", "false"]).await, Verdict::Differs);
        let failed = judge(&["true", "object.spec.nothing == 3"]).await;
        let want = "expression 'object.spec.nothing == 3' resulted in error: no such key: nothing";
        assert_eq!(failed, Verdict::Failed(want.into()));
        let broken = judge(&["nonsense("]).await;
        assert!(
            matches!(broken, Verdict::Failed(e) if e.starts_with("compilation error: compilation failed"))
        );
    }

    #[tokio::test]
    async fn asks_the_authorizer() {
        // The fake allows `get` only.
        for (source, want) in [
            ("authorizer.group('').resource('pods').namespace('n').check('get').allowed()", true),
            ("authorizer.group('').resource('pods').check('create').allowed()", false),
            ("authorizer.requestResource.check('get').allowed()", true),
            (
                "authorizer.path('/healthz').check('get').allowed() && authorizer.serviceAccount('a', 'b').path('/x').check('get').allowed()",
                true,
            ),
            ("authorizer.group('').resource('pods').check('create').reason() == 'only get'", true),
        ] {
            let compiled = Compiled::new(source, &Environment::conditions(false), &[]);
            let none = Variables::default();
            let value = with_scene(async |scene| {
                let mut budget = POLICY_BUDGET;
                scene.run(&compiled, &none, &mut budget).await.unwrap().to_json().unwrap()
            })
            .await;
            assert_eq!(value, json!(want), "{source}");
        }
    }

    #[tokio::test]
    async fn variables_build_on_each_other_and_fail_only_where_they_are_read() {
        let mut environment = Environment::conditions(false);
        let list = [
            json!({"name": "replicas", "expression": "object.spec.replicas"}),
            json!({"name": "odd", "expression": "variables.replicas % 2 == 1"}),
            json!({"name": "bad", "expression": "object.spec.nothing"}),
        ];
        let variables = Variables::compile(&list, &mut environment);
        for (source, want) in [
            ("variables.odd && variables.replicas == 3", Ok(json!(true))),
            ("true || variables.bad", Ok(json!(true))),
            ("variables.bad == 1", Err("fails to evaluate: no such key: nothing")),
        ] {
            let compiled = Compiled::new(source, &environment, &[]);
            let got = with_scene(async |scene| {
                let mut budget = POLICY_BUDGET;
                let value = scene.run(&compiled, &variables, &mut budget).await;
                value.map(|v| v.to_json().unwrap()).map_err(|e| e.to_string())
            })
            .await;
            match (got, want) {
                (Ok(a), Ok(b)) => assert_eq!(a, b, "{source}"),
                (Err(a), Err(b)) => assert!(a.contains(b), "{source}: {a}"),
                (a, b) => panic!("{source}: {a:?}, want {b:?}"),
            }
        }
    }
}
