//! Upstream: `test/e2e/network/service_latency.go`.

use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::Result;
use crate::api::array;
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::{ENDPOINT_SLICES, SERVICES};
use crate::pods::{container, pod};

tests! {
    "[sig-network] Service endpoints latency should not be very high" => latency,
}

const SERVICES_IN_ALL: usize = 100;
const SIDE_BY_SIDE: usize = 15;

async fn latency(c: Context) -> Result<()> {
    let name = "svc-latency-rc";
    let mut pod = pod(name, json!([container(name, PAUSE, &[])]));
    pod["metadata"]["labels"] = json!({"name": name});
    c.start(&pod).await?;
    // One to warm up, as upstream does.
    one(&c, name).await?;
    let times = stream::iter(0..SERVICES_IN_ALL).map(|_| one(&c, name)).buffer_unordered(SIDE_BY_SIDE);
    let mut times: Vec<Duration> = times.try_collect().await?;
    times.sort();
    let percentile = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)];
    let (p50, p90, p99) = (percentile(50), percentile(90), percentile(99));
    let limit = |what: &str, seen: Duration, seconds: u64| {
        anyhow::ensure!(
            seen < Duration::from_secs(seconds),
            "{what} of the latency is {seen:?}, the limit {seconds} s"
        );
        Ok(())
    };
    limit("the median", p50, 20)?;
    limit("the 90th percentile", p90, 50)?;
    limit("the 99th percentile", p99, 50)
}

/// From the creation of a service to its endpoint.
async fn one(c: &Context, pod: &str) -> Result<Duration> {
    let body = json!({"metadata": {"generateName": "latency-svc-"}, "spec": {
        "selector": {"name": pod}, "ports": [{"protocol": "TCP", "port": 80}], "type": "ClusterIP", "sessionAffinity": "None"}});
    let start = Instant::now();
    let made = c.create(&SERVICES, &body).await?;
    let selector = format!("kubernetes.io/service-name={}", crate::api::name_of(&made)?);
    c.api(&ENDPOINT_SLICES)
        .wait_set(
            &[("labelSelector", &selector)],
            Duration::from_secs(60),
            "the endpoint of a new service",
            |l| Ok(l.iter().any(|s| !array(s, "/endpoints").is_empty()).then_some(())),
        )
        .await?;
    Ok(start.elapsed())
}
