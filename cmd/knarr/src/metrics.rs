//! The built-in `metrics.k8s.io/v1beta1`: computed from the kubelets' summaries whenever somebody asks.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use knarr_addons::metrics::{Fetch, Source};
use knarr_addons::metrics_api::{GROUP, VERSION};
use knarr_addons::roles::ADDONS_USER;
use knarr_apiserver::virtual_kinds::VirtualSource;
use knarr_kinds::{Column, Kind, KindInfo, Rules, Scope, Verb};
use knarr_machinery::{ApiError, GroupVersionKind};
use serde_json::Value;

use crate::server::Wiring;

/// Metrics are never written, so there is nothing to default or validate.
struct ReadOnly;

impl Rules for ReadOnly {
    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    fn row(&self, obj: &Value, _now: &str) -> Vec<Value> {
        vec![obj["metadata"]["name"].clone(), obj["window"].clone()]
    }
}

struct Nodes(Arc<Source>);

struct Pods(Arc<Source>);

#[async_trait]
impl VirtualSource for Nodes {
    async fn list(&self, _namespace: &str) -> Result<Vec<Value>, ApiError> {
        self.0.node_metrics(None).await.map_err(ApiError::internal)
    }
}

#[async_trait]
impl VirtualSource for Pods {
    async fn list(&self, namespace: &str) -> Result<Vec<Value>, ApiError> {
        let namespace = Some(namespace).filter(|n| !n.is_empty());
        self.0.pod_metrics(namespace, None).await.map_err(ApiError::internal)
    }
}

fn kind(name: &'static str, plural: &'static str, scope: Scope) -> anyhow::Result<Kind> {
    let definition = format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{name}");
    let types =
        knarr_schema::builtin_type(&definition).with_context(|| format!("no type facts for {definition}"))?;
    let column = |name: &'static str, format: &'static str| Column {
        name: name.into(),
        kind: "string".into(),
        format: format.into(),
        description: "".into(),
        priority: 0,
    };
    Ok(Kind {
        info: Arc::new(KindInfo {
            gvk: GroupVersionKind::new(GROUP, VERSION, name),
            list_kind: format!("{name}List").into(),
            plural: plural.into(),
            singular: "".into(),
            scope,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: vec![Verb::Get, Verb::List],
            subresources: Vec::new(),
            storage: None,
            types,
            definition: definition.into(),
            has_generation: false,
            columns: vec![column("Name", "name"), column("Window", "")],
            selectable_fields: Vec::new(),
            custom: false,
        }),
        rules: Arc::new(ReadOnly),
    })
}

/// Adds the two kinds to the API.
///
/// # Errors
/// The type facts lack them.
pub fn serve(wiring: &Wiring) -> anyhow::Result<()> {
    let client = wiring.client(ADDONS_USER, &[]);
    let kubelets = client.clone();
    let fetch: Fetch = Arc::new(move |node: String| {
        let client = kubelets.clone();
        Box::pin(async move {
            let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
            let request = axum::http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
            client.request::<Value>(request).await.map_err(|e| e.to_string())
        })
    });
    let source = Arc::new(Source::new(client, fetch));
    wiring.api.add_virtual(kind("NodeMetrics", "nodes", Scope::Cluster)?, Arc::new(Nodes(source.clone())));
    wiring.api.add_virtual(kind("PodMetrics", "pods", Scope::Namespaced)?, Arc::new(Pods(source)));
    Ok(())
}
