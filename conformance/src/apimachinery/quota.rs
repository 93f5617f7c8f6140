//! What the tests of resource quotas share.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Kind, array};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::RESOURCE_QUOTAS;
use crate::rest::refused;

/// Upstream's limit for the controller's count.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// A resource that only quotas know.
pub(super) const DONGLE: &str = "example.com/dongle";

/// Upstream's quota for these tests.
pub(super) fn hard() -> Value {
    json!({
        "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "10", "resourcequotas": "1", "cpu": "1", "memory": "500Mi", "configmaps": "10",
        "secrets": "10", "persistentvolumeclaims": "10", "requests.storage": "10Gi",
        "requests.ephemeral-storage": "50Gi", "count/replicasets.apps": "5",
        "requests.example.com/dongle": "3",
    })
}

/// Creates a quota.
pub(super) async fn create(cx: &Context, name: &str, spec: Value) -> Result<Value> {
    cx.create(&RESOURCE_QUOTAS, &json!({"metadata": {"name": name}, "spec": spec})).await
}

/// A quantity as a number, in thousandths.
fn milli(quantity: &str) -> Option<i128> {
    let digits = quantity.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: i128 = digits.parse().ok()?;
    let factor: i128 = match &quantity[digits.len()..] {
        "" => 1000,
        "m" => 1,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => return None,
    };
    Some(number * factor)
}

/// Whether a map of quantities has at least these, whatever their spelling.
fn covers(map: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(key, value)| {
        let number = |v: &Value| v.as_str().and_then(milli);
        map.get(key)
            .is_some_and(|got| got == value || (number(got).is_some() && number(got) == number(value)))
    })
}

/// Waits until the quota's usage has these values.
pub(super) async fn used(cx: &Context, name: &str, wanted: Value) -> Result<Value> {
    let what = format!("status.used has {wanted}");
    let done = |q: Option<&Value>| Ok(q.is_some_and(|q| covers(&q["status"]["used"], &wanted)));
    cx.api(&RESOURCE_QUOTAS).wait(name, LIMIT, &what, done).await
}

/// The creation must be refused because of the quota.
pub(super) async fn exceeds(cx: &Context, kind: &Kind, body: &Value, what: &str) -> Result<()> {
    let refusal = refused(cx.api(kind).create(body).await, 403, what)?;
    ensure_eq!(refusal.reason(), "Forbidden", "reason of the refusal");
    ensure_contains!(refusal.message(), "exceeded quota", "message of the refusal");
    Ok(())
}

/// A pod with these requests and limits.
pub(super) fn pod(name: &str, requests: Value, limits: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": PAUSE, "resources": {"requests": requests, "limits": limits}}],
        },
    })
}

/// How many objects of a kind are in the namespace once nobody adds any.
pub(super) async fn present(cx: &Context, kind: &Kind) -> Result<usize> {
    let mut last = usize::MAX;
    loop {
        let list = cx.api(kind).list(&[]).await?;
        let now = array(&list, "/items").len();
        if now == last {
            return Ok(now);
        }
        last = now;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::covers;
    use serde_json::json;

    #[test]
    fn quantities_are_compared_by_value() {
        let map = json!({"cpu": "500m", "memory": "1Gi", "pods": "2"});
        assert!(covers(&map, &json!({"cpu": "0.5"})) || covers(&map, &json!({"cpu": "500m"})));
        assert!(covers(&map, &json!({"memory": "1024Mi", "pods": "2"})));
        assert!(!covers(&map, &json!({"pods": "3"})));
        assert!(!covers(&map, &json!({"secrets": "0"})));
    }
}
