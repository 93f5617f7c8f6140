//! MutatingAdmissionPolicy: expressions in CEL that change an object.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::admissionregistration::v1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding};
use knarr_cel::{Message, Val};
use knarr_kinds::Kind;
use knarr_machinery::status::Cause;
use knarr_machinery::{ApiError, overlay, patch};
use serde_json::{Map, Value};

use crate::Plugin;
use crate::evaluate::{Compiled, POLICY_BUDGET, Scene, Variables, Verdict};
use crate::params;
use crate::policies::{Binding, Mutation, Policies, Policy};
use crate::request::{Operation, Request};
use crate::rules::is_exempt;
use crate::state::{Api, Context};
use crate::versions::{Matcher, Target, converted, documents, settle};

/// The plugin.
pub(crate) struct MutatingPolicies {
    policies: Arc<Policies>,
    matcher: Matcher,
    api: Api,
}

/// One policy with one binding and one parameter.
struct Invocation<'a> {
    policy: &'a Policy,
    binding: &'a Binding,
    param: Value,
    target: Target,
}

impl Invocation<'_> {
    fn key(&self) -> String {
        let text = |p: &str| self.param.pointer(p).and_then(Value::as_str).unwrap_or("");
        let (policy, binding) = (&self.policy.name, &self.binding.name);
        format!("{policy}/{binding}/{}/{}", text("/metadata/namespace"), text("/metadata/name"))
    }

    fn refuse(&self, text: &str) -> String {
        let (policy, binding) = (&self.policy.name, &self.binding.name);
        format!("policy '{policy}' with binding '{binding}' denied request: {text}")
    }
}

impl MutatingPolicies {
    pub(crate) fn new(context: &Context) -> Self {
        let policies = Policies::follow::<MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding>(context);
        Self { policies, matcher: Matcher::new(context), api: context.api.clone() }
    }

    /// All that is to be done for a request, before anything is; what cannot be found out is added to `errors`.
    async fn invocations<'a>(
        &self,
        bound: &'a [crate::policies::Bound],
        request: &Request<'_>,
        errors: &mut Vec<String>,
    ) -> Vec<Invocation<'a>> {
        let mut found = Vec::new();
        for bound in bound {
            let policy = &*bound.policy;
            let mut failed = |text: String| {
                if !policy.ignores_failures {
                    errors.push(text);
                }
            };
            let target = match self.matcher.target(&policy.criteria, request).await {
                Ok(Some(target)) => target,
                Ok(None) => continue,
                Err(e) => {
                    let name = &policy.name;
                    failed(format!("policy {name:?} denied request: failed to configure policy: {e}"));
                    continue;
                }
            };
            for binding in &bound.bindings {
                let server = &*self.matcher.server;
                let params = match self.matcher.target(&binding.criteria, request).await {
                    Ok(None) => continue,
                    Ok(Some(_)) => {
                        params::collect(server, &self.api, policy, binding, request.namespace).await
                    }
                    Err(e) => Err(e.message),
                };
                let invocation = |param: Value| Invocation { policy, binding, param, target: target.clone() };
                match params {
                    Ok(params) => found.extend(params.into_iter().map(invocation)),
                    Err(e) => {
                        let text = format!("failed to configure binding: {e}");
                        failed(invocation(Value::Null).refuse(&text));
                    }
                }
            }
        }
        found
    }

    /// Runs the mutations of one invocation; whether the object changed.
    async fn run(
        &self,
        invocation: &Invocation<'_>,
        request: &mut Request<'_>,
        errors: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        let (policy, target) = (invocation.policy, &invocation.target);
        let server = &*self.matcher.server;
        let told = documents(server, request, target).await?;
        let before = told.0.clone();
        let mut scene = Scene::new(server, request, target, told);
        scene.params = invocation.param.clone();
        let mut failed = |text: &str| {
            if !policy.ignores_failures {
                errors.push(invocation.refuse(text));
            }
        };
        match policy.conditions.judge(&scene).await {
            Verdict::Matches => {}
            Verdict::Differs => return Ok(false),
            Verdict::Failed(error) => {
                failed(&error);
                return Ok(false);
            }
        }
        let key = invocation.key();
        if request.rounds.second && !request.rounds.policies.due.contains(&key) {
            return Ok(false);
        }
        scene.namespace = self.matcher.namespace_object(request).await?;
        let kind = target.convert.as_ref().or(request.served).filter(|k| k.info.gvk == target.kind);
        for mutation in &policy.mutations {
            if scene.object.is_null() {
                break;
            }
            match change(&scene, mutation, &policy.variables, kind).await {
                Ok(object) => scene.object = object,
                Err(error) => failed(&error),
            }
        }
        let changed = scene.object != before;
        if changed {
            let mut object = std::mem::take(&mut scene.object);
            drop(scene);
            if let (Some(from), Some(to)) = (&target.convert, request.served) {
                object = converted(server, from, to, &object).await?;
            }
            request.object = Some(object);
            request.rounds.policies.changed();
            request.rounds.wanted = true;
        }
        if policy.reinvoked {
            request.rounds.policies.willing.insert(key);
        }
        Ok(changed)
    }
}

/// The object after one mutation.
async fn change(
    scene: &Scene<'_>,
    mutation: &Mutation,
    variables: &Variables,
    kind: Option<&Kind>,
) -> Result<Value, String> {
    let mut object = match mutation {
        Mutation::Apply(compiled) => {
            let kind = kind.ok_or("the type of the object is not known")?;
            lay_over(scene, compiled, variables, kind).await?
        }
        Mutation::Patch(compiled) => patched(scene, compiled, variables).await?,
    };
    if let Some(kind) = kind {
        settle(kind, &mut object).map_err(|e| e.message)?;
    }
    Ok(object)
}

async fn lay_over(
    scene: &Scene<'_>,
    compiled: &Compiled,
    variables: &Variables,
    kind: &Kind,
) -> Result<Value, String> {
    let mut budget = POLICY_BUDGET;
    let value = scene.run(compiled, variables, &mut budget).await.map_err(|e| e.to_string())?;
    let Val::Message(message) = &value else {
        let found = value.type_name();
        return Err(format!("unsupported return type from ApplyConfiguration expression: {found}"));
    };
    check_names(message)?;
    let mut partial = value.to_json().map_err(|e| e.to_string())?;
    for key in ["apiVersion", "kind"] {
        partial[key] = scene.object[key].clone();
    }
    overlay::lay_over(&kind.info.types, &scene.object, &partial)
        .map_err(|e| format!("error applying patch: {e}"))
}

fn check_names(message: &Message<'_>) -> Result<(), String> {
    let wrong = message.misplaced();
    if wrong.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", wrong.join("\n"))) }
}

async fn patched(scene: &Scene<'_>, compiled: &Compiled, variables: &Variables) -> Result<Value, String> {
    let mut budget = POLICY_BUDGET;
    let value = scene.run(compiled, variables, &mut budget).await.map_err(|e| e.to_string())?;
    let Val::List(items) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    let mut object = scene.object.clone();
    for item in items.iter() {
        let Val::Message(message) = item else {
            let found = item.type_name();
            let text = "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch";
            return Err(format!("{text}, got element of {found}"));
        };
        if let Some(Val::Message(inner)) = message.fields.get("value") {
            check_names(inner)?;
        }
        let mut operation = Map::new();
        for (key, field) in &message.fields {
            operation.insert(key.clone(), field.to_json().map_err(|e| e.to_string())?);
        }
        let test = operation.get("op").is_some_and(|op| op == "test");
        match patch::json_patch_operations(&object, &[Value::Object(operation.clone())]) {
            Ok(next) => object = next,
            // A test that fails means that nothing is to be done.
            Err(_) if test => return Ok(scene.object.clone()),
            Err(_) => {
                return Err(format!("JSON Patch: cannot apply {}", Value::Object(operation)));
            }
        }
    }
    Ok(object)
}

/// The refusal as the client sees it.
fn denied(request: &Request<'_>, errors: &[String]) -> ApiError {
    let mut error = request.forbidden("admission request denied by policy");
    error.message = errors.first().cloned().unwrap_or_default();
    error.reason = "Invalid".to_string();
    let cause = |e: &String| Cause { message: e.clone(), ..Cause::default() };
    error.details.get_or_insert_default().causes.extend(errors.iter().map(cause));
    error
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation) -> bool {
        !self.policies.is_idle()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if is_exempt(request) {
            return Ok(());
        }
        let bound = self.policies.load().await;
        let mut errors = Vec::new();
        let invocations = self.invocations(&bound, request, &mut errors).await;
        if request.rounds.second && request.rounds.policies.output.as_ref() != request.object.as_ref() {
            // Others changed the object after the policies had seen it.
            request.rounds.policies.changed();
        }
        for invocation in &invocations {
            self.run(invocation, request, &mut errors).await?;
        }
        if !request.rounds.second {
            request.rounds.policies.output = request.object.clone();
        }
        if errors.is_empty() { Ok(()) } else { Err(denied(request, &errors)) }
    }
}
