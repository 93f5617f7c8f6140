//! Load on custom resources: a structural schema with defaults, pruning and rules in CEL, printer columns.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::load::{JSON, MERGE, Plan, Sheet, closed_loop, fill, percentile};
use crate::process::{resident_mb, usage};
use crate::side::{Recipe, Side};
use crate::wire::{Connection, Target};

const APPLY: (&str, &str) = ("content-type", "application/apply-patch+yaml");
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/bench.knarr.dev/v1/namespaces/default/gadgets";

fn schema() -> Value {
    let ports = json!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name", "port"], "properties": {
            "name": {"type": "string", "maxLength": 63},
            "port": {"type": "integer", "minimum": 1, "maximum": 65535}}}});
    let spec = json!({"type": "object", "required": ["size", "payload"],
        "x-kubernetes-validations": [
            {"rule": "self.size <= self.limit", "message": "size must not exceed the limit"}],
        "properties": {
            "size": {"type": "integer", "minimum": 0},
            "limit": {"type": "integer", "default": 1_000_000_000},
            "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
            "payload": {"type": "string", "maxLength": 4096},
            "ports": ports}});
    json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}})
}

fn definition() -> Bytes {
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema(),
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.bench.knarr.dev"},
        "spec": {"group": "bench.knarr.dev", "scope": "Namespaced",
            "names": {"plural": "gadgets", "kind": "Gadget"}, "versions": [version]}});
    Bytes::from(definition.to_string())
}

fn gadget(name: &str, number: usize) -> Bytes {
    Bytes::from(
        json!({"apiVersion": "bench.knarr.dev/v1", "kind": "Gadget",
            "metadata": {"name": name, "labels": {"app": "bench"}},
            "spec": {"size": number, "payload": "x".repeat(800),
                "ports": [{"name": "web", "port": 80}, {"name": "metrics", "port": 9090}]}})
        .to_string(),
    )
}

/// Defines the kind and waits until an object of it can be created.
async fn define(one: &Connection) -> anyhow::Result<f64> {
    let begun = Instant::now();
    one.done(Method::POST, DEFINITIONS, &[JSON], definition()).await?;
    loop {
        let (status, body) = one.raw(Method::POST, GADGETS, &[JSON], gadget("first", 0)).await?;
        if (200..300).contains(&status) {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
        let waited = begun.elapsed();
        ensure!(waited < Duration::from_secs(30), "gadgets are refused: {}", String::from_utf8_lossy(&body));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Everything about custom resources.
///
/// # Errors
/// A request fails, or the side ends.
pub async fn all(side: &mut Side, recipe: &Recipe, plan: &Plan, sheet: &mut Sheet) -> anyhow::Result<()> {
    let target = side.custom(recipe).await?;
    let one = target.connect().await?;
    sheet.put("custom resources, definition -> first object", "ms", define(&one).await?, true);
    for clients in [1, 64] {
        writes(side, &target, plan, clients, sheet).await?;
    }
    let count = plan.pods;
    let seconds = fill(&target, count, GADGETS, |number| gadget(&format!("g{number}"), number)).await?;
    sheet.put("custom resources, filled by 64 clients", "/s", count as f64 / seconds, false);
    for (what, query) in [("from memory", "?resourceVersion=0"), ("consistent", "")] {
        let mut times = Vec::new();
        let before = usage(&side.pids)?;
        for _ in 0..5 {
            let begun = Instant::now();
            one.done(Method::GET, &format!("{GADGETS}{query}"), &[], Bytes::new()).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let used = usage(&side.pids)?.since(before);
        let what = format!("custom resources, LIST of {count} and those before, {what}");
        sheet.put(what.clone(), "ms", percentile(&times, 0.5), true);
        sheet.put(format!("{what}, server CPU"), "ms each", used.cpu_ms / 5.0, true);
    }
    let memory: f64 = resident_mb(&side.pids)?.iter().sum();
    sheet.put(format!("resident memory with {count} more custom resources"), "MB", memory, true);
    Ok(())
}

async fn writes(
    side: &Side,
    target: &Target,
    plan: &Plan,
    clients: usize,
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    let created = closed_loop(side, target, clients, plan.each, move |client, number| {
        let body = gadget(&format!("w{clients}-{client}-{number}"), number);
        (Method::POST, GADGETS.to_owned(), vec![JSON], body)
    })
    .await?;
    let patched = closed_loop(side, target, clients, plan.each, move |client, number| {
        let body = Bytes::from(format!(r#"{{"spec":{{"size":{number}}}}}"#));
        (Method::PATCH, format!("{GADGETS}/w{clients}-{client}-0"), vec![MERGE], body)
    })
    .await?;
    let applied = closed_loop(side, target, clients, plan.each, move |client, number| {
        let name = format!("a{clients}-{client}");
        let path = format!("{GADGETS}/{name}?fieldManager=bench&force=true");
        (Method::PATCH, path, vec![APPLY], gadget(&name, number))
    })
    .await?;
    for (verb, run) in [("create", &created), ("merge patch", &patched), ("server-side apply", &applied)] {
        let what =
            format!("custom resources, {verb}, {clients} client{}", if clients == 1 { "" } else { "s" });
        sheet.put(what.clone(), "/s", run.per_second(), false);
        sheet.put(format!("{what}, p99"), "ms", run.at(0.99), true);
        sheet.put(format!("{what}, server CPU"), "ms each", run.cpu_each(), true);
    }
    Ok(())
}
