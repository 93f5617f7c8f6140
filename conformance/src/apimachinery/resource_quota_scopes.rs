//! Upstream's resource_quota.go: scopes.

use serde_json::{Value, json};

use super::quota::{create, pod, used};
use crate::Result;
use crate::context::Context;

tests! {
    "[sig-api-machinery] ResourceQuota should verify ResourceQuota with terminating scopes." => terminating,
    "[sig-api-machinery] ResourceQuota should verify ResourceQuota with best effort scope." => best_effort,
}

fn hard() -> Value {
    json!({
        "pods": "5", "requests.cpu": "1", "requests.memory": "500Mi", "limits.cpu": "2", "limits.memory": "1Gi",
    })
}

fn none() -> Value {
    json!({"pods": "0", "requests.cpu": "0", "requests.memory": "0", "limits.cpu": "0", "limits.memory": "0"})
}

async fn terminating(cx: Context) -> Result<()> {
    let (ending, lasting) = ("quota-terminating", "quota-not-terminating");
    create(&cx, ending, json!({"hard": hard(), "scopes": ["Terminating"]})).await?;
    used(&cx, ending, none()).await?;
    create(&cx, lasting, json!({"hard": hard(), "scopes": ["NotTerminating"]})).await?;
    used(&cx, lasting, none()).await?;
    let requests = json!({"cpu": "500m", "memory": "200Mi"});
    let limits = json!({"cpu": "1", "memory": "400Mi"});
    let taken = json!({
        "pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi", "limits.cpu": "1", "limits.memory": "400Mi",
    });
    let long = pod("test-pod", requests.clone(), limits.clone());
    let mut short = pod("terminating-pod", requests, limits);
    short["spec"]["activeDeadlineSeconds"] = json!(3600);
    for (made, name, mine, other) in
        [(long, "test-pod", lasting, ending), (short, "terminating-pod", ending, lasting)]
    {
        cx.pods().create(&made).await?;
        used(&cx, mine, taken.clone()).await?;
        used(&cx, other, none()).await?;
        cx.pods().delete_now(name).await?;
        used(&cx, mine, none()).await?;
    }
    Ok(())
}

async fn best_effort(cx: Context) -> Result<()> {
    let (best, other) = ("quota-besteffort", "quota-not-besteffort");
    create(&cx, best, json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]})).await?;
    used(&cx, best, json!({"pods": "0"})).await?;
    create(&cx, other, json!({"hard": {"pods": "5"}, "scopes": ["NotBestEffort"]})).await?;
    used(&cx, other, json!({"pods": "0"})).await?;
    let plain = pod("besteffort-pod", json!({}), json!({}));
    let burst = pod(
        "burstable-pod",
        json!({"cpu": "500m", "memory": "200Mi"}),
        json!({"cpu": "1", "memory": "400Mi"}),
    );
    for (made, name, mine, rest) in
        [(plain, "besteffort-pod", best, other), (burst, "burstable-pod", other, best)]
    {
        cx.pods().create(&made).await?;
        used(&cx, mine, json!({"pods": "1"})).await?;
        used(&cx, rest, json!({"pods": "0"})).await?;
        cx.pods().delete_now(name).await?;
        used(&cx, mine, json!({"pods": "0"})).await?;
    }
    Ok(())
}
