//! Errors as clients see them: `metav1.Status` with upstream's reasons and messages.

use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::gvk::{GroupKind, GroupResource};

/// `metav1.StatusCause`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// Machine readable reason, for example `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Human readable message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field concerned.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `metav1.StatusDetails`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource or kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The single causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which a retry may succeed; 0 means none given.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// A failed API request: HTTP code, reason, message and details of a `metav1.Status`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `Status.reason`, may be empty.
    pub reason: String,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`.
    pub details: Option<Box<Details>>,
}

impl ApiError {
    /// Any error without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.to_string(), message: message.into(), details: None }
    }

    fn of(code: u16, reason: &str, gr: &GroupResource, name: &str, message: String) -> Self {
        let details = Details {
            name: name.to_string(),
            group: gr.group.to_string(),
            kind: gr.resource.to_string(),
            ..Details::default()
        };
        Self { code, reason: reason.to_string(), message, details: Some(Box::new(details)) }
    }

    /// 404 NotFound.
    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::of(404, "NotFound", gr, name, format!("{gr} \"{name}\" not found"))
    }

    /// 409 AlreadyExists.
    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::of(409, "AlreadyExists", gr, name, format!("{gr} \"{name}\" already exists"))
    }

    /// 409 Conflict with its cause.
    pub fn conflict(gr: &GroupResource, name: &str, cause: &str) -> Self {
        Self::of(
            409,
            "Conflict",
            gr,
            name,
            format!("Operation cannot be fulfilled on {gr} \"{name}\": {cause}"),
        )
    }

    /// 409 Conflict for an outdated resourceVersion.
    pub fn modified(gr: &GroupResource, name: &str) -> Self {
        Self::conflict(
            gr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403 Forbidden with the text that follows the colon.
    pub fn forbidden(gr: &GroupResource, name: &str, cause: &str) -> Self {
        let message = match (gr.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {cause}"),
            (false, true) => format!("{gr} is forbidden: {cause}"),
            (false, false) => format!("{gr} \"{name}\" is forbidden: {cause}"),
        };
        Self::of(403, "Forbidden", gr, name, message)
    }

    /// 422 Invalid with all field errors at once.
    pub fn invalid(gk: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // Each is told once; the causes are all of them.
        let mut told: Vec<String> = Vec::new();
        for text in texts {
            if !told.contains(&text) {
                told.push(text);
            }
        }
        let texts = told;
        let list = if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) };
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.reason().to_string(), message: e.body(), field: e.field.clone() })
            .collect();
        let details = Details {
            name: name.to_string(),
            group: gk.group.to_string(),
            kind: gk.kind.to_string(),
            causes,
            ..Details::default()
        };
        Self {
            code: 422,
            reason: "Invalid".to_string(),
            message: format!("{gk} \"{name}\" is invalid: {list}"),
            details: Some(Box::new(details)),
        }
    }

    /// 400 BadRequest.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401 Unauthorized.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405 MethodNotAllowed.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 404 for a path that no handler serves.
    pub fn path_not_found() -> Self {
        Self {
            details: Some(Box::new(Details::default())),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    /// 410 Expired: the resourceVersion or continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 Gone.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 504 Timeout.
    pub fn timeout(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(504, "Timeout", message).with_retry(retry_after_seconds)
    }

    /// 429 TooManyRequests.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry(retry_after_seconds)
    }

    /// 413 RequestEntityTooLarge.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415 UnsupportedMediaType.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 406 NotAcceptable.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 503 ServiceUnavailable.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 500 without a reason, as upstream answers what it has no name for.
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// 500 InternalError.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let details = Details {
            causes: vec![Cause { message: cause.to_string(), ..Cause::default() }],
            ..Details::default()
        };
        Self {
            code: 500,
            reason: "InternalError".to_string(),
            message: format!("Internal error occurred: {cause}"),
            details: Some(Box::new(details)),
        }
    }

    /// Sets `details.retryAfterSeconds` (also sent as the `Retry-After` header).
    #[must_use]
    pub fn with_retry(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds causes to the details.
    #[must_use]
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_default().causes.extend(causes);
        self
    }

    /// Whether this is a 404 NotFound.
    pub fn is_not_found(&self) -> bool {
        self.code == 404 && self.reason == "NotFound"
    }

    /// Whether this is a 409 Conflict (not AlreadyExists).
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// The `v1 Status` document.
    pub fn to_value(&self) -> serde_json::Value {
        let mut status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.clone().into();
        }
        if let Some(details) = &self.details {
            // Details are plain strings and numbers: this cannot fail, and null would be dropped by clients.
            status["details"] = serde_json::to_value(details).unwrap_or_default();
        }
        status
    }
}
