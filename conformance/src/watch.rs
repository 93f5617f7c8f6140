//! Watches, and waiting for a state by watching.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use crate::Result;
use crate::api::{Api, version_of};
use crate::rest::{Rest, StatusError};

/// A wait that came to its limit.
#[derive(Debug)]
pub struct TimedOut(String);

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

/// One event of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    /// ADDED, MODIFIED, DELETED, BOOKMARK, ERROR.
    pub kind: String,
    /// The object, or a `Status`.
    pub object: Value,
}

/// An open watch.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// Opens a watch at a path with its query.
    pub async fn open(rest: &Rest, uri: &str) -> Result<Self> {
        let response = rest.open(Method::GET, uri, &[("accept", "application/json")], Vec::new()).await?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body = body.collect().await.context("body")?.to_bytes();
            return Err(StatusError {
                code: head.status.as_u16(),
                status: serde_json::from_slice(&body).unwrap_or(Value::Null),
                body: String::from_utf8_lossy(&body).into_owned(),
                request: format!("GET {uri}"),
            }
            .into());
        }
        Ok(Self { body, rest: Vec::new() })
    }

    /// The next event; none when the server ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                let value: Value = serde_json::from_slice(&line).context("watch: a line that is no JSON")?;
                let kind = value["type"].as_str().context("watch: an event without type")?.to_string();
                return Ok(Some(Event { kind, object: value["object"].clone() }));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.context("watch: the stream broke")?;
                    self.rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d.as_ref()));
                }
            }
        }
    }

    /// The next event within a limit; its absence is an error.
    pub async fn within(&mut self, limit: Duration, what: &str) -> Result<Event> {
        let next = tokio::time::timeout(limit, self.next()).await;
        next.map_err(|_| anyhow::anyhow!("{what}: no watch event within {limit:?}"))??
            .with_context(|| format!("{what}: the server ended the watch"))
    }

    /// Reads on until an event fits; other events are passed over.
    pub async fn until(
        &mut self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Event) -> bool + Send,
    ) -> Result<Event> {
        let end = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event =
                self.within(left, what).await.with_context(|| format!("seen before: {}", seen.join(", ")))?;
            if fits(&event) {
                return Ok(event);
            }
            seen.push(format!("{} {}", event.kind, version_of(&event.object)));
        }
    }

    /// No event within this time.
    pub async fn silent(&mut self, time: Duration, what: &str) -> Result<()> {
        match tokio::time::timeout(time, self.next()).await {
            Err(_) => Ok(()),
            Ok(event) => anyhow::bail!("{what}: expected no event within {time:?}, saw {event:?}"),
        }
    }
}

impl Api {
    /// Waits by watching until the object (none while it is absent) satisfies a condition; hands back what it saw.
    pub async fn wait(
        &self,
        name: &str,
        limit: Duration,
        what: &str,
        mut done: impl FnMut(Option<&Value>) -> Result<bool> + Send,
    ) -> Result<Value> {
        let selector = format!("metadata.name={name}");
        self.wait_set(&[("fieldSelector", &selector)], limit, what, |items| {
            let item = items.first();
            Ok(done(item.copied())?.then(|| item.copied().cloned().unwrap_or(Value::Null)))
        })
        .await
        .with_context(|| format!("{} {name}", self.kind.kind))
    }

    /// Looks on for a time in which a condition may never hold.
    pub async fn never(
        &self,
        name: &str,
        time: Duration,
        what: &str,
        mut happens: impl FnMut(Option<&Value>) -> bool + Send,
    ) -> Result<()> {
        match self.wait(name, time, what, |o| Ok(happens(o))).await {
            Ok(seen) => anyhow::bail!("{what}: {} {name}: {}", self.kind.kind, seen["status"]),
            Err(e) if e.downcast_ref::<TimedOut>().is_some() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Waits until the object is gone.
    pub async fn wait_gone(&self, name: &str, limit: Duration) -> Result<()> {
        self.wait(name, limit, "waiting for it to be gone", |o| Ok(o.is_none())).await.map(|_| ())
    }

    /// Waits by watching until the set of objects that a query selects satisfies a condition.
    pub async fn wait_set<T: Send>(
        &self,
        query: &[(&str, &str)],
        limit: Duration,
        what: &str,
        mut done: impl FnMut(&[&Value]) -> Result<Option<T>> + Send,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        let mut set = BTreeMap::new();
        let run = async {
            loop {
                let list = self.list(query).await?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                set = items.into_iter().map(|o| (key(&o), o)).collect();
                if let Some(found) = done(&set.values().collect::<Vec<_>>())? {
                    return anyhow::Ok(found);
                }
                let mut query = query.to_vec();
                query.push(("resourceVersion", version_of(&list)));
                let mut watch = self.watch(&query).await?;
                while let Some(event) = watch.next().await? {
                    match event.kind.as_str() {
                        "ADDED" | "MODIFIED" => drop(set.insert(key(&event.object), event.object)),
                        "DELETED" => drop(set.remove(&key(&event.object))),
                        "BOOKMARK" => continue,
                        _ => break,
                    }
                    if let Some(found) = done(&set.values().collect::<Vec<_>>())? {
                        return anyhow::Ok(found);
                    }
                }
            }
        };
        let out = tokio::time::timeout(end.saturating_duration_since(Instant::now()), run).await;
        match out {
            Ok(out) => out.with_context(|| what.to_string()),
            Err(_) => {
                Err(TimedOut(format!("{what}: not within {limit:?}; last seen: {}", brief(&set))).into())
            }
        }
    }
}

fn key(object: &Value) -> String {
    let meta = &object["metadata"];
    format!("{}/{}", meta["namespace"].as_str().unwrap_or(""), meta["name"].as_str().unwrap_or(""))
}

/// What a time-out says of the objects: their status, cut.
fn brief(set: &BTreeMap<String, Value>) -> String {
    if set.is_empty() {
        return "nothing".to_string();
    }
    let one = |(k, v): (&String, &Value)| {
        let text: String = v["status"].to_string().chars().take(900).collect();
        format!("{k} {text}")
    };
    set.iter().take(5).map(one).collect::<Vec<_>>().join("; ")
}

/// Asks again and again, for what cannot be watched. Errors of an attempt are kept for the time-out.
pub async fn poll<T, F, Fut>(limit: Duration, pause: Duration, what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<Option<T>>> + Send,
{
    let end = Instant::now() + limit;
    loop {
        let last = match attempt().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if Instant::now() + pause > end {
            return Err(last.unwrap_or_else(|| anyhow::anyhow!("the condition did not hold")))
                .with_context(|| format!("{what}: not within {limit:?}"));
        }
        tokio::time::sleep(pause).await;
    }
}
