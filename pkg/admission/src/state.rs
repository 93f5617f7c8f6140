//! How plugins reach state: the client for single documents, the informers for lists.

use http::Method;
use knarr_machinery::ApiError;
use knarr_machinery::status::{Cause, Details};
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

/// What every plugin gets.
#[derive(Clone)]
pub struct Context {
    /// Single documents. The client must be of `system:masters`.
    pub api: Api,
    /// Lists of kinds.
    pub informers: std::sync::Arc<knarr_client::Informers>,
}

impl Context {
    /// Plugins over this client and its informers.
    pub fn new(client: kube::Client, informers: std::sync::Arc<knarr_client::Informers>) -> Self {
        Self { api: Api::new(client), informers }
    }
}
