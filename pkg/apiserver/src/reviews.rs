//! Reviews: kinds that are answered and not stored (TokenReview, the access reviews, SelfSubjectReview).

use std::sync::Arc;

use axum::response::Response;
use knarr_kinds::Kind;
use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, UserInfo};
use serde_json::{Value, json};

use crate::knarr_auth::{Attributes, Decision, ResourceAttributes, Union, Authorizer};
use crate::server::{Call, Inner};
use crate::writing::{Writing, take_body};
use crate::{body, identity};

/// Answers a review.
///
/// # Errors
/// 422 for incomplete reviews, what decoding raises.
pub(crate) async fn review(server: &Arc<Inner>, kind: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let writing = Writing::new(server, kind, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, kind, writing.validation)?;
    let mut document = decoded.value;
    knarr_registry::obj::set_gvk(&mut document, &kind.info.gvk);
    if !document["metadata"].is_object() {
        document["metadata"] = json!({});
    }
    let status = match &*kind.info.plural {
        "tokenreviews" => token(server, kind, &document).await?,
        "selfsubjectreviews" => json!({"userInfo": call.user}),
        "selfsubjectrulesreviews" => rules(server, &call, &document).await,
        "subjectaccessreviews" => access(server, kind, &document, None).await?,
        "selfsubjectaccessreviews" => access(server, kind, &document, Some(&call.user)).await?,
        "localsubjectaccessreviews" => {
            let asked = document.pointer("/spec/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or("");
            if asked != call.info.namespace {
                let path = Path::new("spec").child("resourceAttributes").child("namespace");
                let error = FieldError::invalid(&path, asked, "must match metadata.namespace");
                return Err(ApiError::invalid(&kind.info.gvk.group_kind(), "", &[error]));
            }
            access(server, kind, &document, None).await?
        }
        other => return Err(ApiError::new(501, "NotImplemented", format!("{other} are not supported by this server"))),
    };
    document["status"] = status;
    writing.respond_as(201, &document, &[], &decoded.warnings)
}

async fn token(server: &Inner, kind: &Kind, document: &Value) -> Result<Value, ApiError> {
    let token = document.pointer("/spec/token").and_then(Value::as_str).unwrap_or("");
    if token.is_empty() {
        return Err(ApiError::bad_request(format!("{} requires a token: token is required for TokenReview in authentication", kind.info.gvk.kind)));
    }
    let asked = knarr_registry::obj::strings(document.pointer("/spec/audiences"));
    let request = http::Request::builder().header(http::header::AUTHORIZATION, format!("Bearer {token}")).body(());
    let Ok(request) = request else {
        return Ok(json!({"authenticated": false, "user": {}, "error": "the token has characters that a header cannot carry"}));
    };
    let (mut parts, ()) = request.into_parts();
    parts.extensions.insert(crate::tokens::Audiences(asked.clone()));
    Ok(match identity::authenticate(&parts, &server.authenticators()).await {
        Ok(user) if user.username != "system:anonymous" => {
            let mut status = json!({"authenticated": true, "user": user});
            if !asked.is_empty() {
                status["audiences"] = asked.into();
            }
            status
        }
        _ => json!({"user": {}, "error": "[invalid bearer token]"}),
    })
}

fn authorizer(server: &Inner) -> Arc<dyn Authorizer> {
    match server.authorizer.load_full() {
        Some(authorizer) => authorizer.as_ref().clone(),
        None => Arc::new(Union::new(Vec::new())),
    }
}

async fn rules(server: &Inner, call: &Call, document: &Value) -> Value {
    let namespace = document.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or("");
    let list = authorizer(server).rules_for(&call.user, namespace).await;
    let resources: Vec<Value> = list
        .resources
        .iter()
        .map(|r| {
            let mut rule = json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources});
            if !r.names.is_empty() {
                rule["resourceNames"] = r.names.clone().into();
            }
            rule
        })
        .collect();
    let urls: Vec<Value> = list.urls.iter().map(|(v, u)| json!({"verbs": v, "nonResourceURLs": u})).collect();
    let mut status = json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": list.incomplete});
    if !list.errors.is_empty() {
        status["evaluationError"] = list.errors.join("; ").into();
    }
    status
}

async fn access(server: &Inner, kind: &Kind, document: &Value, own: Option<&UserInfo>) -> Result<Value, ApiError> {
    let spec = &document["spec"];
    let (resource, path) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    let invalid = |errors: &[FieldError]| ApiError::invalid(&kind.info.gvk.group_kind(), "", errors);
    if resource.is_some() == path.is_some() {
        let text = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let field = if resource.is_some() { "nonResourceAttributes" } else { "resourceAttributes" };
        let value = path.cloned().unwrap_or(Value::Null);
        return Err(invalid(&[FieldError::invalid(&Path::new("spec").child(field), value, text)]));
    }
    let user = match own {
        Some(user) => user.clone(),
        None => subject(spec).map_err(|e| invalid(&[e]))?,
    };
    let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or("").to_string();
    let attributes = match (resource, path) {
        (Some(r), _) => Attributes {
            user,
            verb: text(r, "verb"),
            resource: Some(ResourceAttributes {
                group: text(r, "group"),
                version: text(r, "version"),
                resource: text(r, "resource"),
                subresource: text(r, "subresource"),
                namespace: text(r, "namespace"),
                name: text(r, "name"),
                ..ResourceAttributes::default()
            }),
            path: String::new(),
        },
        (None, p) => {
            let p = p.unwrap_or(&Value::Null);
            Attributes { user, verb: text(p, "verb"), resource: None, path: text(p, "path") }
        }
    };
    Ok(match authorizer(server).authorize(&attributes).await {
        Decision::Allow(reason) => answer(true, false, &reason),
        Decision::Deny(reason) => answer(false, true, &reason),
        Decision::NoOpinion(reason) => answer(false, false, &reason),
    })
}

fn answer(allowed: bool, denied: bool, reason: &str) -> Value {
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

fn subject(spec: &Value) -> Result<UserInfo, FieldError> {
    let mut user: UserInfo = UserInfo {
        username: spec.get("user").and_then(Value::as_str).unwrap_or("").to_string(),
        uid: spec.get("uid").and_then(Value::as_str).unwrap_or("").to_string(),
        groups: knarr_registry::obj::strings(spec.get("groups")),
        ..UserInfo::default()
    };
    for (key, values) in spec.get("extra").and_then(Value::as_object).into_iter().flatten() {
        user.extra.insert(key.to_ascii_lowercase(), knarr_registry::obj::strings(Some(values)));
    }
    if user.username.is_empty() && user.groups.is_empty() {
        let text = "at least one of user or group must be specified";
        return Err(FieldError::invalid(&Path::new("spec").child("user"), "", text));
    }
    Ok(user)
}
