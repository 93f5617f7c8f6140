//! Writing: a JSON document as block YAML, in the form that clients of the API know.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Number, Value};

use super::plain;

/// The document as YAML, keys in natural order.
pub fn write(value: &Value) -> String {
    let mut out = Writer { out: String::new() };
    match value {
        Value::Object(map) if !map.is_empty() => out.mapping(map, 0, true),
        Value::Array(items) if !items.is_empty() => out.sequence(items, 0, true),
        other => out.leaf(other, 0),
    }
    if !out.out.ends_with('\n') {
        out.out.push('\n');
    }
    out.out
}

/// Longer lines are broken at the next space.
const WIDTH: usize = 80;

struct Writer {
    out: String,
}

impl Writer {
    fn line(&mut self, indent: usize) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// `inline`: the first entry goes on in the current line.
    fn mapping(&mut self, map: &serde_json::Map<String, Value>, indent: usize, inline: bool) {
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort_by(|a, b| natural(a.0, b.0));
        for (i, (key, value)) in entries.into_iter().enumerate() {
            if i > 0 || !inline {
                self.line(indent);
            }
            let simple = key.len() <= 128 && !key.contains(is_break);
            if simple {
                self.scalar(key, Style::of(key, true), None);
                self.out.push(':');
                self.value(value, indent);
            } else {
                self.out.push_str("? ");
                self.text(key, indent);
                self.line(indent);
                self.out.push(':');
                self.item(value, indent);
            }
        }
    }

    /// What follows `key:`; a list stands below at the key's own indentation.
    fn value(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, false),
            Value::Array(items) if !items.is_empty() => self.sequence(items, indent, false),
            leaf => {
                self.out.push(' ');
                self.leaf(leaf, indent);
            }
        }
    }

    /// What follows `-`: its first line is this one.
    fn item(&mut self, value: &Value, indent: usize) {
        self.out.push(' ');
        match value {
            Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, true),
            Value::Array(items) if !items.is_empty() => self.sequence(items, indent + 2, true),
            leaf => self.leaf(leaf, indent),
        }
    }

    fn sequence(&mut self, items: &[Value], indent: usize, inline: bool) {
        for (i, item) in items.iter().enumerate() {
            if i > 0 || !inline {
                self.line(indent);
            }
            self.out.push('-');
            self.item(item, indent);
        }
    }

    fn leaf(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.out.push_str(&digits(number)),
            Value::String(text) => self.text(text, indent),
            Value::Array(_) => self.out.push_str("[]"),
            Value::Object(_) => self.out.push_str("{}"),
        }
    }

    fn text(&mut self, text: &str, indent: usize) {
        let shape = Shape::of(text);
        if text.contains('\n') && shape.block {
            self.literal(text, indent + 2);
        } else {
            self.scalar(text, Style::of(text, false), Some(indent + 2));
        }
    }

    /// A text that is broken at spaces beyond [`WIDTH`], and goes on at this indentation.
    fn scalar(&mut self, text: &str, style: Style, indent: Option<usize>) {
        let begun = self.out.rfind('\n').map_or(0, |at| at + 1);
        let mut column = self.out[begun..].chars().count() + style.mark().len();
        self.out.push_str(style.mark());
        let mut after_space = false;
        let mut chars = text.chars().enumerate().peekable();
        while let Some((i, c)) = chars.next() {
            let next = chars.peek().map(|(_, next)| *next);
            let inner = next.is_some() && (i > 0 || style == Style::Plain);
            let whole = style == Style::Double || next != Some(' ');
            match indent {
                Some(indent) if c == ' ' && !after_space && column > WIDTH && inner && whole => {
                    self.line(indent);
                    column = indent;
                    if next == Some(' ') {
                        self.out.push('\\');
                        column += 1;
                    }
                }
                _ => {
                    let from = self.out.len();
                    style.escape(c, &mut self.out);
                    column += self.out[from..].chars().count();
                }
            }
            after_space = c == ' ';
        }
        self.out.push_str(style.mark());
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        let body = text.strip_suffix('\n');
        match body {
            None => self.out.push('-'),
            Some(body) if body.is_empty() || body.ends_with(is_break) => self.out.push('+'),
            Some(_) => {}
        }
        for line in body.unwrap_or(text).split('\n') {
            self.out.push('\n');
            if !line.is_empty() {
                self.out.extend(std::iter::repeat_n(' ', indent));
                self.out.push_str(line);
            }
        }
        if body.is_some() {
            self.out.push('\n');
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

/// How a text may be written.
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

impl Shape {
    fn of(text: &str) -> Self {
        let mut shape = Self {
            plain: !text.starts_with("---") && !text.starts_with("..."),
            single: true,
            block: !text.is_empty(),
        };
        let (mut before_space, mut before_break, mut blank_before) = (false, false, true);
        let mut chars = text.chars().peekable();
        let mut first = true;
        while let Some(c) = chars.next() {
            let last = chars.peek().is_none();
            let blank_after = chars.peek().is_none_or(|n| matches!(n, ' ' | '\t'));
            let indicator = if first {
                matches!(
                    c,
                    '#' | ','
                        | '['
                        | ']'
                        | '{'
                        | '}'
                        | '&'
                        | '*'
                        | '!'
                        | '|'
                        | '>'
                        | '\''
                        | '"'
                        | '%'
                        | '@'
                        | '`'
                ) || (matches!(c, '?' | ':' | '-') && blank_after)
            } else {
                (c == ':' && blank_after) || (c == '#' && blank_before)
            };
            shape.plain &= !indicator;
            if !is_printable(c) {
                (shape.plain, shape.single, shape.block) = (false, false, false);
            }
            if c == ' ' {
                shape.plain &= !first && !last;
                shape.block &= !last;
                if before_break {
                    (shape.plain, shape.single) = (false, false);
                }
            } else if is_break(c) {
                shape.plain = false;
                if before_space {
                    (shape.single, shape.block) = (false, false);
                }
            }
            (before_space, before_break) = (c == ' ', is_break(c));
            blank_before = matches!(c, ' ' | '\t') || is_break(c);
            first = false;
        }
        shape
    }
}

/// How a text is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
}

impl Style {
    fn of(text: &str, key: bool) -> Self {
        let shape = Shape::of(text);
        if !plain::is_text(text) || text.contains('\n') {
            Self::Double
        } else if shape.plain && !(key && text.is_empty()) {
            Self::Plain
        } else if shape.single {
            Self::Single
        } else {
            Self::Double
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Single => "'",
            Self::Double => "\"",
        }
    }

    /// One character as it is written.
    fn escape(self, c: char, out: &mut String) {
        match self {
            Self::Single if c == '\'' => out.push_str("''"),
            Self::Double => double_quoted(c, out),
            _ => out.push(c),
        }
    }
}

fn double_quoted(c: char, out: &mut String) {
    let escape = match c {
        '\0' => "\\0",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\u{1b}' => "\\e",
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{85}' => "\\N",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        c if is_printable(c) => return out.push(c),
        c => {
            let code = u32::from(c);
            // Writing into a String cannot fail.
            let _ = match code {
                0..=0xff => write!(out, "\\x{code:02X}"),
                0x100..=0xffff => write!(out, "\\u{code:04X}"),
                _ => write!(out, "\\U{code:08X}"),
            };
            return;
        }
    };
    out.push_str(escape);
}

/// Go's shortest form: an exponent of two digits at least, from a million on and below a ten-thousandth.
fn digits(number: &Number) -> String {
    if !number.is_f64() {
        return number.to_string();
    }
    let Some(value) = number.as_f64() else { return number.to_string() };
    if value.fract() == 0.0 && value.abs() < 1e21 {
        return format!("{value:.0}");
    }
    let shown = format!("{value:e}");
    let Some((mantissa, exponent)) = shown.split_once('e') else { return shown };
    match exponent.parse::<i32>() {
        Ok(exponent) if (-4..6).contains(&exponent) => format!("{value}"),
        Ok(exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        Err(_) => shown,
    }
}

/// Letters after all else, numbers by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..left.len().min(right.len()) {
        let (l, r) = (left[i], right[i]);
        if l == r {
            continue;
        }
        match (l.is_alphabetic(), r.is_alphabetic()) {
            (true, true) => return l.cmp(&r),
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => {}
        }
        let nonzero = (l == '0' || r == '0')
            && left[..i].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
        let (l_value, l_end) = run(&left, i, nonzero);
        let (r_value, r_end) = run(&right, i, nonzero);
        return l_value.cmp(&r_value).then(l_end.cmp(&r_end)).then(l.cmp(&r));
    }
    left.len().cmp(&right.len())
}

/// The number that begins there, and where it ends. After other digits a zero counts.
fn run(text: &[char], from: usize, nonzero: bool) -> (u64, usize) {
    let digits = text[from..].iter().map_while(|c| c.to_digit(10));
    let (mut value, mut end) = (u64::from(nonzero), from);
    for digit in digits {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        end += 1;
    }
    (value, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn forms() {
        let value = json!({
            "spec": {"note": "multi word: yes", "tags": ["1", "true", "", " x", "a: b", [1, [2]], {"a": 1, "b": []}]},
            "metadata": {"creationTimestamp": "2026-01-02T03:04:05Z", "uid": "1-2", "labels": {}, "f:x": {".": {}}},
            "empty": null, "float": 0.5, "item10": 1, "item9": 2, "": 0, "y": 0,
            "text": "one\n two\n", "open": "a\nb", "tail": "a\n\n", "tab": "a\tb", "quote": "it's", "lead": "'x",
        });
        let wanted = "\"\": 0\nempty: null\nfloat: 0.5\nitem9: 2\nitem10: 1\nlead: '''x'\nmetadata:\n  creationTimestamp: \"2026-01-02T03:04:05Z\"\n  f:x:\n    .: {}\n  labels: {}\n  uid: 1-2\nopen: |-\n  a\n  b\nquote: it's\nspec:\n  note: 'multi word: yes'\n  tags:\n  - \"1\"\n  - \"true\"\n  - \"\"\n  - ' x'\n  - 'a: b'\n  - - 1\n    - - 2\n  - a: 1\n    b: []\ntab: \"a\\tb\"\ntail: |+\n  a\n\ntext: |\n  one\n   two\n\"y\": 0\n";
        assert_eq!(write(&value), wanted);
        assert_eq!(super::super::read(wanted).unwrap().value, value);
    }

    #[test]
    fn long_lines() {
        let message =
            "only the following media types are accepted: application/json;stream=watch, application/x";
        assert_eq!(
            write(&json!({"message": message})),
            "message: 'only the following media types are accepted: application/json;stream=watch,\n  application/x'\n"
        );
    }

    #[test]
    fn long_keys_and_bare_values() {
        let key = "k".repeat(129);
        let text = write(&json!({key.as_str(): {"a": 1}}));
        assert_eq!(text, format!("? {key}\n: a: 1\n"));
        assert_eq!(write(&json!("x")), "x\n");
        assert_eq!(write(&json!({})), "{}\n");
        assert_eq!(write(&json!([{"a": 1, "b": 2}])), "- a: 1\n  b: 2\n");
    }
}
