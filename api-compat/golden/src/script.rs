//! What a script may contain. The recorder (`recorder/script.go`) reads the same files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

/// One scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What it is about, for readers.
    pub about: String,
    /// CRDs (files under `scripts/crds`) that are served before the first exchange.
    #[serde(default)]
    pub crds: Vec<String>,
    /// Variables that are there from the beginning.
    #[serde(default)]
    pub vars: HashMap<String, String>,
    /// The steps, in order.
    pub exchanges: Vec<Exchange>,
}

/// One step: a request, a watch, a read from a watch, or something done to the store.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// Unique in its script.
    pub name: String,
    /// `METHOD /path`.
    pub request: String,
    /// `GET /path`: opens a watch of this name and reads `frames` frames.
    pub watch: String,
    /// Reads `frames` further frames of the watch of this name.
    pub read: String,
    /// `compact`: history up to now is dropped. `second`: waits until the clock shows another second.
    #[serde(rename = "do")]
    pub act: String,
    /// Request headers; an empty value removes a default one.
    pub headers: BTreeMap<String, String>,
    /// A mapping or sequence is sent as JSON with sorted keys, a string as it stands.
    pub body: Option<Value>,
    /// Base64, for bodies that are no text.
    pub bytes: String,
    /// Variables taken from the JSON answer by pointer.
    pub capture: BTreeMap<String, String>,
    /// The request is repeated until the answer contains this.
    pub until: String,
    /// Of the first level of a JSON answer only entries that contain this are kept.
    pub only: String,
    /// Frames to read; -1 reads to the end of the watch.
    pub frames: i64,
}

/// Reads one script.
pub fn read(path: &Path) -> anyhow::Result<Script> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
}

impl Exchange {
    /// The bytes to send, None for no body.
    pub fn body(&self, vars: &HashMap<String, String>) -> anyhow::Result<Option<Vec<u8>>> {
        if !self.bytes.is_empty() {
            let packed: String = self.bytes.split_whitespace().collect();
            return Ok(Some(base64::engine::general_purpose::STANDARD.decode(packed)?));
        }
        Ok(match &self.body {
            None => None,
            Some(Value::String(text)) => Some(expand(text, vars).into_bytes()),
            Some(document) => Some(expand(&sorted(document).to_string(), vars).into_bytes()),
        })
    }

    /// Takes the variables of this exchange out of an answer.
    pub fn capture(&self, body: &[u8], vars: &mut HashMap<String, String>) -> anyhow::Result<()> {
        if self.capture.is_empty() {
            return Ok(());
        }
        let document: Value = serde_json::from_slice(body).context("capture: the answer is no JSON")?;
        for (name, pointer) in &self.capture {
            let value = match document.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => bail!("capture: no {pointer}"),
            };
            vars.insert(name.clone(), value);
        }
        Ok(())
    }
}

/// A copy with sorted keys, whatever map type `serde_json` was built with.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, &Value> = map.iter().collect();
            Value::Object(ordered.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Replaces `${name}` by a variable's value, `${name*N}` by N times that value, and `${x*N}` by N letters x if there is no
/// variable x. What was never captured stays visible as `unset-name`.
pub fn expand(text: &str, vars: &HashMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        out.push_str(&rest[..start]);
        let name = &rest[start + 2..start + length];
        match name.split_once('*').map(|(letters, n)| (letters, n.parse::<usize>())) {
            Some((letters, Ok(times))) => {
                out.push_str(&vars.get(letters).map_or(letters, String::as_str).repeat(times))
            }
            _ => match vars.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("unset-{name}")),
            },
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}
