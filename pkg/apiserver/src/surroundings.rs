//! What admission and conversion need of the server: versions of kinds, webhooks, the authorizer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use knarr_admission::CallError;
use knarr_auth::{Attributes, Decision as Judged, ResourceAttributes};
use knarr_cel::authority::{Check, Decision};
use knarr_kinds::{Conversion, Kind};
use knarr_machinery::fields::FieldSelector;
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource, UserInfo};
use knarr_registry::ConversionCaller;
use serde_json::Value;

use crate::outbound::Webhooks;
use crate::server::Inner;

/// The server as admission and the registry see it; it does not keep the server alive.
#[derive(Clone)]
pub(crate) struct Surroundings {
    server: Weak<Inner>,
    webhooks: Arc<Webhooks>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surroundings")
    }
}

impl Surroundings {
    pub(crate) fn new(server: &Arc<Inner>) -> Self {
        Self { server: Arc::downgrade(server), webhooks: Arc::default() }
    }

    fn server(&self) -> Result<Arc<Inner>, ApiError> {
        self.server.upgrade().ok_or_else(|| ApiError::unavailable("the server is shutting down"))
    }
}

/// A question as attributes of a request.
fn attributes(user: &UserInfo, check: &Check) -> Result<Attributes, String> {
    let user = match &check.service_account {
        None => user.clone(),
        Some((namespace, name)) => UserInfo {
            username: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".into(),
            ],
            ..UserInfo::default()
        },
    };
    if let Some(path) = &check.path {
        return Ok(Attributes { user, verb: check.verb.clone(), resource: None, path: path.clone() });
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
    let fields = some(&check.field_selector).map(|s| FieldSelector::parse(&s)).transpose();
    let labels = some(&check.label_selector).map(|s| Selector::parse(&s)).transpose();
    let resource = ResourceAttributes {
        group: check.group.clone(),
        version: "*".into(),
        resource: check.resource.clone(),
        subresource: check.subresource.clone(),
        namespace: check.namespace.clone(),
        name: check.name.clone(),
        field_selector: fields.map_err(|e| e.to_string())?,
        label_selector: labels.map_err(|e| e.to_string())?,
    };
    Ok(Attributes { user, verb: check.verb.clone(), resource: Some(resource), path: String::new() })
}

#[async_trait]
impl knarr_admission::Server for Surroundings {
    fn equivalents(&self, resource: &GroupVersionResource) -> Vec<Kind> {
        let Some(server) = self.server.upgrade() else { return Vec::new() };
        let table = server.registry.kinds().load();
        let Some(own) = table.find(resource) else { return Vec::new() };
        let Some(storage) = own.info.storage.as_ref() else { return Vec::new() };
        let alike = |k: &&Kind| {
            k.info.storage.as_ref().is_some_and(|s| s.resource == storage.resource)
                && k.info.gvk != own.info.gvk
        };
        table.all().iter().filter(alike).cloned().collect()
    }

    fn kind(&self, gvk: &GroupVersionKind) -> Option<Kind> {
        self.server.upgrade()?.registry.kinds().load().find_kind(gvk).cloned()
    }

    async fn convert(&self, from: &Kind, to: &Kind, document: Value) -> Result<Value, ApiError> {
        self.server()?.registry.convert(from, to, document).await
    }

    async fn call(&self, client: &Value, limit: Duration, review: &Value) -> Result<Value, CallError> {
        self.webhooks.post(&self.server, client, Some(limit), review).await
    }

    async fn decide(&self, user: &UserInfo, check: &Check) -> Decision {
        let Ok(server) = self.server() else {
            return Decision { error: "the server is shutting down".into(), ..Decision::default() };
        };
        let attributes = match attributes(user, check) {
            Ok(attributes) => attributes,
            Err(error) => return Decision { error, ..Decision::default() },
        };
        match server.authorizer().authorize(&attributes).await {
            Judged::Allow(reason) => Decision { allowed: true, reason, error: String::new() },
            Judged::Deny(reason) | Judged::NoOpinion(reason) => {
                Decision { allowed: false, reason, error: String::new() }
            }
        }
    }
}

#[async_trait]
impl ConversionCaller for Surroundings {
    async fn call(&self, conversion: &Conversion, review: &Value) -> Result<Value, String> {
        self.webhooks.post(&self.server, &conversion.client, None, review).await.map_err(|e| e.message)
    }
}
