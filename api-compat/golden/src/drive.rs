//! Plays a script against a server of ours in this process and writes down the answers as the recorder does.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderMap;
use knarr_datastore::Datastore;
use knarr_harness::TestServer;
use serde_json::Value;

use crate::normalize::{Normalizer, only};
use crate::script::{Exchange, Script, expand};
use crate::wire;

/// How long an answer or a frame may take. A recording without the frame is a difference, not a hang.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a whole request may take.
const LIMIT: Duration = Duration::from_secs(30);
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The blocks of a recording: name of the exchange and everything that was answered.
pub type Blocks = Vec<(String, String)>;

struct Run {
    server: TestServer,
    store: Datastore,
    vars: HashMap<String, String>,
    names: Normalizer,
    watches: HashMap<String, Stream>,
    blocks: Blocks,
}

struct Stream {
    body: BodyDataStream,
    buffer: Vec<u8>,
    protobuf: bool,
    /// The first frame that did not come ends the reading: what follows cannot match either.
    silent: bool,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// Plays a script against a fresh server.
pub async fn play(script: &Script, scripts: &Path) -> anyhow::Result<Blocks> {
    let store = Datastore::open("memory://").await?;
    let server = TestServer::start_on(store.clone()).await;
    let mut run = Run {
        server,
        store,
        vars: script.vars.clone(),
        names: Normalizer::default(),
        watches: HashMap::new(),
        blocks: Vec::new(),
    };
    for name in &script.crds {
        run.install(&scripts.join("crds").join(format!("{name}.yaml"))).await?;
    }
    for exchange in &script.exchanges {
        run.exchange(exchange).await.with_context(|| exchange.name.clone())?;
    }
    Ok(run.blocks)
}

impl Run {
    /// Posts a CRD and waits until its served versions answer, within limits: what is not served shows as a difference.
    async fn install(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let crd: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let headers = ["User-Agent: golden/1.0", "Content-Type: application/json"];
        let reply = self.server.raw("POST", CRDS, &headers, crd.to_string()).await;
        if reply.status != 201 {
            // The scenario goes on: its differences then belong into the list like any other.
            println!("{}: refused: {}", path.display(), reply.text());
            return Ok(());
        }
        let spec = &crd["spec"];
        let end = Instant::now() + PATIENCE;
        for version in spec["versions"].as_array().into_iter().flatten().filter(|v| v["served"] == true) {
            let group = spec["group"].as_str().unwrap_or_default();
            let plural = spec["names"]["plural"].as_str().unwrap_or_default();
            let path = format!("/apis/{group}/{}/{plural}", version["name"].as_str().unwrap_or_default());
            while self.server.get(&path).await.status != 200 && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let path = format!("{CRDS}/{}", crd["metadata"]["name"].as_str().unwrap_or_default());
        while !established(&self.server.get(&path).await.json()) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn exchange(&mut self, e: &Exchange) -> anyhow::Result<()> {
        match e.act.as_str() {
            "" => {}
            "compact" => return Ok(self.store.compact(self.store.revision()).await?),
            "second" => {
                tokio::time::sleep(Duration::from_millis(1100)).await;
                return Ok(());
            }
            other => bail!("unknown do: {other:?}"),
        }
        let block = if !e.read.is_empty() {
            self.read(e, &e.read).await?
        } else if !e.watch.is_empty() {
            self.watch(e).await?
        } else {
            self.request(e).await?
        };
        self.blocks.push((e.name.clone(), block));
        Ok(())
    }

    async fn open(&self, e: &Exchange, request: &str) -> anyhow::Result<axum::response::Response> {
        let (method, path) = request.split_once(' ').context("METHOD /path")?;
        let path = expand(path, &self.vars);
        let body = e.body(&self.vars)?;
        let mut headers: HashMap<&str, String> = HashMap::from([("User-Agent", "golden/1.0".to_string())]);
        if body.is_some() {
            headers.insert("Content-Type", "application/json".to_string());
        }
        headers.extend(e.headers.iter().map(|(name, value)| (name.as_str(), expand(value, &self.vars))));
        let lines: Vec<String> =
            headers.iter().filter(|(_, value)| !value.is_empty()).map(|(n, v)| format!("{n}: {v}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let body = body.map_or_else(Body::empty, Body::from);
        Ok(self.server.send(Some(TestServer::admin()), method, &path, &lines, body).await)
    }

    async fn request(&mut self, e: &Exchange) -> anyhow::Result<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let asked = async { finish(self.open(e, &e.request).await?).await };
            let Ok(answer) = tokio::time::timeout(LIMIT, asked).await else {
                return Ok(format!("no answer within {LIMIT:?}\n"));
            };
            let answer = answer?;
            let text = String::from_utf8_lossy(&answer.body);
            if !e.until.is_empty() && !text.contains(&e.until) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            // Without the value the exchanges that need it will differ, and say so.
            let _ = e.capture(&answer.body, &mut self.vars);
            return self.block(e, &answer);
        }
    }

    fn block(&mut self, e: &Exchange, answer: &Answer) -> anyhow::Result<String> {
        let kind = answer.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let text = if kind.contains("protobuf") {
            wire::dump(&answer.body)
        } else if e.only.is_empty() {
            String::from_utf8_lossy(&answer.body).into_owned()
        } else {
            only(&answer.body, &e.only).unwrap_or_else(|_| String::from_utf8_lossy(&answer.body).into_owned())
        };
        let text = self.names.text(&text);
        Ok(format!("{}\n{}{}", answer.status, kept_headers(&answer.headers), lines(&text)))
    }

    async fn watch(&mut self, e: &Exchange) -> anyhow::Result<String> {
        let response = self.open(e, &e.watch).await?;
        if response.status() != 200 {
            let answer = finish(response).await?;
            return self.block(e, &answer);
        }
        let head = format!("200\n{}", kept_headers(response.headers()));
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let protobuf = kind.contains("protobuf");
        let body = response.into_body().into_data_stream();
        self.watches.insert(e.name.clone(), Stream { body, buffer: Vec::new(), protobuf, silent: false });
        Ok(head + &self.read(e, &e.name).await?)
    }

    async fn read(&mut self, e: &Exchange, name: &str) -> anyhow::Result<String> {
        let Some(stream) = self.watches.get_mut(name) else {
            return Ok(format!("no watch {name} is open\n"));
        };
        let mut out = String::new();
        let mut count = 0;
        while e.frames < 0 || count < e.frames {
            match stream.next().await {
                Ok(Some(frame)) => {
                    count += 1;
                    let _ = e.capture(&frame, &mut self.vars);
                    let text = if stream.protobuf {
                        wire::dump(&frame)
                    } else {
                        String::from_utf8_lossy(&frame).into_owned()
                    };
                    out.push_str(&lines(&self.names.text(&text)));
                }
                Ok(None) => {
                    out.push_str("end\n");
                    break;
                }
                Err(()) => {
                    out.push_str("no further frame came\n");
                    break;
                }
            }
        }
        Ok(out)
    }
}

impl Stream {
    /// The next frame, None at the end, an error when none came in time.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ()> {
        loop {
            if let Some(frame) = self.complete() {
                return Ok(Some(frame));
            }
            if self.silent {
                return Err(());
            }
            match tokio::time::timeout(PATIENCE, self.body.next()).await {
                Ok(Some(Ok(chunk))) => self.buffer.extend_from_slice(&chunk),
                Ok(Some(Err(_)) | None) => return Ok(None),
                Err(_) => self.silent = true,
            }
        }
    }

    fn complete(&mut self) -> Option<Vec<u8>> {
        if self.protobuf {
            let size = u32::from_be_bytes(self.buffer.get(..4)?.try_into().ok()?) as usize;
            if self.buffer.len() < size + 4 {
                return None;
            }
            let rest = self.buffer.split_off(size + 4);
            return Some(std::mem::replace(&mut self.buffer, rest).split_off(4));
        }
        let end = self.buffer.iter().position(|b| *b == b'\n')?;
        Some(self.buffer.drain(..=end).collect())
    }
}

fn established(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

async fn finish(response: axum::response::Response) -> anyhow::Result<Answer> {
    let (parts, body) = response.into_parts();
    let mut body = axum::body::to_bytes(body, usize::MAX).await?;
    if parts.headers.get("content-encoding").is_some_and(|v| v == "gzip") {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(body.as_ref()).read_to_end(&mut plain)?;
        body = plain.into();
    }
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

/// A body with a mark before each line, so that nothing in it is mistaken for the recording's own words.
fn lines(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let (body, end) = match text.strip_suffix('\n') {
        Some(body) => (body, ""),
        None => (text, "\\ no newline at the end\n"),
    };
    body.split('\n').map(|line| format!("| {line}\n")).collect::<String>() + end
}

/// The headers that clients read.
fn kept_headers(headers: &HeaderMap) -> String {
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let value = match name.as_str() {
            "etag" => "<etag>".to_string(),
            "audit-id" => "<id>".to_string(),
            "content-type"
            | "warning"
            | "retry-after"
            | "location"
            | "allow"
            | "cache-control"
            | "vary"
            | "content-encoding"
            | "www-authenticate"
            | "x-content-type-options" => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            other if other.starts_with("x-kubernetes-") => {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            }
            _ => continue,
        };
        kept.push((canonical(name.as_str()), value));
    }
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    kept.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// `content-type` as `Content-Type`.
fn canonical(name: &str) -> String {
    let parts = name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]);
    parts.collect::<Vec<_>>().join("-")
}
