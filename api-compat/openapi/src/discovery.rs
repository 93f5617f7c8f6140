//! `/api`, `/apis` and what is below: the legacy documents and aggregated discovery.

use knarr_kinds::kind::{Kind, KindInfo, Scope, Subresource, Verb};
use knarr_machinery::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::groups::{Group, groups};

/// Which root is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// `/api`: the core group.
    Core,
    /// `/apis`: all named groups.
    Named,
}

/// The form of a discovery document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// APIVersions, APIGroupList.
    Legacy,
    /// `apidiscovery.k8s.io/v2` APIGroupDiscoveryList.
    V2,
    /// The same in `v2beta1`.
    V2Beta1,
}

/// How the document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// `/api`. `addresses` are pairs of client CIDR and server address (`0.0.0.0/0`, `10.0.0.1:6443`).
pub fn api_versions(kinds: &[Kind], addresses: &[(&str, &str)]) -> Value {
    let versions: Vec<&str> = groups(kinds)
        .iter()
        .filter(|g| g.name.is_empty())
        .flat_map(|g| g.versions.iter().map(|v| v.name))
        .collect();
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|(cidr, address)| json!({"clientCIDR": cidr, "serverAddress": address}))
        .collect();
    json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": addresses})
}

/// `/apis`.
pub fn api_group_list(kinds: &[Kind]) -> Value {
    let list: Vec<Value> =
        groups(kinds).iter().filter(|g| !g.name.is_empty()).map(|g| Value::Object(group_body(g))).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/<group>`; `None` if nothing of the group is served.
pub fn api_group(kinds: &[Kind], group: &str) -> Option<Value> {
    if group.is_empty() {
        return None;
    }
    let all = groups(kinds);
    let mut body = group_body(all.iter().find(|g| g.name == group)?);
    body.insert("kind".into(), "APIGroup".into());
    body.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(body))
}

fn group_body(group: &Group<'_>) -> Map<String, Value> {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| json!({"groupVersion": GroupVersion::new(group.name.to_owned(), v.name.to_owned()).to_string(), "version": v.name}))
        .collect();
    let mut body = Map::new();
    body.insert("name".into(), group.name.into());
    body.insert("preferredVersion".into(), versions.first().cloned().unwrap_or_default());
    body.insert("versions".into(), versions.into());
    body
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` if nothing of it is served.
pub fn api_resource_list(kinds: &[Kind], gv: &GroupVersion) -> Option<Value> {
    let all = groups(kinds);
    let group = all.iter().find(|g| g.name == gv.group)?;
    let version = group.versions.iter().find(|v| v.name == gv.version)?;
    let mut resources = Vec::new();
    for info in &version.kinds {
        resources.push(resource(info));
        resources.extend(subresources(info).into_iter().map(|s| subresource(info, s)));
    }
    let mut doc = json!({"kind": "APIResourceList", "groupVersion": gv.to_string(), "resources": resources});
    if let (Value::Object(map), false) = (&mut doc, gv.group.is_empty()) {
        map.insert("apiVersion".into(), "v1".into());
    }
    Some(doc)
}

/// The order of verbs in which upstream lists a custom resource; those of built-in ones are in alphabetical order.
const CUSTOM_ORDER: [Verb; 8] = [
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Create,
    Verb::Update,
    Verb::Watch,
];

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|v| v.as_str()).collect()
}

fn main_verbs(info: &KindInfo) -> Value {
    if !info.custom {
        return verbs(&info.verbs);
    }
    CUSTOM_ORDER.iter().filter(|v| info.verbs.contains(v)).map(|v| v.as_str()).collect()
}

/// Subresources in discovery's order: by name, but status before scale for a custom resource.
fn subresources(info: &KindInfo) -> Vec<&Subresource> {
    let mut list: Vec<&Subresource> = info.subresources.iter().collect();
    list.sort_by(|a, b| if info.custom { b.name.cmp(&a.name) } else { a.name.cmp(&b.name) });
    list
}

fn resource(info: &KindInfo) -> Value {
    let mut r = Map::new();
    r.insert("name".into(), info.plural.as_ref().into());
    r.insert("singularName".into(), info.singular.as_ref().into());
    r.insert("namespaced".into(), (info.scope == Scope::Namespaced).into());
    r.insert("kind".into(), info.gvk.kind.as_ref().into());
    r.insert("verbs".into(), main_verbs(info));
    insert_names(&mut r, info);
    if let Some(hash) = storage_version_hash(info) {
        r.insert("storageVersionHash".into(), hash.into());
    }
    Value::Object(r)
}

fn insert_names(r: &mut Map<String, Value>, info: &KindInfo) {
    let names = |list: &[knarr_machinery::Str]| -> Value { list.iter().map(|s| s.as_ref()).collect() };
    if !info.short_names.is_empty() {
        r.insert("shortNames".into(), names(&info.short_names));
    }
    if !info.categories.is_empty() {
        r.insert("categories".into(), names(&info.categories));
    }
}

fn subresource(info: &KindInfo, sub: &Subresource) -> Value {
    let mut r = Map::new();
    r.insert("name".into(), format!("{}/{}", info.plural, sub.name).into());
    r.insert("singularName".into(), "".into());
    r.insert("namespaced".into(), (info.scope == Scope::Namespaced).into());
    r.insert("kind".into(), sub.gvk.kind.as_ref().into());
    r.insert("verbs".into(), verbs(&sub.verbs));
    if sub.gvk.group_version() != info.gvk.group_version() {
        r.insert("group".into(), sub.gvk.group.as_ref().into());
        r.insert("version".into(), sub.gvk.version.as_ref().into());
    }
    Value::Object(r)
}

/// The hash of the group, version and kind that are stored; it changes when the stored form changes.
fn storage_version_hash(info: &KindInfo) -> Option<String> {
    let storage = info.storage.as_ref()?;
    let text = format!("{}/{}/{}", storage.resource.group, storage.version, info.gvk.kind);
    Some(base64_of_8(&Sha256::digest(text.as_bytes())))
}

/// Standard base64 of the first eight bytes.
fn base64_of_8(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let word = bytes.iter().take(8).fold(0u128, |n, b| n << 8 | u128::from(*b)) << 2;
    let mut text: String =
        (0..11).map(|i| char::from(DIGITS[(word >> (60 - 6 * i) & 63) as usize])).collect();
    text.push('=');
    text
}

/// Aggregated discovery for `/api` or `/apis`. `form` is [`Form::V2`] or [`Form::V2Beta1`]; for [`Form::Legacy`] this
/// is the v2 document.
pub fn aggregated(kinds: &[Kind], root: Root, form: Form) -> Value {
    let items: Vec<Value> = groups(kinds)
        .iter()
        .filter(|g| g.name.is_empty() == (root == Root::Core))
        .map(aggregated_group)
        .collect();
    let version = if form == Form::V2Beta1 { "v2beta1" } else { "v2" };
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_group(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| {
            let resources: Vec<Value> = v.kinds.iter().map(|k| aggregated_resource(k)).collect();
            json!({"version": v.name, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut meta = Map::new();
    if !group.name.is_empty() {
        meta.insert("name".into(), group.name.into());
    }
    json!({"metadata": meta, "versions": versions})
}

fn aggregated_resource(info: &KindInfo) -> Value {
    let mut r = Map::new();
    r.insert("resource".into(), info.plural.as_ref().into());
    r.insert("responseKind".into(), response_kind(info, &info.gvk));
    r.insert("scope".into(), if info.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" }.into());
    r.insert("singularResource".into(), info.singular.as_ref().into());
    r.insert("verbs".into(), main_verbs(info));
    insert_names(&mut r, info);
    if !info.subresources.is_empty() {
        let list: Vec<Value> = subresources(info)
            .into_iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": response_kind(info, &s.gvk),
                    "verbs": verbs(&s.verbs),
                })
            })
            .collect();
        r.insert("subresources".into(), list.into());
    }
    Value::Object(r)
}

/// Upstream names group and version of a built-in kind only where they are not those of the document, and always for a
/// custom resource.
fn response_kind(info: &KindInfo, gvk: &GroupVersionKind) -> Value {
    if !info.custom && gvk.group_version() == info.gvk.group_version() {
        return json!({"group": "", "version": "", "kind": gvk.kind});
    }
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// What the Accept header of a discovery request asks for; `None` if nothing that can be served (406).
pub fn negotiate(accept: Option<&str>) -> Option<(Form, Encoding)> {
    let accept = match accept.map(str::trim) {
        None | Some("") => return Some((Form::Legacy, Encoding::Json)),
        Some(text) => text,
    };
    let mut clauses: Vec<(u32, Form, Encoding)> = accept.split(',').filter_map(clause).collect();
    clauses.sort_by_key(|(q, ..)| std::cmp::Reverse(*q));
    clauses.first().map(|(_, form, encoding)| (*form, *encoding))
}

fn clause(text: &str) -> Option<(u32, Form, Encoding)> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        knarr_schema::proto::MEDIA_TYPE => Encoding::Protobuf,
        _ => return None,
    };
    let (mut group, mut version, mut kind, mut quality) = ("", "", "", 1000);
    for part in parts {
        match part.split_once('=') {
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            Some(("as", v)) => kind = v,
            Some(("q", v)) => quality = (v.parse::<f32>().unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u32,
            _ => {}
        }
    }
    let form = match (group, version, kind) {
        ("", "", "") => Form::Legacy,
        ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => Form::V2,
        ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => Form::V2Beta1,
        _ => return None,
    };
    (quality > 0).then_some((quality, form, encoding))
}

/// The Content-Type header of a discovery document.
pub fn content_type(form: Form, encoding: Encoding) -> String {
    let base = match encoding {
        Encoding::Json => "application/json",
        Encoding::Yaml => "application/yaml",
        Encoding::Protobuf => knarr_schema::proto::MEDIA_TYPE,
    };
    let version = match form {
        Form::Legacy => return base.to_owned(),
        Form::V2 => "v2",
        Form::V2Beta1 => "v2beta1",
    };
    format!("{base};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        for (accept, want) in [
            (None, Some((Form::Legacy, Encoding::Json))),
            (Some("application/json"), Some((Form::Legacy, Encoding::Json))),
            (Some("text/html, */*"), Some((Form::Legacy, Encoding::Json))),
            (Some("text/html"), None),
            (Some("application/vnd.kubernetes.protobuf"), Some((Form::Legacy, Encoding::Protobuf))),
            (Some("application/json;q=0.5,application/yaml"), Some((Form::Legacy, Encoding::Yaml))),
        ] {
            assert_eq!(negotiate(accept), want, "{accept:?}");
        }
        assert_eq!(
            negotiate(Some(&format!("{v2},{beta},application/json"))),
            Some((Form::V2, Encoding::Json))
        );
        assert_eq!(
            negotiate(Some(&format!("{beta},application/json"))),
            Some((Form::V2Beta1, Encoding::Json))
        );
        assert_eq!(content_type(Form::V2, Encoding::Json), v2);
    }

    #[test]
    fn storage_hash_is_upstreams() {
        assert_eq!(base64_of_8(&Sha256::digest(b"/v1/Pod")), "xPOwRZ+Yhw8=");
        assert_eq!(base64_of_8(&Sha256::digest(b"/v1/Service")), "0/CO1lhkEBI=");
    }
}
