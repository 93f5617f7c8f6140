//! Who calls the kubelet, and whether they may.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use axum::http::{Method, header, request::Parts};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, api::PostParams};
use parking_lot::Mutex;

use super::{Context, PeerCertificates};

/// An identified caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// User name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// Decides whether a caller may use a part of the kubelet.
#[async_trait::async_trait]
pub trait Access: Send + Sync {
    /// `verb` on `nodes/<subresource>` of this node.
    async fn allowed(&self, caller: &Caller, verb: &str, subresource: &str) -> Result<bool, String>;
    /// Whom a bearer token stands for.
    async fn token(&self, token: &str) -> Result<Option<Caller>, String>;
}

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const MOST_KEPT: usize = 1000;

type Question = (Caller, String, String);

/// [`Access`] that asks the API server and keeps its answers for a while.
pub struct ApiAccess {
    client: kube::Client,
    node: String,
    kept: Mutex<HashMap<Question, (bool, Instant)>>,
}

impl ApiAccess {
    /// Asks with this client about this node.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), kept: Mutex::default() }
    }
}

#[async_trait::async_trait]
impl Access for ApiAccess {
    async fn allowed(&self, caller: &Caller, verb: &str, subresource: &str) -> Result<bool, String> {
        let question = (caller.clone(), verb.to_owned(), subresource.to_owned());
        if let Some((answer, until)) = self.kept.lock().get(&question)
            && *until > Instant::now()
        {
            return Ok(*answer);
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(self.node.clone()),
            ..Default::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(caller.name.clone()),
                groups: Some(caller.groups.clone()),
                resource_attributes: Some(attributes),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| format!("subject access review of {:?}: {e}", caller.name))?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        let mut kept = self.kept.lock();
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(question, (allowed, Instant::now() + if allowed { ALLOWED_FOR } else { DENIED_FOR }));
        Ok(allowed)
    }

    async fn token(&self, token: &str) -> Result<Option<Caller>, String> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer =
            api.create(&PostParams::default(), &review).await.map_err(|e| format!("token review: {e}"))?;
        let status = answer.status.filter(|s| s.authenticated == Some(true));
        Ok(status
            .and_then(|s| s.user)
            .map(|u| Caller { name: u.username.unwrap_or_default(), groups: u.groups.unwrap_or_default() }))
    }
}

/// Who calls: the client certificate's subject, or whom the bearer token stands for.
pub(super) async fn identify(context: &Context, parts: &Parts) -> Result<Option<Caller>, String> {
    if let Some(PeerCertificates(certificates)) = parts.extensions.get()
        && let Some(certificate) = certificates.first()
    {
        return of_certificate(certificate).map(Some);
    }
    let bearer = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|h| h.to_str().ok())
        .and_then(|h| h.strip_prefix("Bearer "));
    match bearer {
        Some(token) => context.access.token(token).await,
        None => Ok(None),
    }
}

/// The common name is the user, the organisations are the groups.
fn of_certificate(certificate: &[u8]) -> Result<Caller, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| format!("client certificate: {e}"))?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().find_map(|a| a.as_str().ok()).unwrap_or_default().to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    groups.push("system:authenticated".to_owned());
    Ok(Caller { name, groups })
}

/// Verb and node subresource of a request, as upstream maps them.
pub(super) fn attributes(method: &Method, path: &str) -> (&'static str, &'static str) {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let under = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let subresource = if under("/stats") {
        "stats"
    } else if under("/metrics") {
        "metrics"
    } else if under("/logs") {
        "log"
    } else if under("/healthz") {
        "healthz"
    } else if under("/pods") || under("/runningpods") {
        "pods"
    } else {
        "proxy"
    };
    (verb, subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_map_to_subresources() {
        for (path, want) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/pods", "pods"),
            ("/exec/a/b/c", "proxy"),
            ("/podsx", "proxy"),
        ] {
            assert_eq!(attributes(&Method::GET, path), ("get", want));
        }
        assert_eq!(attributes(&Method::POST, "/exec/a/b/c"), ("create", "proxy"));
    }
}
