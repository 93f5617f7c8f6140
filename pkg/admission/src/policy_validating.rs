//! ValidatingAdmissionPolicy: rules in CEL that look at an object.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use knarr_cel::Val;
use knarr_machinery::ApiError;
use knarr_machinery::status::Cause;
use serde_json::Value;

use crate::Plugin;
use crate::evaluate::{Failure, POLICY_BUDGET, Scene, Verdict};
use crate::metrics::METRICS;
use crate::params;
use crate::policies::{Binding, Bound, Policies, Policy, Validation};
use crate::request::{Operation, Request};
use crate::rules::is_exempt;
use crate::state::{Api, Context};
use crate::versions::{Matcher, Target, documents};

/// Bytes of a computed message, and of an audit annotation.
const MESSAGE_MAX: usize = 5 * 1024;
const AUDIT_MAX: usize = 10 * 1024;

/// The plugin.
pub(crate) struct ValidatingPolicies {
    policies: Arc<Policies>,
    matcher: Matcher,
    api: Api,
}

/// A rule that was not kept, or could not be judged.
struct Refusal {
    message: String,
    reason: String,
}

impl Refusal {
    fn error(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: String::new() }
    }
}

/// A refusal with where it comes from.
struct Denial {
    policy: String,
    binding: Option<String>,
    refusal: Refusal,
}

impl ValidatingPolicies {
    pub(crate) fn new(context: &Context) -> Self {
        let policies =
            Policies::follow::<ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding>(context);
        Self { policies, matcher: Matcher::new(context), api: context.api.clone() }
    }

    async fn judge(&self, bound: &Bound, request: &Request<'_>) -> Result<Vec<Denial>, ApiError> {
        let policy = &bound.policy;
        let mut denials = Vec::new();
        let failed = |what: &str, binding: Option<&Binding>, error: String| Denial {
            policy: policy.name.clone(),
            binding: binding.map(|b| b.name.clone()),
            refusal: Refusal::error(format!("failed to configure {what}: {error}")),
        };
        let mut config = |denial: Denial| {
            if !policy.ignores_failures {
                denials.push(denial);
            }
        };
        let target = match self.matcher.target(&policy.criteria, request).await {
            Ok(Some(target)) => target,
            Ok(None) => return Ok(denials),
            Err(error) => {
                config(failed("policy", None, error.message));
                return Ok(denials);
            }
        };
        for binding in &bound.bindings {
            match self.matcher.target(&binding.criteria, request).await {
                Ok(Some(_)) => {}
                Ok(None) => continue,
                Err(error) => {
                    config(failed("binding", Some(binding), error.message));
                    continue;
                }
            }
            let server = &*self.matcher.server;
            let found = params::collect(server, &self.api, policy, binding, request.namespace).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    config(failed("binding", Some(binding), error));
                    continue;
                }
            };
            for param in found {
                for refusal in self.one(policy, request, &target, param).await? {
                    self.act(binding, policy, refusal, request, &mut |denial| config(denial));
                }
            }
        }
        Ok(denials)
    }

    /// What a binding does about a refusal.
    fn act(
        &self,
        binding: &Binding,
        policy: &Policy,
        refusal: Refusal,
        request: &Request<'_>,
        deny: &mut dyn FnMut(Denial),
    ) {
        for action in &binding.actions {
            METRICS.policy(&policy.name, &binding.name, &action.to_ascii_lowercase());
            let (policy, name, message) = (&policy.name, &binding.name, &refusal.message);
            match action.as_str() {
                "Deny" => deny(Denial {
                    policy: policy.clone(),
                    binding: Some(name.clone()),
                    refusal: Refusal { message: message.clone(), reason: refusal.reason.clone() },
                }),
                "Warn" => request.noted.add(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"
                )),
                // There is no audit log yet.
                _ => tracing::debug!(policy, binding = name, message, "validation failure to be audited"),
            }
        }
    }

    /// The refusals of a policy with one parameter.
    async fn one(
        &self,
        policy: &Policy,
        request: &Request<'_>,
        target: &Target,
        param: Value,
    ) -> Result<Vec<Refusal>, ApiError> {
        let server = &*self.matcher.server;
        let told = match documents(server, request, target).await {
            Ok(told) => told,
            Err(e) => return Ok(vec![Refusal::error(format!("failed to convert object version: {e}"))]),
        };
        let mut scene = Scene::new(server, request, target, told);
        scene.params = param;
        let unless_ignored =
            |refusal: Refusal| if policy.ignores_failures { Vec::new() } else { vec![refusal] };
        match policy.conditions.judge(&scene).await {
            Verdict::Matches => {}
            Verdict::Differs => return Ok(Vec::new()),
            Verdict::Failed(error) => return Ok(unless_ignored(Refusal::error(error))),
        }
        scene.namespace = self.matcher.namespace_object(request).await?;
        let mut budget = POLICY_BUDGET;
        let mut refusals = Vec::new();
        for validation in &policy.validations {
            match scene.run(&validation.rule, &policy.variables, &mut budget).await {
                Ok(Val::Bool(true)) => {}
                Ok(_) => {
                    let message = message(&scene, policy, validation, &mut budget).await;
                    refusals.push(Refusal { message, reason: validation.reason.clone() });
                }
                Err(failure @ Failure::Budget) => {
                    return Ok(unless_ignored(Refusal::error(failure.to_string())));
                }
                Err(failure) => refusals.extend(unless_ignored(Refusal::error(failure.to_string()))),
            }
        }
        let mut budget = POLICY_BUDGET;
        for (key, value) in &policy.audit {
            match scene.run(value, &policy.variables, &mut budget).await {
                Ok(Val::String(text)) if !text.trim().is_empty() => {
                    let text: String = text.trim().chars().take(AUDIT_MAX).collect();
                    tracing::debug!(policy = policy.name, key, text, "audit annotation of a policy");
                }
                Ok(_) => {}
                Err(failure) => refusals.extend(unless_ignored(Refusal::error(failure.to_string()))),
            }
        }
        Ok(refusals)
    }
}

/// What is told about a rule that was not kept.
async fn message(scene: &Scene<'_>, policy: &Policy, validation: &Validation, budget: &mut u64) -> String {
    if let Some(computed) = &validation.computed
        && let Ok(Val::String(text)) = scene.run(computed, &policy.variables, budget).await
    {
        let text = text.trim();
        if !text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n') {
            return text.to_string();
        }
    }
    if !validation.message.is_empty() {
        return validation.message.clone();
    }
    format!("failed expression: {}", validation.rule.source.trim())
}

/// The refusal as the client sees it.
fn denied(request: &Request<'_>, denial: &Denial) -> ApiError {
    let message = match &denial.binding {
        Some(binding) => format!(
            "ValidatingAdmissionPolicy '{}' with binding '{binding}' denied request: {}",
            denial.policy, denial.refusal.message
        ),
        None => format!(
            "ValidatingAdmissionPolicy '{}' denied request: {}",
            denial.policy, denial.refusal.message
        ),
    };
    let mut error = request.forbidden(&message);
    let reason = denial.refusal.reason.as_str();
    let reason = if reason.is_empty() { "Invalid" } else { reason };
    error.code = match reason {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    error.reason = reason.to_string();
    let cause = Cause { message, ..Cause::default() };
    error.details.get_or_insert_default().causes.push(cause);
    error
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation) -> bool {
        !self.policies.is_idle()
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if is_exempt(request) {
            return Ok(());
        }
        let mut denials = Vec::new();
        for bound in self.policies.load().await.iter() {
            denials.extend(self.judge(bound, request).await?);
        }
        match denials.first() {
            Some(first) => Err(denied(request, first)),
            None => Ok(()),
        }
    }
}
