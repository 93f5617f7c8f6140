//! Reading: the first document of a text as JSON.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

use super::plain::{Plain, resolve};

/// Deepest nesting, as of JSON bodies.
const DEPTH_MAX: usize = 127;
/// Most values that aliases may repeat.
const REPEATED_MAX: usize = 100_000;

/// A document that was read.
#[derive(Debug, Default)]
pub struct Document {
    /// The document; null if there is none. Of a repeated key the last one counts.
    pub value: Value,
    /// `line 7: key "size" already set in map`, in order.
    pub duplicates: Vec<String>,
}

impl Document {
    /// The error of strict reading, None if no key is repeated.
    pub fn strict_error(&self) -> Option<String> {
        let lines: String = self.duplicates.iter().map(|d| format!("\n  {d}")).collect();
        (!lines.is_empty()).then(|| format!("yaml: unmarshal errors:{lines}"))
    }
}

/// Reads the first document.
///
/// # Errors
/// What is no YAML, has no JSON form, or nests or repeats too much: `yaml: line 3: ...`.
pub fn read(text: &str) -> Result<Document, String> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        ahead: None,
        last_line: text.lines().count(),
        anchors: HashMap::new(),
        repeated: 0,
        duplicates: Vec::new(),
    };
    let value = reader.document()?;
    Ok(Document { value, duplicates: reader.duplicates })
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    ahead: Option<(Event<'a>, Span)>,
    last_line: usize,
    /// Values by anchor.
    anchors: HashMap<usize, Value>,
    repeated: usize,
    duplicates: Vec<String>,
}

/// What a mapping's key is for JSON, and how it is told.
struct Key {
    name: String,
    shown: String,
    merge: bool,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        if let Some(event) = self.ahead.take() {
            return Ok(event);
        }
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => return Err(told(&error, self.last_line)),
                None => return Err("yaml: unexpected end of the document".to_string()),
            }
        }
    }

    fn document(&mut self) -> Result<Value, String> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(Value::Null),
                event => {
                    let value = self.node(event, 0)?;
                    // What follows the document is not looked at, but the document has to end.
                    self.next()?;
                    return Ok(value);
                }
            }
        }
    }

    fn node(&mut self, (event, _): (Event<'a>, Span), depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("yaml: exceeded max depth of {DEPTH_MAX}"));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(&text, style, tag.as_deref())?),
            Event::SequenceStart(_, anchor, _) => (anchor, self.sequence(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.mapping(depth)?),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or("yaml: anchor value contains itself")?;
                self.repeated += size(&value);
                if self.repeated > REPEATED_MAX {
                    return Err("yaml: document contains excessive aliasing".to_string());
                }
                return Ok(value);
            }
            other => return Err(format!("yaml: unexpected {other:?}")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                event => items.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::MappingEnd) {
                break;
            }
            let key = self.key(event, depth)?;
            let event = self.next()?;
            let line = event.1.start.line();
            let value = self.node(event, depth + 1)?;
            if key.merge {
                merged.push(value);
            } else if map.insert(key.name, value).is_some() {
                self.duplicates.push(format!("line {line}: key {} already set in map", key.shown));
            }
        }
        // What is merged gives way to the mapping's own entries.
        for value in merged {
            let all = match value {
                Value::Array(all) => all,
                one => vec![one],
            };
            for one in all {
                let Value::Object(entries) = one else {
                    return Err("yaml: map merge requires map or sequence of maps as the value".to_string());
                };
                for (name, value) in entries {
                    map.entry(name).or_insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }

    fn key(&mut self, event: (Event<'a>, Span), depth: usize) -> Result<Key, String> {
        if let Event::Scalar(text, ScalarStyle::Plain, _, None) = &event.0
            && resolve(text) == Plain::Merge
        {
            return Ok(Key { name: String::new(), shown: String::new(), merge: true });
        }
        match self.node(event, depth + 1)? {
            Value::String(name) => Ok(Key { shown: format!("{name:?}"), name, merge: false }),
            Value::Bool(word) => Ok(Key { name: word.to_string(), shown: word.to_string(), merge: false }),
            Value::Number(n) => Ok(Key { name: n.to_string(), shown: n.to_string(), merge: false }),
            other => Err(format!("yaml: unsupported map key: {other}")),
        }
    }
}

/// How many values there are in one.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(entries) => entries.values().map(size).sum::<usize>(),
        _ => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let tag: Option<Cow<'_, str>> = tag.and_then(|t| t.suffix_in_namespace("tag:yaml.org,2002:"));
    match tag.as_deref() {
        Some("str" | "binary" | "timestamp") => return Ok(Value::String(text.to_string())),
        Some("null" | "bool" | "int" | "float") => {}
        _ if style == ScalarStyle::Plain => {}
        _ => return Ok(Value::String(text.to_string())),
    }
    let value = match resolve(text) {
        Plain::Null => Value::Null,
        Plain::Bool(value) => Value::Bool(value),
        Plain::Int(value) => value.into(),
        Plain::UInt(value) => value.into(),
        Plain::Float(value) => float(value)?,
        Plain::Merge | Plain::Text { .. } => Value::String(text.to_string()),
    };
    let fits = match tag.as_deref() {
        Some("null") => value.is_null(),
        Some("bool") => value.is_boolean(),
        Some("int") => value.is_i64() || value.is_u64(),
        Some("float") => value.is_number(),
        _ => true,
    };
    match (fits, tag) {
        (false, Some(tag)) => Err(format!("yaml: cannot decode `{text}` as a !!{tag}")),
        _ => Ok(value),
    }
}

/// A whole number stays whole, as on the way through Go's JSON.
fn float(value: f64) -> Result<Value, String> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    if value.fract() == 0.0 && value.abs() < 9.0e15 {
        return Ok((value as i64).into());
    }
    Number::from_f64(value)
        .map(Value::Number)
        .ok_or_else(|| format!("json: unsupported value: {}", infinite(value)))
}

fn infinite(value: f64) -> &'static str {
    match value {
        v if v.is_nan() => "NaN",
        v if v > 0.0 => "+Inf",
        _ => "-Inf",
    }
}

/// The words of an error. Lines are counted as Go's reader counts them: the end is the line after the last.
fn told(error: &ScanError, last_line: usize) -> String {
    let line = error.marker().line();
    let at = |line: usize| if line == 0 { String::new() } else { format!("line {line}: ") };
    let (line, text) = match error.kind() {
        ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEof => (last_line, "did not find expected node content".to_string()),
        ErrorKind::ExpectedNodeContent => (line - 1, "did not find expected node content".to_string()),
        ErrorKind::ExpectedBlockMappingKey => (line - 1, "did not find expected key".to_string()),
        ErrorKind::ExpectedFlowMappingSeparator => (line - 1, "did not find expected ',' or '}'".to_string()),
        ErrorKind::ExpectedFlowSequenceSeparator => {
            (line - 1, "did not find expected ',' or ']'".to_string())
        }
        ErrorKind::ExpectedBlockSequenceEntry => {
            (line - 1, "did not find expected '-' indicator".to_string())
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::UnexpectedCharacter { .. } => {
            (line, "found character that cannot start any token".to_string())
        }
        ErrorKind::MappingValueNotAllowed => {
            (line, "mapping values are not allowed in this context".to_string())
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::InvalidSimpleKey => {
            (line, "could not find expected ':'".to_string())
        }
        ErrorKind::UnclosedQuotedScalar => (last_line + 1, "found unexpected end of stream".to_string()),
        ErrorKind::UnknownAnchor => (0, "unknown anchor referenced".to_string()),
        _ => (line, error.info()),
    };
    format!("yaml: {}{text}", at(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents() {
        for (text, wanted) in [
            ("", Value::Null),
            ("# nothing\n", Value::Null),
            ("a: 1\nb: [x, 'on', on, ~, 5.0, 0.5]\n", json!({"a": 1, "b": ["x", "on", true, null, 5, 0.5]})),
            ("a: b\n---\nc: d\n", json!({"a": "b"})),
            ("--- !!map\na: !!str 1\nb: !!int '7'\n", json!({"a": "1", "b": 7})),
            (
                "x: &x {a: 1}\nw: *x\nz:\n  <<: *x\n  b: 2\n",
                json!({"x": {"a": 1}, "w": {"a": 1}, "z": {"a": 1, "b": 2}}),
            ),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
            ("{\"a\": {\"b\": [1, \"2\"]}}", json!({"a": {"b": [1, "2"]}})),
            ("a: |\n  one\n  two\nb: >-\n  one\n  two\n", json!({"a": "one\ntwo\n", "b": "one two"})),
        ] {
            assert_eq!(read(text).unwrap().value, wanted, "{text}");
        }
    }

    #[test]
    fn repeated_keys() {
        let twice = read("a: 1\nb:\n  c: 1\n  c: 2\na:\n  x: 1\n").unwrap();
        assert_eq!(twice.value, json!({"a": {"x": 1}, "b": {"c": 2}}));
        assert_eq!(
            twice.strict_error().unwrap(),
            "yaml: unmarshal errors:\n  line 4: key \"c\" already set in map\n  line 6: key \"a\" already set in map"
        );
        assert_eq!(read("a: 1\n").unwrap().strict_error(), None);
    }

    #[test]
    fn errors() {
        for (text, wanted) in [
            ("a: [\n", "yaml: line 1: did not find expected node content"),
            ("{", "yaml: line 1: did not find expected node content"),
            ("a:\n\tb: c\n", "yaml: line 2: found character that cannot start any token"),
            ("a: .inf\n", "json: unsupported value: +Inf"),
            ("a: *b\n", "yaml: unknown anchor referenced"),
            ("a: !!int x\n", "yaml: cannot decode `x` as a !!int"),
        ] {
            assert_eq!(read(text).unwrap_err(), wanted, "{text}");
        }
    }

    #[test]
    fn bombs() {
        let deep = "[".repeat(1000);
        assert!(read(&deep).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
        }
        assert_eq!(read(&bomb).unwrap_err(), "yaml: document contains excessive aliasing");
    }
}
