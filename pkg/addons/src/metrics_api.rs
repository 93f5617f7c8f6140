//! The metrics API (metrics.k8s.io/v1beta1) as resources: what a server answers to `get` and `list`, without HTTP.
//! Entry points: [`get`], [`resources`].

use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, GroupResource};
use serde_json::{Value, json};

use crate::metrics::{Labels, Source, list};

/// API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Version.
pub const VERSION: &str = "v1beta1";

/// One read of the metrics API.
#[derive(Debug, Clone, Copy, Default)]
pub struct Read<'a> {
    /// "nodes" or "pods".
    pub resource: &'a str,
    /// Namespace, for pods; none for all.
    pub namespace: Option<&'a str>,
    /// Name; none for a list.
    pub name: Option<&'a str>,
    /// Label selector of a list.
    pub label_selector: Option<&'a str>,
    /// Field selector of a list.
    pub field_selector: Option<&'a str>,
}

/// The discovery document of the group version.
pub fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

/// The document, or the list document, that was asked for.
///
/// # Errors
/// Not found, a selector that cannot be read, or a failed look-up of nodes or pods.
pub async fn get(source: &Source, read: &Read<'_>) -> Result<Value, ApiError> {
    let (kind, items) = match read.resource {
        "nodes" => ("NodeMetrics", source.node_metrics(read.name).await),
        "pods" => ("PodMetrics", source.pod_metrics(read.namespace, read.name).await),
        other => {
            return Err(ApiError::not_found(
                &GroupResource::new(GROUP, other.to_owned()),
                read.name.unwrap_or_default(),
            ));
        }
    };
    let items = items.map_err(ApiError::internal)?;
    match read.name {
        Some(name) => one(items, read, name),
        None => Ok(list(kind, select(items, read)?)),
    }
}

fn one(items: Vec<Value>, read: &Read<'_>, name: &str) -> Result<Value, ApiError> {
    let full = match read.namespace {
        Some(ns) if read.resource == "pods" => format!("{ns}/{name}"),
        _ => name.to_owned(),
    };
    items
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::not_found(&GroupResource::new(GROUP, read.resource.to_owned()), &full))
}

/// What the selectors leave of a list.
fn select(items: Vec<Value>, read: &Read<'_>) -> Result<Vec<Value>, ApiError> {
    let bad = |e: String| ApiError::bad_request(format!("unable to parse label selector: {e}"));
    let labels = Selector::parse(read.label_selector.unwrap_or_default()).map_err(bad)?;
    let fields = fields(read.field_selector.unwrap_or_default())?;
    let matches = |item: &Value| {
        let of: Labels = serde_json::from_value(item["metadata"]["labels"].clone()).unwrap_or_default();
        let field =
            |(name, value): &(String, String)| item["metadata"][name.as_str()].as_str() == Some(value);
        labels.matches(&of) && fields.iter().all(field)
    };
    Ok(items.into_iter().filter(matches).collect())
}

/// `metadata.name=a,metadata.namespace=b`; nothing else can be selected by.
fn fields(text: &str) -> Result<Vec<(String, String)>, ApiError> {
    let parts = text.split(',').filter(|p| !p.is_empty());
    let parsed = parts.map(|part| {
        let (field, value) = part.split_once("==").or_else(|| part.split_once('=')).unwrap_or((part, ""));
        match field.strip_prefix("metadata.") {
            Some(name @ ("name" | "namespace")) => Ok((name.to_owned(), value.to_owned())),
            _ => Err(ApiError::bad_request(format!("field selector {part:?} is not supported by {GROUP}"))),
        }
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let item = |name: &str, app: &str| json!({"metadata": {"name": name, "namespace": "d", "labels": {"app": app}}});
        let all = vec![item("a", "x"), item("b", "y")];
        let names = |read: Read| -> Result<Vec<String>, u16> {
            let left = select(all.clone(), &read).map_err(|e| e.code)?;
            Ok(left.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect())
        };
        let read = Read { resource: "pods", ..Read::default() };
        assert_eq!(names(read).unwrap(), ["a", "b"]);
        assert_eq!(names(Read { label_selector: Some("app in (y)"), ..read }).unwrap(), ["b"]);
        assert_eq!(
            names(Read { field_selector: Some("metadata.name=a,metadata.namespace==d"), ..read }).unwrap(),
            ["a"]
        );
        assert_eq!(names(Read { field_selector: Some("spec.x=a"), ..read }), Err(400));
        assert_eq!(names(Read { label_selector: Some("!!"), ..read }), Err(400));
        let missing = one(vec![], &Read { namespace: Some("d"), ..read }, "p").unwrap_err();
        assert_eq!(missing.code, 404);
    }
}
