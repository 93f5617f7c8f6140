//! Upstream's statefulset.go: scaling in order and in bursts.

use std::time::Duration;

use serde_json::{Value, json};

use super::statefulset::{SELECTOR, probed, stateful, wait_pods};
use super::workloads::{WEBSERVER, watch_from};
use crate::Result;
use crate::api::{name_of, number, text, version_of};
use crate::context::Context;
use crate::kinds::STATEFUL_SETS;
use crate::watch::Watch;

tests! {
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Scaling should happen in predictable order and halt if any stateful pod is unhealthy [Slow]" => ordered,
    "[sig-apps] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Burst scaling should run to completion even with unhealthy pods [Slow]" => burst,
}

const LIMIT: Duration = Duration::from_secs(600);

/// Runs a line in a pod of the set; its container may just be starting.
async fn run(cx: &Context, pod: &str, line: &str) -> Result<()> {
    let what = format!("{line:?} in {pod}");
    crate::watch::poll(Duration::from_secs(300), Duration::from_secs(1), &what, || async {
        cx.shell(pod, WEBSERVER, line).await.map(Some)
    })
    .await
    .map(|_| ())
}

/// Takes away the file that the readiness probe asks for.
pub(super) async fn break_probe(cx: &Context, pod: &str) -> Result<()> {
    run(cx, pod, "mv -v /localhost.crt /tmp/ || true").await
}

/// Puts the file back.
pub(super) async fn mend_probe(cx: &Context, pod: &str) -> Result<()> {
    run(cx, pod, "mv -v /tmp/localhost.crt / || true").await
}

async fn break_all(cx: &Context) -> Result<()> {
    for pod in cx.pods().labelled(SELECTOR).await? {
        break_probe(cx, name_of(&pod)?).await?;
    }
    Ok(())
}

async fn mend_all(cx: &Context) -> Result<()> {
    for pod in cx.pods().labelled(SELECTOR).await? {
        mend_probe(cx, name_of(&pod)?).await?;
    }
    Ok(())
}

async fn status_of(cx: &Context, field: &str, want: i64) -> Result<()> {
    let what = format!("status.{field} {want}");
    let pointer = format!("/status/{field}");
    let done = |s: Option<&Value>| {
        Ok(s.is_some_and(|s| {
            number(s, "/status/observedGeneration") >= number(s, "/metadata/generation")
                && number(s, &pointer) == want
        }))
    };
    cx.api(&STATEFUL_SETS).wait("ss", LIMIT, &what, done).await.map(|_| ())
}

async fn replicas(cx: &Context, count: i64) -> Result<()> {
    cx.api(&STATEFUL_SETS).modify("ss", |s| s["spec"]["replicas"] = json!(count)).await.map(|_| ())
}

/// For ten seconds the set must have exactly so many pods.
async fn holds(cx: &Context, count: usize) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while tokio::time::Instant::now() < end {
        let pods = cx.pods().labelled(SELECTOR).await?.len();
        ensure_eq!(pods, count, "pods while one of them is not healthy");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Waits until the set has so many pods, ready or not.
async fn reaches(cx: &Context, count: usize) -> Result<()> {
    let what = format!("{count} pods");
    let done = |pods: &[&Value]| Ok((pods.len() == count).then_some(()));
    cx.pods().wait_set(&[("labelSelector", SELECTOR)], LIMIT, &what, done).await
}

/// The next events of that type must be of these pods, in this order.
pub(super) async fn in_sequence(watch: &mut Watch, kind: &str, order: &[&str]) -> Result<()> {
    for name in order {
        let what = format!("{kind} {name}");
        let event = watch.until(LIMIT, &what, |e| e.kind == kind).await?;
        ensure_eq!(text(&event.object, "/metadata/name"), *name, "the next pod that is {kind}");
    }
    Ok(())
}

/// A watch over the pods of the set from now on.
pub(super) async fn pod_watch(cx: &Context) -> Result<Watch> {
    let list = cx.pods().list(&[("labelSelector", SELECTOR)]).await?;
    watch_from(&cx.pods(), SELECTOR, version_of(&list)).await
}

async fn ordered(cx: Context) -> Result<()> {
    let mut ups = pod_watch(&cx).await?;
    let set = probed(stateful(&cx, "ss", 1).await?);
    cx.create(&STATEFUL_SETS, &set).await?;
    wait_pods(&cx, 1, true).await?;
    break_all(&cx).await?;
    wait_pods(&cx, 1, false).await?;
    status_of(&cx, "readyReplicas", 0).await?;
    replicas(&cx, 3).await?;
    holds(&cx, 1).await?;
    mend_all(&cx).await?;
    wait_pods(&cx, 3, true).await?;
    in_sequence(&mut ups, "ADDED", &["ss-0", "ss-1", "ss-2"]).await?;
    let mut downs = pod_watch(&cx).await?;
    break_all(&cx).await?;
    status_of(&cx, "readyReplicas", 0).await?;
    wait_pods(&cx, 3, false).await?;
    replicas(&cx, 0).await?;
    holds(&cx, 3).await?;
    mend_all(&cx).await?;
    reaches(&cx, 0).await?;
    status_of(&cx, "replicas", 0).await?;
    in_sequence(&mut downs, "DELETED", &["ss-2", "ss-1", "ss-0"]).await
}

async fn burst(cx: Context) -> Result<()> {
    let mut set = probed(stateful(&cx, "ss", 1).await?);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    cx.create(&STATEFUL_SETS, &set).await?;
    wait_pods(&cx, 1, true).await?;
    break_all(&cx).await?;
    wait_pods(&cx, 1, false).await?;
    status_of(&cx, "readyReplicas", 0).await?;
    replicas(&cx, 3).await?;
    reaches(&cx, 3).await?;
    mend_all(&cx).await?;
    wait_pods(&cx, 3, true).await?;
    break_all(&cx).await?;
    status_of(&cx, "readyReplicas", 0).await?;
    wait_pods(&cx, 3, false).await?;
    replicas(&cx, 0).await?;
    reaches(&cx, 0).await?;
    status_of(&cx, "replicas", 0).await
}
