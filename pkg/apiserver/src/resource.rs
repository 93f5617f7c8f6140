//! Requests for resources: the path's resource is looked up in the kind table and its verb is run.

use std::sync::Arc;

use axum::response::Response;
use knarr_auth::Permit;
use knarr_kinds::{Kind, Scope, Verb};
use knarr_machinery::{ApiError, GroupVersionResource};

use crate::encode::Encoder;
use crate::negotiate::{self, Offer};
use crate::server::{Call, Inner};
use crate::{listing, options, respond, special, watching, writing};

/// Lists of at least this many objects are encoded on a thread of their own.
const LONG_LIST: usize = 500;

/// Runs a request for a resource.
///
/// # Errors
/// 404 for what is not served, 405 for verbs that the kind does not have, and what the verb raises.
pub(crate) async fn handle(server: &Arc<Inner>, call: Call, _: &Permit) -> Result<Response, ApiError> {
    let info = &call.info;
    let gvr = GroupVersionResource::new(info.group.clone(), info.version.clone(), info.resource.clone());
    let kind = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)?;
    check_scope(&kind, &call)?;
    let Some(text) = deprecation(&kind).map(str::to_string) else { return run(server, &kind, call).await };
    let accepted = negotiate::of_errors(&call.parts.headers, &call.query);
    let mut response = match run(server, &kind, call).await {
        Ok(response) => response,
        Err(error) => respond::error(&error, accepted),
    };
    respond::warn_first(&mut response, &text);
    Ok(response)
}

/// What every answer about a deprecated kind warns of.
fn deprecation(kind: &Kind) -> Option<&str> {
    if let Some(text) = kind.rules.deprecation() {
        return Some(text);
    }
    match (&*kind.info.gvk.group, &*kind.info.gvk.kind) {
        ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        _ => None,
    }
}

async fn run(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    let info = &call.info;
    if !info.subresource.is_empty() {
        return special::subresource(server, kind, call).await;
    }
    if kind.info.storage.is_none() {
        return special::virtual_kind(server, kind, call).await;
    }
    let verb = verb_of(&info.verb)
        // A definition on its way out offers less than it serves.
        .filter(|v| kind.info.custom || kind.info.verbs.contains(v))
        .ok_or_else(|| not_allowed(kind, &info.verb))?;
    match verb {
        Verb::Get => get(server, kind, &call).await,
        Verb::List => list(server, kind, &call).await,
        Verb::Watch => watch(server, kind, &call).await,
        Verb::Create if info.name.is_empty() => writing::create(server, kind, call).await,
        Verb::Create => Err(ApiError::method_not_allowed()),
        Verb::Update => writing::update(server, kind, call).await,
        Verb::Patch => writing::patch(server, kind, call).await,
        Verb::Delete => writing::delete(server, kind, call).await,
        Verb::DeleteCollection => writing::delete_collection(server, kind, call).await,
    }
}

fn verb_of(text: &str) -> Option<Verb> {
    Some(match text {
        "create" => Verb::Create,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        "get" => Verb::Get,
        "list" => Verb::List,
        "patch" => Verb::Patch,
        "update" => Verb::Update,
        "watch" => Verb::Watch,
        _ => return None,
    })
}

/// 405; custom resources name the verb.
pub(crate) fn not_allowed(kind: &Kind, verb: &str) -> ApiError {
    if !kind.info.custom {
        return ApiError::method_not_allowed();
    }
    let resource = kind.info.group_resource();
    let mut error = ApiError::not_found(&resource, "");
    error.code = 405;
    error.reason = "MethodNotAllowed".into();
    error.message = format!("{verb} is not supported on resources of kind \"{resource}\"");
    error
}

fn check_scope(kind: &Kind, call: &Call) -> Result<(), ApiError> {
    let info = &call.info;
    match kind.info.scope {
        Scope::Namespaced if info.namespace.is_empty() => match info.verb.as_str() {
            "list" | "watch" => Ok(()),
            _ if kind.info.custom => Err(ApiError::path_not_found()),
            // SelfSubject reviews are cluster scoped; namespaced creates need a namespace.
            _ if info.name.is_empty() => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::path_not_found()),
        },
        // The path of a namespace itself carries its name as namespace.
        Scope::Cluster if !info.namespace.is_empty() && kind.info.plural != "namespaces" => {
            Err(ApiError::path_not_found())
        }
        _ => Ok(()),
    }
}

/// What a kind can be told in.
pub(crate) fn offer(kind: &Kind) -> Offer {
    // Reviews are answers, not objects with metadata.
    let transforms = kind.info.verbs.contains(&Verb::Get);
    Offer { protobuf: !kind.info.custom, transforms }
}

/// An encoder for the request's Accept header.
///
/// # Errors
/// 406.
pub(crate) fn encoder(kind: &Kind, call: &Call) -> Result<Encoder, ApiError> {
    let accepted = negotiate::accept(&call.parts.headers, &call.query, offer(kind))?;
    Ok(Encoder::new(kind, accepted))
}

/// Namespace for the registry: the path of a namespace itself has none.
pub(crate) fn namespace<'a>(kind: &Kind, call: &'a Call) -> &'a str {
    if kind.info.scope == Scope::Cluster { "" } else { &call.info.namespace }
}

async fn get(server: &Arc<Inner>, kind: &Kind, call: &Call) -> Result<Response, ApiError> {
    let encoder = encoder(kind, call)?;
    let version = call.query.text("resourceVersion");
    let entry = server.registry.get_at(kind, namespace(kind, call), &call.info.name, version).await?;
    let media = encoder.accepted().format.media_type();
    let response = respond::bytes(200, media, bytes::Bytes::new());
    Ok(respond::compress(
        response,
        respond::line(encoder.accepted().format, encoder.entry(&entry)?),
        &call.parts.headers,
    ))
}

async fn list(server: &Arc<Inner>, kind: &Kind, call: &Call) -> Result<Response, ApiError> {
    let encoder = encoder(kind, call)?;
    let options = options::list(kind, &call.query)?;
    let page = server.registry.list(kind, namespace(kind, call), &options).await?;
    if page.entries.len() < LONG_LIST {
        return listing::respond(&encoder, page, &call.parts.headers);
    }
    // Encoding and compressing a long list would hold up the other requests of the thread.
    let headers = call.parts.headers.clone();
    tokio::task::spawn_blocking(move || listing::respond(&encoder, page, &headers))
        .await
        .map_err(ApiError::internal)?
}

async fn watch(server: &Arc<Inner>, kind: &Kind, call: &Call) -> Result<Response, ApiError> {
    let encoder = encoder(kind, call)?;
    let mut options = options::watch(kind, &call.query)?;
    if !call.info.name.is_empty() && call.query.get("fieldSelector").is_none() {
        options.selection = options.selection.with_name(&call.info.name);
    }
    let timeout = options::watch_timeout(&call.query)?;
    let streamed = options.initial_events == Some(true);
    let stream = match server.registry.watch(kind, namespace(kind, call), options).await {
        // As upstream, a start that is forgotten is told in the stream: that makes every client list anew.
        Err(error) if error.code == 410 || (error.code == 504 && streamed) => {
            return watching::respond_error(&encoder, &error);
        }
        other => other?,
    };
    Ok(watching::respond(encoder, stream, timeout, server.shutdown.clone()))
}
