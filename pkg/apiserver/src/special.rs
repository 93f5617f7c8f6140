//! Subresources and virtual kinds: each name leads to its own function.

use std::sync::Arc;

use axum::response::Response;
use knarr_kinds::{Kind, Verb};
use knarr_machinery::{ApiError, GroupVersionKind};
use knarr_registry::{AllowAll, Operation, WriteContext};
use serde_json::Value;

use crate::encode::types_of;
use crate::resource::namespace;
use crate::server::{Call, Inner};
use crate::writing::{SentPatch, Writing, take_body};
use crate::{body, connect, eviction, respond, reviews, tokens, virtual_kinds, writing};

/// A request for a subresource.
///
/// # Errors
/// 404 for subresources that the kind does not have, 405 for verbs.
pub(crate) async fn subresource(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    let name = call.info.subresource.clone();
    let missing = || match kind.info.custom {
        true => ApiError::not_found(&kind.info.group_resource(), &call.info.name),
        false => ApiError::path_not_found(),
    };
    let sub = kind.info.subresource(&name).ok_or_else(missing)?.clone();
    let verb = match call.info.verb.as_str() {
        "get" => Verb::Get,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        // Not a verb of the API, but the backend of a proxy may know the method.
        _ if name == "proxy" && call.parts.method == http::Method::OPTIONS => Verb::Get,
        _ => return Err(ApiError::method_not_allowed()),
    };
    let streams = matches!(name.as_str(), "exec" | "attach" | "portforward" | "proxy");
    if !streams && !sub.verbs.contains(&verb) {
        return Err(crate::resource::not_allowed(kind, &call.info.verb));
    }
    match (kind.info.plural.as_ref(), name.as_str(), verb) {
        ("pods", "log", Verb::Get) => connect::pod_stream(server, kind, call).await,
        ("pods", "exec" | "attach" | "portforward", Verb::Get | Verb::Create) => {
            connect::pod_stream(server, kind, call).await
        }
        ("pods" | "services" | "nodes", "proxy", _) => connect::proxy(server, kind, call).await,
        ("pods", "eviction", Verb::Create) => eviction::evict(server, kind, call).await,
        ("serviceaccounts", "token", Verb::Create) => tokens::request(server, kind, call).await,
        (_, "scale", _) => scale(server, kind, call, verb).await,
        ("pods", "binding", Verb::Create) => bind(server, kind, call).await,
        ("namespaces", "finalize", Verb::Update) => finalize(server, kind, call).await,
        (_, _, Verb::Get) if sub.gvk == kind.info.gvk => get(server, kind, &call).await,
        (_, _, Verb::Update) if sub.gvk == kind.info.gvk => {
            writing::update_part(server, kind, call, Some(&name)).await
        }
        (_, _, Verb::Patch) if sub.gvk == kind.info.gvk => {
            writing::patch_part(server, kind, call, Some(&name)).await
        }
        _ => Err(not_implemented(kind, &name)),
    }
}

/// A request for a kind without storage.
///
/// # Errors
/// 405 for verbs that the kind does not have.
pub(crate) async fn virtual_kind(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    match (&*kind.info.gvk.group, &*kind.info.plural, call.info.verb.as_str()) {
        ("", "bindings", "create") => {
            let gvr = knarr_machinery::GroupVersionResource::new("", "v1", "pods");
            let pods =
                server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
            bind(server, &pods, call).await
        }
        (_, _, "get" | "list") => virtual_kinds::read(server, kind, &call).await,
        (_, _, "create") if kind.info.verbs.contains(&Verb::Create) => {
            reviews::answer(server, kind, call).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn not_implemented(kind: &Kind, subresource: &str) -> ApiError {
    let slash = if subresource.is_empty() { "" } else { "/" };
    ApiError::new(
        501,
        "NotImplemented",
        format!("{}{slash}{subresource} is not supported by this server", kind.info.group_resource()),
    )
}

async fn get(server: &Arc<Inner>, kind: &Kind, call: &Call) -> Result<Response, ApiError> {
    let encoder = crate::resource::encoder(kind, call)?;
    let entry = server.registry.get(kind, namespace(kind, call), &call.info.name).await?;
    Ok(respond::bytes(200, encoder.accepted().format.media_type(), encoder.entry(&entry)?))
}

/// A kind that stands for a document type which is no resource (Scale): its facts come from the schema.
pub(crate) fn document_kind(like: &Kind, gvk: &GroupVersionKind) -> Result<Kind, ApiError> {
    let types = types_of(gvk).ok_or_else(|| ApiError::internal(format!("{gvk} is not described")))?;
    let mut info = (*like.info).clone();
    info.gvk = gvk.clone();
    info.types = types;
    info.subresources.clear();
    // The rules of a custom kind are those of its schema, not of this document.
    let rules = if like.info.custom { knarr_kinds::plain_rules() } else { like.rules.clone() };
    Ok(Kind { info: Arc::new(info), rules })
}

async fn scale(server: &Arc<Inner>, kind: &Kind, mut call: Call, verb: Verb) -> Result<Response, ApiError> {
    let gvk = GroupVersionKind::new("autoscaling", "v1", "Scale");
    let scale_kind = document_kind(kind, &gvk)?;
    let options = if verb == Verb::Patch { "PatchOptions" } else { "UpdateOptions" };
    let writing = Writing::new(server, kind, &call, options)?;
    if verb == Verb::Get {
        let scale = server.registry.get_scale(kind, namespace(kind, &call), &call.info.name).await?;
        return writing.respond_as(200, &scale, &[], &[]);
    }
    let bytes = take_body(&mut call).await?;
    let context: WriteContext<'_> = writing.context(kind, &call, Some("scale"));
    if verb == Verb::Update {
        let decoded = body::kind_object(&call.parts.headers, &bytes, &scale_kind, writing.validation)?;
        if !matches!(writing::gvk_of(&decoded.value).kind.as_ref(), "" | "Scale") {
            let text = "no kind is registered for the type v1.Scale in scheme \"knarr\"";
            return Err(ApiError::bad_request(text));
        }
        let outcome = server.registry.update_scale(&context, decoded.value).await?;
        return writing.respond(&outcome, &decoded.warnings);
    }
    let sent = SentPatch::parse(&scale_kind, &call, &bytes, writing.validation)?;
    let patch = sent.patch(&call.query, &bytes, writing.validation);
    let outcome = server.registry.patch_scale(&context, &scale_kind, patch).await?;
    writing.respond(&outcome, &[])
}

/// Admission of a document that is posted to a subresource (Binding, Eviction).
///
/// # Errors
/// What admission refuses.
pub(crate) async fn admit_document(
    context: &WriteContext<'_>,
    gvk: &GroupVersionKind,
    document: Value,
) -> Result<Value, ApiError> {
    let mut admission = context.admission(Operation::Create, Some(document), None);
    admission.gvk = gvk;
    context.hooks.mutate(&mut admission).await?;
    context.hooks.validate(&mut admission).await?;
    Ok(admission.object.take().unwrap_or_default())
}

async fn bind(server: &Arc<Inner>, pods: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let gvk = GroupVersionKind::new("", "v1", "Binding");
    let binding_kind = document_kind(pods, &gvk)?;
    let writing = Writing::new(server, pods, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, &binding_kind, writing.validation)?;
    let named = knarr_registry::obj::name(&decoded.value).to_string();
    if !call.info.name.is_empty() && !named.is_empty() && named != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let name = if call.info.name.is_empty() { named } else { call.info.name.clone() };
    let context = WriteContext { name: &name, ..writing.context(pods, &call, Some("binding")) };
    let binding = admit_document(&context, &gvk, decoded.value).await?;
    // Admission has judged the binding; the pod's own change is the binding's effect.
    let context = WriteContext { hooks: &AllowAll, ..context };
    let outcome = server.registry.bind(&context, &binding).await?;
    writing.respond(&outcome, &decoded.warnings)
}

async fn finalize(server: &Arc<Inner>, kind: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let writing = Writing::new(server, kind, &call, "UpdateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, kind, writing.validation)?;
    let context = writing.context(kind, &call, Some("finalize"));
    let outcome = server.registry.finalize_namespace(&context, &decoded.value).await?;
    writing.respond(&outcome, &decoded.warnings)
}
