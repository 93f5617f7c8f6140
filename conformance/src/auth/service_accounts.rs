//! Upstream's service_accounts.go: the objects, root certificates, tokens on request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, array, text, version_of};
use crate::context::{Context, random};
use crate::kinds::{CONFIG_MAPS, SERVICE_ACCOUNTS, TOKEN_REVIEWS};

tests! {
    "[sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount" => lifecycle,
    "[sig-auth] ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace" => root_certificates,
    "[sig-auth] ServiceAccounts should update a ServiceAccount" => update,
    "[sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview" => token,
}

const MINUTE: Duration = Duration::from_secs(60);

async fn lifecycle(cx: Context) -> Result<()> {
    let name = "testserviceaccount";
    let selector = "test-serviceaccount-static=true";
    let api = cx.api(&SERVICE_ACCOUNTS);
    let list = api.list(&[("labelSelector", selector)]).await?;
    let mut watch = api.watch(&[("labelSelector", selector), ("resourceVersion", version_of(&list))]).await?;
    let labels = json!({"test-serviceaccount-static": "true"});
    api.create(&json!({"metadata": {"name": name, "labels": labels}})).await?;
    watch.until(MINUTE, "ADDED", |e| e.kind == "ADDED" && text(&e.object, "/metadata/name") == name).await?;
    api.patch(name, Patch::Strategic(json!({"automountServiceAccountToken": false}))).await?;
    watch
        .until(MINUTE, "MODIFIED", |e| {
            e.kind == "MODIFIED" && e.object["automountServiceAccountToken"] == false
        })
        .await?;
    let all = cx.api_all(&SERVICE_ACCOUNTS).labelled(selector).await?;
    let found = all.iter().any(|s| {
        text(s, "/metadata/name") == name
            && text(s, "/metadata/namespace") == cx.namespace()
            && s["automountServiceAccountToken"] == false
    });
    anyhow::ensure!(found, "the list over all namespaces does not have the patched account: {all:?}");
    api.delete_collection(&[("labelSelector", selector)]).await?;
    watch
        .until(MINUTE, "DELETED", |e| e.kind == "DELETED" && text(&e.object, "/metadata/name") == name)
        .await?;
    Ok(())
}

async fn root_certificates(cx: Context) -> Result<()> {
    let name = "kube-root-ca.crt";
    let api = cx.api(&CONFIG_MAPS);
    let there =
        |m: Option<&Value>| Ok(m.is_some_and(|m| text(m, "/data/ca.crt").contains("BEGIN CERTIFICATE")));
    let first = api.wait(name, MINUTE, "root certificates", there).await?;
    api.delete(name).await?;
    let uid = text(&first, "/metadata/uid");
    let anew = |m: Option<&Value>| Ok(m.is_some_and(|m| text(m, "/metadata/uid") != uid));
    let second = api.wait(name, MINUTE, "made anew after its deletion", anew).await?;
    ensure_eq!(second["data"], first["data"], "data of the new ConfigMap");
    api.modify(name, |m| m["data"] = json!({"ca.crt": ""})).await?;
    let mended = |m: Option<&Value>| Ok(m.is_some_and(|m| m["data"] == first["data"]));
    api.wait(name, MINUTE, "its data is put back", mended).await.map(|_| ())
}

async fn update(cx: Context) -> Result<()> {
    let name = format!("e2e-sa-{}", random(5));
    let api = cx.api(&SERVICE_ACCOUNTS);
    api.create(&json!({"metadata": {"name": name}})).await?;
    let updated = api.modify(&name, |s| s["automountServiceAccountToken"] = json!(false)).await?;
    ensure_eq!(
        updated["automountServiceAccountToken"],
        json!(false),
        "automountServiceAccountToken of the answer"
    );
    let seen = api.get(&name).await?;
    ensure_eq!(seen["automountServiceAccountToken"], json!(false), "automountServiceAccountToken");
    Ok(())
}

/// What a TokenReview must say of a token of a service account.
pub(super) async fn reviewed(cx: &Context, token: &str, account: &str) -> Result<Value> {
    let review = cx.api(&TOKEN_REVIEWS).create(&json!({"spec": {"token": token}})).await?;
    ensure_eq!(review["status"]["authenticated"], json!(true), "authenticated in {}", review["status"]);
    ensure_eq!(text(&review, "/status/error"), "", "error of the review");
    let user = format!("system:serviceaccount:{}:{account}", cx.namespace());
    ensure_eq!(text(&review, "/status/user/username"), user, "user of the token");
    let groups: Vec<&str> = array(&review, "/status/user/groups").iter().filter_map(Value::as_str).collect();
    let own = format!("system:serviceaccounts:{}", cx.namespace());
    for want in ["system:authenticated", "system:serviceaccounts", own.as_str()] {
        anyhow::ensure!(groups.contains(&want), "the token's groups {groups:?} lack {want}");
    }
    Ok(review)
}

async fn token(cx: Context) -> Result<()> {
    let name = format!("e2e-sa-{}", random(5));
    let api = cx.api(&SERVICE_ACCOUNTS);
    api.create(&json!({"metadata": {"name": name}})).await?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = api.create_sub(&name, "token", &request).await?;
    let token = text(&answer, "/status/token");
    anyhow::ensure!(!token.is_empty(), "the answer has no token: {answer}");
    anyhow::ensure!(!text(&answer, "/status/expirationTimestamp").is_empty(), "the token has no end");
    reviewed(&cx, token, &name).await.map(|_| ())
}
