//! NamespaceLifecycle: nothing is created where there is no namespace, or in one that is going away; the system's
//! own namespaces stay.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace;
use knarr_client::Store;
use knarr_machinery::status::Cause;
use knarr_machinery::{ApiError, GroupResource};

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// The plugin.
pub(crate) struct NamespaceLifecycle {
    namespaces: Arc<Store<Namespace>>,
    api: Api,
}

fn terminating(request: &Request<'_>) -> ApiError {
    let ns = request.namespace;
    request
        .forbidden(format!("unable to create new content in namespace {ns} because it is being terminated"))
        .with_causes(vec![Cause {
            reason: "NamespaceTerminating".to_string(),
            message: format!("namespace {ns} is being terminated"),
            field: "metadata.namespace".to_string(),
        }])
}

impl NamespaceLifecycle {
    pub(crate) fn new(context: &Context) -> Self {
        Self { namespaces: context.informers.of(), api: context.api.clone() }
    }

    /// The namespace's phase, or None when there is no such namespace.
    async fn phase(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.namespaces.synced().await;
        if let Some(ns) = self.namespaces.get("", name) {
            let phase = ns.status.as_ref().and_then(|s| s.phase.clone());
            return Ok(Some(phase.unwrap_or_default()));
        }
        // The view may be a moment old: the API decides, twice.
        for wait in [0, 50] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if let Some(ns) = self.api.get(&format!("/api/v1/namespaces/{name}")).await? {
                return Ok(Some(ns["status"]["phase"].as_str().unwrap_or_default().to_string()));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if request.operation == Operation::Delete {
            if request.is_main("", "namespaces") && IMMORTAL.contains(&request.name) {
                return Err(request.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let review = request.resource.group == "authorization.k8s.io";
        if request.namespace.is_empty() || request.is("", "namespaces") || review {
            return Ok(());
        }
        match self.phase(request.namespace).await? {
            None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), request.namespace)),
            Some(phase) if request.operation == Operation::Create && phase == "Terminating" => {
                Err(terminating(request))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use serde_json::json;

    #[test]
    fn terminating_text() {
        let mut case = Case::new(Operation::Create, "", "ConfigMap", "configmaps");
        case.object = Some(json!({"metadata": {"name": "a", "namespace": "n"}}));
        let e = terminating(&case.request());
        assert_eq!(
            e.message,
            "configmaps \"a\" is forbidden: unable to create new content in namespace n because it is being terminated"
        );
        assert_eq!(e.details.unwrap().causes[0].reason, "NamespaceTerminating");
    }
}
