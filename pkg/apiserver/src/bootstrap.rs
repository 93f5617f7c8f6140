//! What every cluster has from the first start on: system namespaces and priority classes, the `kubernetes` service
//! with its endpoints; and the addresses that stored services hold.

use std::sync::Arc;

use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionResource, UserInfo};
use knarr_registry::update::Change;
use knarr_registry::{ListOptions, WriteContext, obj};
use serde_json::{Value, json};

use crate::server::Inner;

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Creates what is missing.
///
/// # Errors
/// When the registry refuses.
pub(crate) async fn run(server: &Arc<Inner>) -> Result<(), ApiError> {
    adopt_services(server).await?;
    for name in NAMESPACES {
        let object = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
        create(server, "", "namespaces", "", object).await?;
    }
    for class in knarr_admission::system_priority_classes() {
        create(server, "scheduling.k8s.io", "priorityclasses", "", class).await?;
    }
    if !server.config.client_ca_pem.is_empty() {
        put(server, "", "configmaps", "kube-system", extension_authentication(server), "data").await?;
    }
    create(server, "", "services", "default", kubernetes_service(server)).await?;
    publish(server).await
}

/// What extension API servers need to authenticate requests that come through the aggregator.
fn extension_authentication(server: &Inner) -> Value {
    let mut data = json!({"client-ca-file": server.config.client_ca_pem});
    if !server.config.request_header_ca_pem.is_empty() {
        data["requestheader-client-ca-file"] = server.config.request_header_ca_pem.clone().into();
        data["requestheader-allowed-names"] = r#"["system:auth-proxy"]"#.into();
        data["requestheader-username-headers"] = r#"["X-Remote-User"]"#.into();
        data["requestheader-group-headers"] = r#"["X-Remote-Group"]"#.into();
        data["requestheader-extra-headers-prefix"] = r#"["X-Remote-Extra-"]"#.into();
        data["requestheader-uid-headers"] = r#"["X-Remote-Uid"]"#.into();
    }
    json!({"kind": "ConfigMap", "apiVersion": "v1", "data": data,
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}})
}

/// Every stored service holds its addresses; services without one get theirs.
async fn adopt_services(server: &Arc<Inner>) -> Result<(), ApiError> {
    let kind = find(server, "", "services")?;
    let page = server.registry.list(&kind, "", &ListOptions::default()).await?;
    for entry in &page.entries {
        server.services.adopt(&entry.value()?);
    }
    Ok(())
}

fn kubernetes_service(server: &Inner) -> Value {
    let address = server.services.first_address().to_string();
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "targetPort": server.config.port, "protocol": "TCP"}],
        },
    })
}

/// The endpoints of the `kubernetes` service follow the advertised address.
async fn publish(server: &Arc<Inner>) -> Result<(), ApiError> {
    let (address, port) = (server.config.advertise_address, server.config.port);
    if address.is_loopback() || address.is_unspecified() {
        tracing::warn!(%address, "the advertised address cannot be reached by pods: the kubernetes service has no endpoints");
        return Ok(());
    }
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": "kubernetes", "labels": labels},
        "subsets": [{"addresses": [{"ip": address.to_string()}], "ports": ports}]});
    put(server, "", "endpoints", "default", endpoints, "subsets").await?;
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}], "ports": ports});
    put(server, "discovery.k8s.io", "endpointslices", "default", slice, "endpoints").await
}

/// Creates an object, or brings its `field` and ports up to date.
async fn put(
    server: &Arc<Inner>,
    group: &'static str,
    plural: &'static str,
    namespace: &str,
    object: Value,
    field: &str,
) -> Result<(), ApiError> {
    let kind = find(server, group, plural)?;
    let name = obj::name(&object).to_string();
    match server.registry.get_value(&kind, namespace, &name).await {
        Err(e) if e.is_not_found() => return create(server, group, plural, namespace, object).await,
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    let edit = |old: &Value| {
        let mut new = old.clone();
        for field in [field, "ports"] {
            if let Some(value) = object.get(field) {
                obj::map_mut(&mut new).insert(field.to_string(), value.clone());
            }
        }
        Ok(new)
    };
    let (user, hooks) = (user(), server.hooks());
    let context = WriteContext { name: &name, ..context(&kind, namespace, &user, &*hooks) };
    server.registry.change(&context, Change::Edit(&edit)).await.map(|_| ())
}

fn user() -> UserInfo {
    UserInfo::component("system:apiserver", &["system:masters"])
}

fn context<'a>(
    kind: &'a Kind,
    namespace: &'a str,
    user: &'a UserInfo,
    hooks: &'a dyn knarr_registry::Hooks,
) -> WriteContext<'a> {
    WriteContext {
        kind,
        namespace,
        name: "",
        subresource: None,
        user,
        manager: "knarr",
        dry_run: false,
        options: &Value::Null,
        hooks,
    }
}

fn find(server: &Inner, group: &'static str, plural: &'static str) -> Result<Kind, ApiError> {
    let gvr = GroupVersionResource::new(group, "v1", plural);
    let kind = server.registry.kinds().load().find(&gvr).cloned();
    kind.ok_or_else(|| ApiError::internal(format!("{plural} are not in the kind table")))
}

/// Creates an object unless it exists.
async fn create(
    server: &Arc<Inner>,
    group: &'static str,
    plural: &'static str,
    namespace: &str,
    object: Value,
) -> Result<(), ApiError> {
    let kind = find(server, group, plural)?;
    let (user, hooks) = (user(), server.hooks());
    match server.registry.create(&context(&kind, namespace, &user, &*hooks), object).await {
        Err(e) if e.reason != "AlreadyExists" => Err(e),
        _ => Ok(()),
    }
}
