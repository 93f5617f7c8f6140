//! ValidatingAdmissionWebhook: webhooks that look at an object, all at once.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use knarr_machinery::ApiError;

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::rules::is_exempt;
use crate::state::Context;
use crate::versions::{Matcher, documents};
use crate::webhooks::{Failed, Snapshot, Step};

/// The plugin.
pub(crate) struct ValidatingAdmissionWebhook {
    snapshot: Arc<Snapshot>,
    matcher: Matcher,
}

impl ValidatingAdmissionWebhook {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            snapshot: Snapshot::follow::<ValidatingWebhookConfiguration>(context),
            matcher: Matcher::new(context),
        }
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation) -> bool {
        !self.snapshot.is_idle()
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if is_exempt(request) {
            return Ok(());
        }
        let server = &*self.matcher.server;
        let hooks = self.snapshot.load().await;
        let mut calls = Vec::new();
        for hook in hooks.iter() {
            let Some(target) = hook.target(&self.matcher, request).await? else { continue };
            let told = documents(server, request, &target).await?;
            if hook.wants(server, request, &target, (&told.0, &told.1)).await? {
                calls.push((hook, target, told));
            }
        }
        let asked = calls.iter().map(|(hook, target, told)| async move {
            let answer = hook.invoke(server, Step::Validating, request, target, (&told.0, &told.1)).await;
            match answer {
                Ok(_) => None,
                Err(Failed::Call(error)) if hook.ignores_failures => {
                    tracing::warn!(webhook = hook.name, %error, "a webhook failed and is ignored");
                    None
                }
                Err(Failed::Call(error) | Failed::Refused(error)) => Some(error),
            }
        });
        // All are asked, also after a refusal: they may have side effects to count on.
        match join_all(asked).await.into_iter().flatten().next() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
