//! Parameters of policies: the objects that a binding names.

use knarr_kinds::{Kind, Scope};
use knarr_machinery::labels::Selector;
use knarr_machinery::{GroupVersion, GroupVersionKind};
use serde_json::Value;

use crate::policies::{Binding, Policy};
use crate::state::{Api, Server};

/// The parameters for a request in `namespace`; one null without any.
///
/// # Errors
/// What is wrong about the binding, in upstream's words.
pub(crate) async fn collect(
    server: &dyn Server,
    api: &Api,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some((version, kind)), Some(reference)) = (&policy.params, &binding.params) else {
        return Ok(vec![Value::Null]);
    };
    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or("");
    let gv =
        GroupVersion::parse(version).ok_or_else(|| format!("paramKind apiVersion `{version}` is invalid"))?;
    let gvk = GroupVersionKind::new(gv.group, gv.version, kind.clone());
    let served = server
        .kind(&gvk)
        .filter(|k| k.info.storage.is_some())
        .ok_or_else(|| format!("paramKind kind `{version}, Kind={kind}` not known"))?;
    let place = place(&served, text("namespace"), namespace)?;
    let name = text("name");
    let found = if name.is_empty() {
        selected(api, &place, reference.get("selector")).await?
    } else {
        let one = api.get(&format!("{place}/{name}")).await.map_err(|e| e.message)?;
        one.into_iter().collect()
    };
    if found.is_empty() && text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}

/// The path of the collection.
fn place(kind: &Kind, wanted: &str, namespace: &str) -> Result<String, String> {
    let gvk = &kind.info.gvk;
    let root = if gvk.group.is_empty() {
        format!("/api/{}", gvk.version)
    } else {
        format!("/apis/{}/{}", gvk.group, gvk.version)
    };
    let plural = &kind.info.plural;
    if kind.info.scope == Scope::Cluster {
        if !wanted.is_empty() {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
        }
        return Ok(format!("{root}/{plural}"));
    }
    let namespace = if wanted.is_empty() { namespace } else { wanted };
    if namespace.is_empty() {
        return Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
        );
    }
    Ok(format!("{root}/namespaces/{namespace}/{plural}"))
}

async fn selected(api: &Api, place: &str, selector: Option<&Value>) -> Result<Vec<Value>, String> {
    let selector = selector.filter(|s| !s.is_null()).ok_or("one of name or selector must be provided")?;
    let selector = Selector::from_label_selector(selector)?.to_string();
    let query: String = selector
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let found = api.get(&format!("{place}?labelSelector={query}")).await.map_err(|e| e.message)?;
    let list = found.ok_or("the parameters cannot be listed")?;
    let kind = list["kind"].as_str().unwrap_or("").trim_end_matches("List").to_string();
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        // Items of lists carry no type.
        if item.get("kind").is_none() {
            item["kind"] = kind.as_str().into();
            item["apiVersion"] = list["apiVersion"].clone();
        }
    }
    Ok(items)
}
