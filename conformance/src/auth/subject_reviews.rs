//! Upstream's subjectreviews.go.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, text};
use crate::context::Context;
use crate::kinds::{ACCESS_REVIEWS, CONFIG_MAPS, LOCAL_ACCESS_REVIEWS, SERVICE_ACCOUNTS};
use crate::rest::is_code;

tests! {
    "[sig-auth] SubjectReview should support SubjectReview API operations" => operations,
}

async fn operations(cx: Context) -> Result<()> {
    let account = cx.api(&SERVICE_ACCOUNTS).create(&json!({"metadata": {"name": "e2e"}})).await?;
    let ns = cx.namespace();
    let user = format!("system:serviceaccount:{ns}:e2e");
    let own = format!("system:serviceaccounts:{ns}");
    let groups = ["system:authenticated", "system:serviceaccounts", own.as_str()];
    let spec = |user: &str| {
        json!({
            "resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": ns, "version": "v1"},
            "user": user, "groups": groups, "uid": text(&account, "/metadata/uid"),
        })
    };
    let review = cx.api(&ACCESS_REVIEWS).create(&json!({"spec": spec(&user)})).await?;
    let expected = allowed(&review)?;
    let as_account = cx.rest().impersonate(&user, &groups);
    let maps = Api { rest: as_account, ..cx.api(&CONFIG_MAPS) };
    let actual = match maps.list(&[]).await {
        Ok(_) => true,
        Err(e) if is_code(&e, 403) => false,
        Err(e) => return Err(e),
    };
    ensure_eq!(actual, expected, "whether {user} may list, against the SubjectAccessReview");
    let local = json!({"metadata": {"namespace": ns}, "spec": spec("e2e")});
    let local = cx.api(&LOCAL_ACCESS_REVIEWS).create(&local).await?;
    ensure_eq!(allowed(&local)?, actual, "allowed in the LocalSubjectAccessReview");
    Ok(())
}

fn allowed(review: &Value) -> Result<bool> {
    review["status"]["allowed"]
        .as_bool()
        .ok_or_else(|| anyhow::anyhow!("status.allowed is missing in {review}"))
}
