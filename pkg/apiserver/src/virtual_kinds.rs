//! Kinds that are computed when they are read: component statuses, and what components of this process add (metrics).

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use knarr_kinds::Kind;
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, GroupVersionKind};
use knarr_registry::obj;
use serde_json::{Value, json};

use crate::resource::{encoder, namespace};
use crate::server::{ApiServer, Call, Inner};
use crate::{listing, respond};

/// Computes the objects of a kind.
#[async_trait]
pub trait VirtualSource: Send + Sync {
    /// All objects, of one namespace unless it is "".
    ///
    /// # Errors
    /// When they cannot be told now.
    async fn list(&self, namespace: &str) -> Result<Vec<Value>, ApiError>;
}

impl ApiServer {
    /// Serves a kind without storage (get and list) from a source. Discovery, OpenAPI and Table follow from the kind.
    pub fn add_virtual(&self, kind: Kind, source: Arc<dyn VirtualSource>) {
        self.inner().sources.write().insert(kind.info.gvk.clone(), source);
        let known = self.registry().kinds().load().find_kind(&kind.info.gvk).is_some();
        if !known {
            self.registry().kinds().add(vec![kind]);
        }
    }
}

/// Sources by kind.
pub(crate) type Sources =
    parking_lot::RwLock<std::collections::HashMap<GroupVersionKind, Arc<dyn VirtualSource>>>;

/// GET of an object or of the list.
///
/// # Errors
/// 405 for kinds without a source, 404 for missing objects, 400 for selectors.
pub(crate) async fn read(server: &Arc<Inner>, kind: &Kind, call: &Call) -> Result<Response, ApiError> {
    let encoder = encoder(kind, call)?;
    let named = call.info.verb == "get";
    let source = server.sources.read().get(&kind.info.gvk).cloned();
    let mut items = match source {
        Some(source) => source.list(namespace(kind, call)).await?,
        None if is_component_status(kind) => component_statuses(server),
        None => return Err(ApiError::method_not_allowed()),
    };
    for item in &mut items {
        obj::set_gvk(item, &kind.info.gvk);
    }
    let media = encoder.accepted().format.media_type();
    if named {
        let found = items.iter().find(|i| obj::name(i) == call.info.name);
        let found = found.ok_or_else(|| ApiError::not_found(&kind.info.group_resource(), &call.info.name))?;
        return Ok(respond::bytes(200, media, encoder.document(found)?));
    }
    let selector = call.query.text("labelSelector");
    if !selector.is_empty() {
        let selector = Selector::parse(selector).map_err(ApiError::bad_request)?;
        items.retain(|item| {
            let labels = item.pointer("/metadata/labels");
            selector.matches_fn(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
        });
    }
    if !call.info.name.is_empty() {
        items.retain(|i| obj::name(i) == call.info.name);
    }
    let revision = server.registry.store().revision();
    Ok(respond::bytes(200, media, listing::encode_values(&encoder, &items, revision)?))
}

fn is_component_status(kind: &Kind) -> bool {
    kind.info.gvk.group.is_empty() && kind.info.plural == "componentstatuses"
}

/// The readiness checks of this process, as the old ComponentStatus tells them.
fn component_statuses(server: &Inner) -> Vec<Value> {
    let told = server.ready.run().into_iter().map(|(name, result)| {
        let (status, message) = match result {
            Ok(()) => ("True", "ok".to_string()),
            Err(error) => ("False", error),
        };
        json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": status, "message": message}]})
    });
    told.collect()
}
