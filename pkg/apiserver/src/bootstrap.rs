//! What every cluster has from the first start on: the system namespaces.

use std::sync::Arc;

use knarr_machinery::{ApiError, GroupVersionResource, UserInfo};
use knarr_registry::{AllowAll, WriteContext};
use serde_json::{Value, json};

use crate::server::Inner;

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Creates what is missing.
///
/// # Errors
/// When the registry refuses.
pub(crate) async fn run(server: &Arc<Inner>) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let object = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
        create(server, "", "namespaces", "", object).await?;
    }
    Ok(())
}

/// Creates an object of a core or other kind, unless it exists.
pub(crate) async fn create(
    server: &Arc<Inner>,
    group: &'static str,
    plural: &'static str,
    namespace: &str,
    object: Value,
) -> Result<(), ApiError> {
    let gvr = GroupVersionResource::new(group, "v1", plural);
    let kind = server
        .registry
        .kinds()
        .load()
        .find(&gvr)
        .cloned()
        .ok_or_else(|| ApiError::internal(format!("{plural} are not in the kind table")))?;
    let user = UserInfo::component("system:apiserver", &["system:masters"]);
    let context = WriteContext {
        kind: &kind,
        namespace,
        name: "",
        subresource: None,
        user: &user,
        manager: "knarr",
        dry_run: false,
        options: &Value::Null,
        hooks: &AllowAll,
    };
    match server.registry.create(&context, object).await {
        Err(e) if e.reason != "AlreadyExists" => Err(e),
        _ => Ok(()),
    }
}
