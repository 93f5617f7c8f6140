//! Upstream's chunking.go.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{array, number, text, version_of};
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::POD_TEMPLATES;
use crate::rest::{is_code, refusal};

tests! {
    "[sig-api-machinery] Servers with support for API chunking should return chunks of results for list calls" => chunks,
    "[sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent [Slow]" => expired,
}

const TOTAL: usize = 400;
const PAGE: usize = 40;

fn name(index: usize) -> String {
    format!("template-{index:04}")
}

async fn fill(cx: &Context) -> Result<()> {
    let api = cx.api(&POD_TEMPLATES);
    let spec = json!({"containers": [{"name": "test", "image": AGNHOST}]});
    let made = futures::stream::iter(0..TOTAL).map(|index| {
        let body = json!({
            "metadata": {"name": name(index)},
            "template": {"metadata": {"labels": {"name": "test"}}, "spec": spec},
        });
        let api = api.clone();
        async move { api.create(&body).await.map(|_| ()) }
    });
    made.buffer_unordered(10).collect::<Vec<_>>().await.into_iter().collect()
}

async fn page(cx: &Context, limit: usize, token: &str) -> Result<Value> {
    let limit = limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    if !token.is_empty() {
        query.push(("continue", token));
    }
    cx.api(&POD_TEMPLATES).list(&query).await
}

/// The page holds the next names in order, and counts what is left.
fn check(list: &Value, found: usize) -> Result<usize> {
    let items = array(list, "/items");
    for (offset, item) in items.iter().enumerate() {
        ensure_eq!(text(item, "/metadata/name"), name(found + offset), "item {} of the list", found + offset);
    }
    let found = found + items.len();
    if text(list, "/metadata/continue").is_empty() {
        anyhow::ensure!(
            list["metadata"]["remainingItemCount"].is_null(),
            "remainingItemCount on the last page"
        );
    } else {
        let left = number(list, "/metadata/remainingItemCount");
        ensure_eq!(left as usize + found, TOTAL, "items so far and remainingItemCount");
    }
    Ok(found)
}

async fn chunks(cx: Context) -> Result<()> {
    fill(&cx).await?;
    let (mut found, mut token, mut version) = (0, String::new(), String::new());
    loop {
        let list = page(&cx, PAGE, &token).await?;
        ensure_eq!(array(&list, "/items").len(), PAGE, "items of a page");
        if version.is_empty() {
            version = version_of(&list).to_string();
        }
        ensure_eq!(version_of(&list), version, "resource version of the page");
        found = check(&list, found)?;
        token = text(&list, "/metadata/continue").to_string();
        if token.is_empty() {
            break;
        }
    }
    ensure_eq!(found, TOTAL, "items on all pages");
    let list = page(&cx, TOTAL + 1, "").await?;
    ensure_eq!(array(&list, "/items").len(), TOTAL, "items of the list in one");
    Ok(())
}

async fn expired(cx: Context) -> Result<()> {
    fill(&cx).await?;
    let first = page(&cx, PAGE, "").await?;
    ensure_eq!(array(&first, "/items").len(), PAGE, "items of the first page");
    check(&first, 0)?;
    let token = text(&first, "/metadata/continue").to_string();
    let refusal = outlived(&cx, &token).await?;
    let next = text(&refusal, "/metadata/continue").to_string();
    anyhow::ensure!(!next.is_empty(), "the refusal of the old token has no new one: {refusal}");
    let second = page(&cx, PAGE, &next).await?;
    let version = version_of(&second).to_string();
    anyhow::ensure!(version != version_of(&first), "the list goes on at the version that was compacted away");
    anyhow::ensure!(!version.is_empty() && version != "0", "the list goes on at version {version:?}");
    ensure_eq!(array(&second, "/items").len(), PAGE, "items of the second page");
    let mut found = check(&second, PAGE)?;
    let mut token = text(&second, "/metadata/continue").to_string();
    while !token.is_empty() {
        let list = page(&cx, PAGE, &token).await?;
        ensure_eq!(version_of(&list), version, "resource version of the page");
        found = check(&list, found)?;
        token = text(&list, "/metadata/continue").to_string();
    }
    ensure_eq!(found, TOTAL, "items on all pages");
    Ok(())
}

/// Asks with the token each 20 seconds, for at most 10 minutes, until it has expired: the refusal.
async fn outlived(cx: &Context, token: &str) -> Result<Value> {
    let end = tokio::time::Instant::now() + Duration::from_secs(600);
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(20)).await;
        match page(cx, PAGE, token).await {
            Ok(list) => ensure_eq!(array(&list, "/items").len(), PAGE, "items of the second page"),
            Err(e) if is_code(&e, 410) => {
                let status = refusal(&e).map(|s| s.status.clone()).unwrap_or_default();
                ensure_eq!(text(&status, "/reason"), "Expired", "reason of the refusal");
                return Ok(status);
            }
            Err(e) => return Err(e),
        }
    }
    anyhow::bail!("the token still works after 10 minutes: old versions are never compacted")
}
