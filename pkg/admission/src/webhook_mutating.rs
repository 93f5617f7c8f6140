//! MutatingAdmissionWebhook: webhooks that change an object, one after the other.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, patch};
use serde_json::Value;

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::review::Answer;
use crate::rules::is_exempt;
use crate::state::Context;
use crate::versions::{Matcher, Target, converted, settle};
use crate::webhooks::{Failed, Snapshot, Step, Webhook};

/// The plugin.
pub(crate) struct MutatingAdmissionWebhook {
    snapshot: Arc<Snapshot>,
    matcher: Matcher,
}

impl MutatingAdmissionWebhook {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            snapshot: Snapshot::follow::<MutatingWebhookConfiguration>(context),
            matcher: Matcher::new(context),
        }
    }

    /// Asks one webhook and takes its patch; whether the object changed.
    async fn visit(&self, hook: &Webhook, request: &mut Request<'_>) -> Result<bool, ApiError> {
        let Some(target) = hook.target(&self.matcher, request).await? else { return Ok(false) };
        let server = &*self.matcher.server;
        let (object, old) = crate::versions::documents(server, request, &target).await?;
        if !hook.wants(server, request, &target, (&object, &old)).await? {
            return Ok(false);
        }
        // Who was not called in the first round is not called in the second.
        if request.rounds.second && !request.rounds.webhooks.due.contains(&hook.uid) {
            return Ok(false);
        }
        let answer = hook.invoke(server, Step::Admit, request, &target, (&object, &old)).await;
        let changed = match answer {
            Ok(answer) => self.take(hook, request, &target, object, &answer).await,
            Err(Failed::Call(error)) if hook.ignores_failures => {
                tracing::warn!(webhook = hook.name, %error, "a webhook failed and is ignored");
                Ok(false)
            }
            Err(Failed::Call(error) | Failed::Refused(error)) => Err(error),
        }?;
        if changed {
            request.rounds.webhooks.changed();
            request.rounds.wanted = true;
        }
        if hook.reinvoked {
            request.rounds.webhooks.willing.insert(hook.uid.clone());
        }
        Ok(changed)
    }

    async fn take(
        &self,
        hook: &Webhook,
        request: &mut Request<'_>,
        target: &Target,
        object: Value,
        answer: &Answer,
    ) -> Result<bool, ApiError> {
        let operations: Vec<Value> = if answer.patch.is_empty() {
            Vec::new()
        } else {
            serde_json::from_slice(&answer.patch).map_err(|e| {
                let text = "received undecodable patch in webhook response";
                ApiError::internal(format!("failed calling webhook {:?}: {text}: {e}", hook.name))
            })?
        };
        if operations.is_empty() {
            return Ok(false);
        }
        if request.object.is_none() {
            return Err(ApiError::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            )));
        }
        let mut patched = patch::json_patch_operations(&object, &operations)
            .map_err(|e| ApiError::internal(format!("patch of admission webhook {:?}: {e}", hook.name)))?;
        let kind: Option<&Kind> = target.convert.as_ref().or(request.served);
        if let Some(kind) = kind.filter(|k| k.info.gvk == target.kind) {
            settle(kind, &mut patched).map_err(ApiError::internal)?;
        }
        if patched == object {
            return Ok(false);
        }
        if let (Some(from), Some(to)) = (&target.convert, request.served) {
            patched = converted(&*self.matcher.server, from, to, &patched).await?;
        }
        request.object = Some(patched);
        Ok(true)
    }
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation) -> bool {
        !self.snapshot.is_idle()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if is_exempt(request) {
            return Ok(());
        }
        let hooks = self.snapshot.load().await;
        if request.rounds.second && request.rounds.webhooks.output.as_ref() != request.object.as_ref() {
            // Plugins changed the object after the webhooks had seen it.
            request.rounds.webhooks.changed();
        }
        for hook in hooks.iter() {
            self.visit(hook, request).await?;
        }
        if !request.rounds.second {
            request.rounds.webhooks.output = request.object.clone();
        }
        Ok(())
    }
}
