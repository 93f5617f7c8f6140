//! How plugins reach state: the client for single documents, the informers for lists.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use knarr_cel::authority::{Check, Decision};
use knarr_kinds::Kind;
use knarr_machinery::status::{Cause, Details};
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource, UserInfo};
use serde_json::Value;

/// Requests for documents by path.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
}

impl Api {
    /// Requests over this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Value, ApiError> {
        let request = http::Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| ApiError::internal(format!("{method} {path}: {e}")))?;
        self.client.request::<Value>(request).await.map_err(|e| to_api_error(&e, &format!("{method} {path}")))
    }

    /// A document, or None when there is none.
    ///
    /// # Errors
    /// What the API answers.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.request(Method::GET, path, Vec::new()).await {
            Ok(v) => Ok(Some(v)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends a document.
    ///
    /// # Errors
    /// What the API answers.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.request(method, path, body.to_string().into_bytes()).await
    }
}

/// An error of the client as the API told it.
fn to_api_error(error: &kube::Error, operation: &str) -> ApiError {
    let kube::Error::Api(status) = error else {
        return ApiError::internal(format!("{operation}: {error}"));
    };
    let mut out = ApiError::new(status.code, &status.reason, status.message.clone());
    if let Some(d) = &status.details {
        let causes = d.causes.iter().map(|c| Cause {
            reason: c.reason.clone(),
            message: c.message.clone(),
            field: c.field.clone(),
        });
        out.details = Some(Box::new(Details {
            name: d.name.clone(),
            group: d.group.clone(),
            kind: d.kind.clone(),
            uid: d.uid.clone(),
            causes: causes.collect(),
            ..Details::default()
        }));
    }
    out
}

/// A webhook that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// What happened, such as `Post "https://...": context deadline exceeded`.
    pub message: String,
    /// The code that metrics tell.
    pub code: u16,
}

/// What plugins need of the server that they are part of.
#[async_trait]
pub trait Server: Send + Sync {
    /// The other served kinds of what is stored where this resource is.
    fn equivalents(&self, resource: &GroupVersionResource) -> Vec<Kind>;

    /// A served kind by its name.
    fn kind(&self, gvk: &GroupVersionKind) -> Option<Kind>;

    /// A document in another version.
    ///
    /// # Errors
    /// A form that the version cannot tell.
    async fn convert(&self, from: &Kind, to: &Kind, document: Value) -> Result<Value, ApiError>;

    /// Sends a review to a webhook by its `clientConfig`.
    ///
    /// # Errors
    /// It cannot be reached in time, or does not answer with a document.
    async fn call(&self, client: &Value, limit: Duration, review: &Value) -> Result<Value, CallError>;

    /// What the authorizer says to a question about a user.
    async fn decide(&self, user: &UserInfo, check: &Check) -> Decision;
}

/// What every plugin gets.
#[derive(Clone)]
pub struct Context {
    /// The server.
    pub server: Arc<dyn Server>,
    /// Single documents. The client must be of `system:masters`.
    pub api: Api,
    /// Lists of kinds.
    pub informers: Arc<knarr_client::Informers>,
}

impl Context {
    /// Plugins over this client and its informers.
    pub fn new(
        client: kube::Client,
        informers: Arc<knarr_client::Informers>,
        server: Arc<dyn Server>,
    ) -> Self {
        Self { api: Api::new(client), informers, server }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A server that has no webhooks, and whose authorizer allows `get` only.
    pub(crate) struct FakeServer;

    #[async_trait]
    impl Server for FakeServer {
        fn equivalents(&self, _: &GroupVersionResource) -> Vec<Kind> {
            Vec::new()
        }

        fn kind(&self, _: &GroupVersionKind) -> Option<Kind> {
            None
        }

        async fn convert(&self, _: &Kind, _: &Kind, document: Value) -> Result<Value, ApiError> {
            Ok(document)
        }

        async fn call(&self, _: &Value, _: Duration, _: &Value) -> Result<Value, CallError> {
            Err(CallError { message: "nobody is there".into(), code: 503 })
        }

        async fn decide(&self, _: &UserInfo, check: &Check) -> Decision {
            Decision { allowed: check.verb == "get", reason: "only get".into(), error: String::new() }
        }
    }
}
