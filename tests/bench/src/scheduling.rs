//! Scheduling over simulated nodes: ours only, because stock has no scheduler that can be had here.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;

use crate::load::{Figure, fill};
use crate::side::{Recipe, Side};

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Pods over nodes: (nodes, pods). Upstream's scheduler_perf uses these sizes.
const SIZES: &[(usize, usize)] = &[(500, 5_000), (5_000, 10_000)];

fn node(number: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"sim-{number}","labels":{{"topology.kubernetes.io/zone":"z{}","simulated":"yes"}}}},"status":{{"capacity":{{"cpu":"32","memory":"128Gi","pods":"110"}},"allocatable":{{"cpu":"32","memory":"128Gi","pods":"110"}},"conditions":[{{"type":"Ready","status":"True","reason":"Simulated"}}]}}}}"#,
        number % 3
    ))
}

fn pod(number: usize) -> Bytes {
    Bytes::from(format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"s{number}","labels":{{"app":"bench"}}}},"spec":{{"nodeSelector":{{"simulated":"yes"}},"containers":[{{"name":"c","image":"registry.example/bench:1","resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}}}}}}]}}}}"#
    ))
}

/// All sizes.
///
/// # Errors
/// A pod is not scheduled in two minutes.
pub async fn all(recipe: &Recipe, quick: bool) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (nodes, pods) in SIZES.iter().take(if quick { 1 } else { SIZES.len() }) {
        let side = recipe.start(None).await?;
        let outcome = one(&side, *nodes, *pods).await;
        side.stop();
        figures.extend(outcome.with_context(|| format!("{pods} pods over {nodes} nodes"))?);
    }
    Ok(figures)
}

async fn one(side: &Side, nodes: usize, pods: usize) -> anyhow::Result<Vec<Figure>> {
    // The service account of the default namespace comes a moment after readiness.
    tokio::time::sleep(Duration::from_secs(2)).await;
    fill(&side.target, nodes, NODES, node).await?;
    let target = side.target.clone();
    let counting = tokio::spawn(async move { bound(&target, pods).await });
    let before = crate::process::usage(&side.pids)?;
    let begun = Instant::now();
    fill(&side.target, pods, PODS, pod).await?;
    let created = begun.elapsed().as_secs_f64();
    let finished = tokio::time::timeout(Duration::from_secs(120), counting)
        .await
        .context("not all pods were bound in 120 s")???;
    let seconds = finished.duration_since(begun).as_secs_f64();
    let used = crate::process::usage(&side.pids)?.since(before);
    let what = format!("{pods} pods over {nodes} nodes");
    let figure = |what: String, unit, value, less| Figure { what, unit, value, less };
    Ok(vec![
        figure(format!("{what}, created"), "pods/s", pods as f64 / created, false),
        figure(format!("{what}, created and bound"), "pods/s", pods as f64 / seconds, false),
        figure(format!("{what}, whole process CPU"), "ms a pod", used.cpu_ms / pods as f64, true),
    ])
}

/// Waits until so many pods have a node; gives the moment of the last one.
async fn bound(target: &crate::wire::Target, count: usize) -> anyhow::Result<Instant> {
    let one = target.connect().await?;
    let path = format!("{PODS}?watch=true&fieldSelector=spec.nodeName%21%3D");
    let accept = ("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let response = one.send(Method::GET, &path, &[accept], Bytes::new()).await?;
    ensure!(response.status() == 200, "watch of pods: {}", response.status());
    let mut body = response.into_body();
    let mut names = std::collections::HashSet::new();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: serde_json::Value = serde_json::from_slice(&line)?;
            if let Some(name) = event["object"]["metadata"]["name"].as_str() {
                names.insert(name.to_owned());
            }
        }
        if names.len() >= count {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch of pods ended at {} of {count}", names.len())
}
