//! Replaces what differs from run to run, numbering values in order of appearance over one scenario.
//!
//! `recorder/normalize.go` does exactly the same; a change here is a change there.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use anyhow::Context as _;
use regex::{Captures, Regex};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::script::sorted;

/// The names given so far in one scenario.
#[derive(Debug, Default)]
pub struct Normalizer {
    seen: HashMap<String, String>,
    count: HashMap<&'static str, usize>,
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a constant pattern")
}

static CONTINUE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"("continue": ?"|continue: |\n *3: ")([A-Za-z0-9_=+/-]{8,})"#));
static UUID: LazyLock<Regex> =
    LazyLock::new(|| pattern("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static INSTANT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"20(?:2[5-9]|[3-9][0-9])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z")
});
static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(resourceVersion\\*": ?\\*"|resourceVersion: "|resource version: |ResourceVersion in (?:record|precondition) \(|too old resource version: <rv-[0-9]+> \(|, current: |\n *[26]: ")([1-9][0-9]*)"#,
    )
});
static GENERATED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(gen-|aaaa)([bcdfghjklmnpqrstvwxz2456789]{5})\b"));
static HOST: LazyLock<Regex> = LazyLock::new(|| pattern(r"127\.0\.0\.1:[0-9]+"));
static SCHEME: LazyLock<Regex> = LazyLock::new(|| pattern(r#"in scheme \\"[^"\\]*\\""#));
/// The last cell of a row, where it is an age: seconds pass while a scenario is played.
static AGE: LazyLock<Regex> = LazyLock::new(|| pattern(r#""[0-9]{1,2}s"\]"#));
static HASH: LazyLock<Regex> = LazyLock::new(|| pattern("hash=[0-9A-Fa-f]+"));

impl Normalizer {
    fn name(&mut self, class: &'static str, value: &str) -> String {
        let key = format!("{class} {value}");
        if let Some(known) = self.seen.get(&key) {
            return known.clone();
        }
        let count = self.count.entry(class).or_default();
        *count += 1;
        let name = format!("<{class}-{count}>");
        self.seen.insert(key, name.clone());
        name
    }

    /// A body or frame with everything replaced that differs from run to run.
    pub fn text(&mut self, text: &str) -> String {
        // A line break in front lets the patterns for protobuf dumps match on the first line.
        let text = self.classed(&format!("\n{text}"), &CONTINUE, "continue");
        let text = UUID.replace_all(&text, |v: &Captures<'_>| self.name("uid", &v[0]));
        let text = INSTANT.replace_all(&text, |v: &Captures<'_>| match v[0].find('.') {
            Some(dot) => format!("<time.{}>", v[0].len() - dot - 2),
            None => "<time>".to_string(),
        });
        // Twice: the number in brackets follows one that has just been replaced.
        let once = self.classed(&text, &VERSION, "rv");
        let text = self.classed(&once, &VERSION, "rv");
        let text = self.classed(&text, &GENERATED, "gen");
        let text = HOST.replace_all(&text, "<host>");
        let text = SCHEME.replace_all(&text, r#"in scheme \"<scheme>\""#);
        let text = AGE.replace_all(&text, r#""<age>"]"#);
        HASH.replace_all(&text, "hash=<hash>")[1..].to_string()
    }

    fn classed(&mut self, text: &str, pattern: &Regex, class: &'static str) -> String {
        let named = |v: &Captures<'_>| format!("{}{}", &v[1], self.name(class, &v[2]));
        pattern.replace_all(text, named).into_owned()
    }
}

/// Keeps, on the first level of a JSON document, the entries that contain a text, and indents it: in `definitions` and
/// `paths` keys count, in lists the elements do; other fields stay.
pub fn only(body: &[u8], part: &str) -> anyhow::Result<String> {
    let document: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(body).context("only: no JSON object")?;
    let mut kept = serde_json::Map::new();
    for (field, raw) in document {
        let value = if let Ok(list) = serde_json::from_str::<Vec<Box<RawValue>>>(raw.get()) {
            let matching = list.iter().filter(|element| element.get().contains(part));
            Value::Array(matching.map(|e| serde_json::from_str(e.get())).collect::<Result<_, _>>()?)
        } else if raw.get() == "null" {
            Value::Array(Vec::new())
        } else {
            let mut value: Value = serde_json::from_str(raw.get())?;
            if (field == "definitions" || field == "paths")
                && let Value::Object(map) = &mut value
            {
                map.retain(|key, _| key.contains(part));
            }
            value
        };
        kept.insert(field, value);
    }
    Ok(serde_json::to_string_pretty(&sorted(&Value::Object(kept)))? + "\n")
}
