//! Upstream's table_conversion.go.

use http::Method;
use serde_json::json;

use crate::Result;
use crate::api::text;
use crate::context::Context;
use crate::kinds::SELF_ACCESS_REVIEWS;

tests! {
    "[sig-api-machinery] Servers with support for Table transformation should return a 406 for a backend which does not implement metadata" => not_acceptable,
}

async fn not_acceptable(cx: Context) -> Result<()> {
    let review = SELF_ACCESS_REVIEWS.document(json!({"spec": {
        "nonResourceAttributes": {"path": "/", "verb": "get"},
    }}));
    let headers =
        [("content-type", "application/json"), ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let uri = cx.api(&SELF_ACCESS_REVIEWS).path();
    let reply = cx.rest().raw(Method::POST, &uri, &headers, review.to_string().into_bytes()).await?;
    ensure_eq!(reply.code, 406, "status of a review asked for as a table: {}", reply.text());
    let status = reply.json()?;
    ensure_eq!(text(&status, "/reason"), "NotAcceptable", "reason of the refusal");
    Ok(())
}
