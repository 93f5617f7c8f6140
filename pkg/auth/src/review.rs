//! The review documents: TokenReview, SelfSubjectReview, the SubjectAccessReview family, SelfSubjectRulesReview.
//!
//! Each function takes the document that a client sent and returns it with its status filled.

use std::collections::BTreeMap;

use knarr_machinery::fields::FieldSelector;
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, FieldError, GroupKind, Path, UserInfo, meta};
use serde_json::{Value, json};

use crate::attributes::{Attributes, Authorizer, Decision, ResourceAttributes};
use crate::authn::authenticated;
use crate::serviceaccount::Tokens;

fn text(v: &Value, field: &str) -> String {
    v[field].as_str().unwrap_or_default().to_string()
}

fn strings(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_string)).collect()
}

/// Answers a TokenReview.
///
/// # Errors
/// 400 for a request without token.
pub async fn token_review(tokens: &Tokens, mut document: Value) -> Result<Value, ApiError> {
    let token = text(&document["spec"], "token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = strings(&document["spec"]["audiences"]);
    let wanted = if asked.is_empty() { tokens.audiences().to_vec() } else { asked };
    let status = match tokens.authenticate(&token, &wanted).await {
        Ok(Some(found)) => {
            let user = authenticated(found.user);
            json!({"authenticated": true, "user": user_value(&user), "audiences": found.audiences})
        }
        Ok(None) => json!({"user": {}}),
        Err(e) => json!({"user": {}, "error": e.0}),
    };
    // The token itself is not repeated.
    if let Some(spec) = document["spec"].as_object_mut() {
        spec.remove("token");
    }
    document["status"] = status;
    Ok(document)
}

fn user_value(user: &UserInfo) -> Value {
    serde_json::to_value(user).unwrap_or_default()
}

/// Answers a SelfSubjectReview.
pub fn self_subject_review(user: &UserInfo, mut document: Value, now: &str) -> Value {
    meta::set_str(&mut document, "creationTimestamp", now);
    document["status"] = json!({"userInfo": user_value(user)});
    document
}

fn selector_error(path: &Path, field: &str, value: &str, detail: String) -> FieldError {
    FieldError::invalid(&path.child(field).child("rawSelector"), value, detail)
}

/// Selectors of resource attributes: raw text, or requirements of which those that are not understood only widen.
fn selectors(spec: &Value, out: &mut ResourceAttributes, path: &Path, errors: &mut Vec<FieldError>) {
    let raw = text(&spec["fieldSelector"], "rawSelector");
    if !raw.is_empty() {
        match FieldSelector::parse(&raw) {
            Ok(s) => out.field_selector = Some(s),
            Err(e) => errors.push(selector_error(path, "fieldSelector", &raw, e)),
        }
    }
    let equal = |r: &Value| {
        let values = strings(&r["values"]);
        match (r["operator"].as_str(), values.as_slice()) {
            (Some("In"), [one]) => Some(format!("{}={}", text(r, "key"), escape(one))),
            (Some("NotIn"), [one]) => Some(format!("{}!={}", text(r, "key"), escape(one))),
            _ => None,
        }
    };
    let requirements = spec["fieldSelector"]["requirements"].as_array();
    let terms: Vec<String> = requirements.into_iter().flatten().filter_map(equal).collect();
    if !terms.is_empty() {
        out.field_selector = FieldSelector::parse(&terms.join(",")).ok();
    }
    let raw = text(&spec["labelSelector"], "rawSelector");
    if !raw.is_empty() {
        match Selector::parse(&raw) {
            Ok(s) => out.label_selector = Some(s),
            Err(e) => errors.push(selector_error(path, "labelSelector", &raw, e)),
        }
    }
    if let Some(r) = spec["labelSelector"].get("requirements") {
        out.label_selector = Selector::from_label_selector(&json!({"matchExpressions": r})).ok();
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

/// The attributes that a review's spec asks about.
fn attributes(kind: &str, spec: &Value, user: UserInfo) -> Result<Attributes, ApiError> {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (resource, url) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let place = path.child("resourceAttributes");
    match (resource.is_null(), url.is_null()) {
        (false, false) => {
            let detail = "cannot be specified in combination with nonResourceAttributes";
            errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), url.clone(), detail));
        }
        (true, true) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(&place, Value::Null, detail));
        }
        _ => {}
    }
    let mut out = Attributes { user, ..Attributes::default() };
    if url.is_null() {
        out.verb = text(resource, "verb");
        let mut r = ResourceAttributes {
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            ..ResourceAttributes::default()
        };
        selectors(resource, &mut r, &place, &mut errors);
        out.resource = Some(r);
    } else {
        out.verb = text(url, "verb");
        out.path = text(url, "path");
    }
    if kind != "SelfSubjectAccessReview"
        && out.user.username.is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::invalid(
            &path.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if errors.is_empty() {
        return Ok(out);
    }
    Err(ApiError::invalid(&GroupKind::new("authorization.k8s.io", kind.to_string()), "", &errors))
}

async fn decide(authorizer: &dyn Authorizer, attributes: &Attributes, mut document: Value) -> Value {
    let (allowed, denied, reason) = match authorizer.authorize(attributes).await {
        Decision::Allow(reason) => (true, false, reason),
        Decision::Deny(reason) => (false, true, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    document["status"] = status;
    document
}

/// Answers a SelfSubjectAccessReview.
///
/// # Errors
/// 422 for a spec that asks nothing or too much.
pub async fn self_subject_access_review(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    document: Value,
) -> Result<Value, ApiError> {
    let a = attributes("SelfSubjectAccessReview", &document["spec"], user.clone())?;
    Ok(decide(authorizer, &a, document).await)
}

/// Answers a SubjectAccessReview.
///
/// # Errors
/// 422 for a spec that asks nothing, too much, or about nobody.
pub async fn subject_access_review(authorizer: &dyn Authorizer, document: Value) -> Result<Value, ApiError> {
    let a = attributes("SubjectAccessReview", &document["spec"], subject(&document["spec"]))?;
    Ok(decide(authorizer, &a, document).await)
}

/// Answers a LocalSubjectAccessReview in a namespace.
///
/// # Errors
/// As [`subject_access_review`], and 400 for another namespace or a path.
pub async fn local_subject_access_review(
    authorizer: &dyn Authorizer,
    namespace: &str,
    document: Value,
) -> Result<Value, ApiError> {
    let spec = &document["spec"];
    if !spec["nonResourceAttributes"].is_null() {
        let e = FieldError::invalid(
            &Path::new("spec").child("nonResourceAttributes"),
            spec["nonResourceAttributes"].clone(),
            "disallowed on this kind of request",
        );
        let gk = GroupKind::new("authorization.k8s.io", "LocalSubjectAccessReview");
        return Err(ApiError::invalid(&gk, "", &[e]));
    }
    if text(&spec["resourceAttributes"], "namespace") != namespace {
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    let a = attributes("LocalSubjectAccessReview", spec, subject(spec))?;
    Ok(decide(authorizer, &a, document).await)
}

fn subject(spec: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.to_lowercase(), strings(v)))
        .collect();
    UserInfo { username: text(spec, "user"), uid: text(spec, "uid"), groups: strings(&spec["groups"]), extra }
}

/// Answers a SelfSubjectRulesReview.
///
/// # Errors
/// 400 without a namespace.
pub async fn self_subject_rules_review(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    mut document: Value,
) -> Result<Value, ApiError> {
    let namespace = text(&document["spec"], "namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let list = authorizer.rules_for(user, &namespace).await;
    let resources = list.resources.iter().map(|r| {
        let mut v = json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources});
        if !r.names.is_empty() {
            v["resourceNames"] = r.names.clone().into();
        }
        v
    });
    let urls = list.urls.iter().map(|(verbs, urls)| json!({"verbs": verbs, "nonResourceURLs": urls}));
    let mut status = json!({
        "resourceRules": resources.collect::<Vec<_>>(),
        "nonResourceRules": urls.collect::<Vec<_>>(),
        "incomplete": list.incomplete,
    });
    if !list.errors.is_empty() {
        status["evaluationError"] = list.errors.join(", ").into();
    }
    document["status"] = status;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    struct Gets;

    #[async_trait]
    impl Authorizer for Gets {
        async fn authorize(&self, a: &Attributes) -> Decision {
            match a.verb.as_str() {
                "get" => Decision::Allow("because".into()),
                _ => Decision::NoOpinion(String::new()),
            }
        }
    }

    #[tokio::test]
    async fn access_reviews() {
        let ask = |verb: &str| json!({"spec": {"user": "u", "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "n"}}});
        let out = subject_access_review(&Gets, ask("get")).await.unwrap();
        assert_eq!(out["status"], json!({"allowed": true, "reason": "because"}));
        let out = local_subject_access_review(&Gets, "n", ask("list")).await.unwrap();
        assert_eq!(out["status"], json!({"allowed": false}));
        let e = local_subject_access_review(&Gets, "m", ask("list")).await.unwrap_err();
        assert_eq!(e.message, "spec.resourceAttributes.namespace must match namespace: m");
        let e = subject_access_review(&Gets, json!({"spec": {}})).await.unwrap_err();
        assert_eq!(
            e.message,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: [spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified, spec.user: Invalid value: \"\": at least one of user or group must be specified]"
        );
        let me = UserInfo::component("me", &[]);
        let url = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/x"}}});
        let out = self_subject_access_review(&Gets, &me, url).await.unwrap();
        assert_eq!(out["status"]["allowed"], true);
        let out = self_subject_review(&me, json!({}), "2026-01-01T00:00:00Z");
        assert_eq!(out["status"]["userInfo"]["username"], "me");
    }
}
