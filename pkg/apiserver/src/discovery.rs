//! Discovery, version and OpenAPI paths. Documents are derived once per state of the kind table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH, HeaderValue, VARY};
use knarr_kinds::{Kind, Scope};
use knarr_machinery::ApiError;
use knarr_registry::{KindTable, Kinds};
use serde_json::{Value, json};

use crate::negotiate::{self, Format, Offer};
use crate::respond;
use crate::server::{Call, Inner};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The documents of the present kinds.
#[derive(Debug)]
pub struct Documents {
    kinds: Arc<Kinds>,
    built: ArcSwapOption<Built>,
}

#[derive(Debug)]
struct Built {
    generation: u64,
    paths: BTreeMap<String, Value>,
    aggregated: BTreeMap<&'static str, (Bytes, String)>,
}

impl Documents {
    /// Documents of a set of kinds.
    pub fn new(kinds: Arc<Kinds>) -> Self {
        Self { kinds, built: ArcSwapOption::empty() }
    }

    fn get(&self) -> Arc<Built> {
        let table = self.kinds.load();
        if let Some(built) = self.built.load_full()
            && built.generation == table.generation
        {
            return built;
        }
        let built = Arc::new(build(&table));
        self.built.store(Some(built.clone()));
        built
    }
}

/// Answers requests that name no resource.
///
/// # Errors
/// 404 for unknown paths, 406, 405.
pub(crate) fn serve(server: &Arc<Inner>, call: &Call) -> Result<Response, ApiError> {
    if call.info.verb != "get" && call.info.verb != "head" {
        return Err(ApiError::method_not_allowed());
    }
    let path = call.info.path.trim_end_matches('/');
    let accept = call.parts.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let documents = server.documents.get();
    if (path == "/api" || path == "/apis")
        && let Some(best) = accept.split(',').map(str::trim).next()
        && is_aggregated(best)
        && let Some((body, etag)) = documents.aggregated.get(path)
    {
        return Ok(cached(call, AGGREGATED, body, etag));
    }
    let format = negotiate::accept(&call.parts.headers, &call.query, Offer { protobuf: true, transforms: false })?.format;
    if path == "/version" {
        return respond::document(200, &version(&server.config.git_version), pretty_or(format));
    }
    if path == "/api" {
        let address = format!("{}:{}", server.config.advertise_address, server.config.port);
        let document = json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]});
        return respond::document(200, &document, json_if_protobuf(format));
    }
    if path.is_empty() {
        let mut paths: Vec<String> = documents.paths.keys().cloned().collect();
        paths.extend(["/api", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(String::from));
        paths.sort();
        return respond::document(200, &json!({"paths": paths}), pretty_or(format));
    }
    match documents.paths.get(path) {
        Some(document) => respond::document(200, document, json_if_protobuf(format)),
        None => Err(ApiError::path_not_found()),
    }
}

/// Discovery has protobuf forms in stock servers; clients take JSON too.
fn json_if_protobuf(format: Format) -> Format {
    if format == Format::Protobuf { Format::Json } else { format }
}

fn pretty_or(format: Format) -> Format {
    match format {
        Format::Yaml => Format::Yaml,
        _ => Format::Pretty,
    }
}

fn is_aggregated(clause: &str) -> bool {
    clause.starts_with("application/json")
        && clause.contains("g=apidiscovery.k8s.io")
        && clause.contains("v=v2")
        && !clause.contains("v=v2beta1")
        && clause.contains("as=APIGroupDiscoveryList")
}

fn cached(call: &Call, media: &str, body: &Bytes, etag: &str) -> Response {
    let same = call.parts.headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(etag);
    let mut response = if same {
        respond::bytes(304, media, Bytes::new())
    } else {
        respond::compress(respond::bytes(200, media, Bytes::new()), body.clone(), &call.parts.headers)
    };
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    response
}

fn version(git: &str) -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": git, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", arch()),
    })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn build(table: &KindTable) -> Built {
    let mut groups: BTreeMap<String, BTreeMap<String, Vec<&Kind>>> = BTreeMap::new();
    for kind in table.all() {
        let gvk = &kind.info.gvk;
        groups.entry(gvk.group.to_string()).or_default().entry(gvk.version.to_string()).or_default().push(kind);
    }
    let mut paths = BTreeMap::new();
    let mut list = Vec::new();
    let (mut core, mut others) = (Vec::new(), Vec::new());
    for (group, versions) in &groups {
        let mut names: Vec<&String> = versions.keys().collect();
        names.sort_by(|a, b| compare_versions(b, a));
        for version in &names {
            let kinds = &versions[*version];
            let (root, gv) = if group.is_empty() {
                (format!("/api/{version}"), (*version).clone())
            } else {
                (format!("/apis/{group}/{version}"), format!("{group}/{version}"))
            };
            paths.insert(root, resource_list(&gv, kinds));
        }
        let discovered: Vec<Value> = names.iter().map(|v| json!({"version": v, "resources": discovered(&versions[*v]), "freshness": "Current"})).collect();
        let mut item = json!({"metadata": {"creationTimestamp": null}, "versions": discovered});
        if group.is_empty() {
            core.push(item);
            continue;
        }
        item["metadata"]["name"] = group.clone().into();
        others.push(item);
        let entries: Vec<Value> =
            names.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
        let mut document = json!({"name": group, "versions": entries, "preferredVersion": entries[0]});
        list.push(document.clone());
        document["kind"] = "APIGroup".into();
        document["apiVersion"] = "v1".into();
        paths.insert(format!("/apis/{group}"), document);
    }
    paths.insert("/apis".into(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}));
    let aggregated = [("/api", core), ("/apis", others)]
        .into_iter()
        .map(|(path, items)| {
            let document = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
            let body = Bytes::from(document.to_string());
            let etag = etag(&body);
            (path, (body, etag))
        })
        .collect();
    Built { generation: table.generation, paths, aggregated }
}

fn etag(body: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("\"{:016X}\"", hasher.finish())
}

fn resource_list(gv: &str, kinds: &[&Kind]) -> Value {
    let mut resources = Vec::new();
    for kind in kinds {
        let info = &kind.info;
        let namespaced = info.scope == Scope::Namespaced;
        let verbs: Vec<&str> = info.verbs.iter().map(|v| v.as_str()).collect();
        let mut entry = json!({"name": info.plural, "singularName": info.singular, "namespaced": namespaced,
            "kind": info.gvk.kind, "verbs": verbs});
        if !info.short_names.is_empty() {
            entry["shortNames"] = info.short_names.iter().map(|s| Value::from(s.to_string())).collect();
        }
        if !info.categories.is_empty() {
            entry["categories"] = info.categories.iter().map(|s| Value::from(s.to_string())).collect();
        }
        resources.push(entry);
        for sub in &info.subresources {
            let verbs: Vec<&str> = sub.verbs.iter().map(|v| v.as_str()).collect();
            let mut entry = json!({"name": format!("{}/{}", info.plural, sub.name), "singularName": "",
                "namespaced": namespaced, "kind": sub.gvk.kind, "verbs": verbs});
            if sub.gvk.group_version() != info.gvk.group_version() {
                entry["group"] = sub.gvk.group.to_string().into();
                entry["version"] = sub.gvk.version.to_string().into();
            }
            resources.push(entry);
        }
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources})
}

fn discovered(kinds: &[&Kind]) -> Vec<Value> {
    let mut resources: Vec<Value> = kinds.iter().map(|kind| {
        let info = &kind.info;
        let response = |gvk: &knarr_machinery::GroupVersionKind| json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
        let mut entry = json!({
            "resource": info.plural, "responseKind": response(&info.gvk),
            "scope": if info.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": info.singular,
            "verbs": info.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
        });
        if !info.short_names.is_empty() {
            entry["shortNames"] = info.short_names.iter().map(|s| Value::from(s.to_string())).collect();
        }
        if !info.categories.is_empty() {
            entry["categories"] = info.categories.iter().map(|s| Value::from(s.to_string())).collect();
        }
        if !info.subresources.is_empty() {
            entry["subresources"] = info.subresources.iter().map(|s| json!({
                "subresource": s.name, "responseKind": response(&s.gvk),
                "verbs": s.verbs.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
            })).collect();
        }
        entry
    }).collect();
    resources.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    resources
}

/// Kubernetes' order of versions: GA over beta over alpha, then by numbers.
fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    fn parse(v: &str) -> Option<(u8, u32, u32)> {
        let rest = v.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((2, major, 0));
        }
        let (stage, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (1, minor),
            (_, Some(minor)) => (0, minor),
            _ => return None,
        };
        Some((stage, major, minor.parse().ok()?))
    }
    parse(a).cmp(&parse(b)).then_with(|| b.cmp(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_order() {
        let mut versions = vec!["v1beta1", "v2", "v1", "v1alpha1", "v1beta2", "foo"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
