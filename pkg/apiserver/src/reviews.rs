//! Reviews: kinds that are answered and not stored (TokenReview, the access reviews, SelfSubjectReview).

use std::sync::Arc;

use axum::response::Response;
use knarr_auth::review;
use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use serde_json::json;

use crate::body;
use crate::server::{Call, Inner};
use crate::writing::{Writing, take_body};

/// Answers a review.
///
/// # Errors
/// 422 for incomplete reviews, what decoding raises.
pub(crate) async fn answer(server: &Arc<Inner>, kind: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let writing = Writing::new(server, kind, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, kind, writing.validation)?;
    let mut document = decoded.value;
    knarr_registry::obj::set_gvk(&mut document, &kind.info.gvk);
    if !document["metadata"].is_object() {
        document["metadata"] = json!({});
    }
    let authorizer = server.authorizer();
    let answered = match &*kind.info.plural {
        "tokenreviews" => review::token_review(&*server.tokens()?, document).await?,
        "selfsubjectreviews" => {
            review::self_subject_review(&call.user, document, &knarr_registry::registry::now())
        }
        "selfsubjectrulesreviews" => {
            review::self_subject_rules_review(&*authorizer, &call.user, document).await?
        }
        "subjectaccessreviews" => review::subject_access_review(&*authorizer, document).await?,
        "selfsubjectaccessreviews" => {
            review::self_subject_access_review(&*authorizer, &call.user, document).await?
        }
        "localsubjectaccessreviews" => {
            review::local_subject_access_review(&*authorizer, &call.info.namespace, document).await?
        }
        other => {
            return Err(ApiError::new(
                501,
                "NotImplemented",
                format!("{other} are not supported by this server"),
            ));
        }
    };
    writing.respond_as(201, &answered, &[], &decoded.warnings)
}
