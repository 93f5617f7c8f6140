//! Authorization: attributes of a request, the decision, and the permit that handlers require.

use std::sync::Arc;

use knarr_machinery::{ApiError, GroupResource, UserInfo};

pub use crate::knarr_auth::{Attributes, Authorizer, Decision, ResourceAttributes};

use crate::info::RequestInfo;

/// Proof that a request was authorized. Only [`authorize`] makes one.
#[derive(Debug)]
pub struct Permit(());

/// The attributes of a request.
pub fn attributes(user: &UserInfo, info: &RequestInfo) -> Attributes {
    let resource = info.is_resource.then(|| ResourceAttributes {
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.name.clone(),
        ..ResourceAttributes::default()
    });
    Attributes { user: user.clone(), verb: info.verb.clone(), resource, path: info.path.clone() }
}

/// Judges a request. Without an authorizer (bootstrap) only `system:masters` pass.
///
/// # Errors
/// 403 with upstream's text.
pub async fn authorize(authorizer: Option<&Arc<dyn Authorizer>>, attributes: &Attributes) -> Result<Permit, ApiError> {
    let reason = match authorizer {
        None if attributes.user.in_group("system:masters") => return Ok(Permit(())),
        None => "the authorizer is not ready".to_string(),
        Some(authorizer) => match authorizer.authorize(attributes).await {
            Decision::Allow(_) => return Ok(Permit(())),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        },
    };
    Err(forbidden(attributes, &reason))
}

/// The 403 of a request.
pub fn forbidden(attributes: &Attributes, reason: &str) -> ApiError {
    let mut text = describe(attributes);
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    match &attributes.resource {
        Some(r) => ApiError::forbidden(&GroupResource::new(r.group.clone(), r.resource.clone()), &r.name, &text),
        None => ApiError::forbidden(&GroupResource::default(), "", &text),
    }
}

fn describe(a: &Attributes) -> String {
    let user = &a.user.username;
    let Some(r) = &a.resource else { return format!("User \"{user}\" cannot {} path \"{}\"", a.verb, a.path) };
    let resource =
        if r.subresource.is_empty() { r.resource.clone() } else { format!("{}/{}", r.resource, r.subresource) };
    let place = if r.namespace.is_empty() {
        "at the cluster scope".to_string()
    } else {
        format!("in the namespace \"{}\"", r.namespace)
    };
    format!("User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}", a.verb, r.group)
}
