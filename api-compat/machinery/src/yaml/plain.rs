//! What an unquoted scalar is: YAML 1.1 with the integers of Go.

use std::sync::LazyLock;

use regex::Regex;

/// What an unquoted scalar stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    /// Nothing.
    Null,
    /// Also `yes`, `on`, `n` and their kin.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above the range of `i64`.
    UInt(u64),
    /// A number, infinite or none.
    Float(f64),
    /// `<<`: the value's entries belong to this mapping.
    Merge,
    /// A text. One that looks like a time is written with quotes.
    Text {
        /// Whether other readers would take it for a time.
        time: bool,
    },
}

/// Tells what an unquoted scalar stands for.
pub fn resolve(text: &str) -> Plain {
    if let Some(word) = word(text) {
        return word;
    }
    match text.bytes().next() {
        Some(b'.') => match text.parse::<f64>() {
            Ok(number) => Plain::Float(number),
            Err(_) => Plain::Text { time: false },
        },
        Some(b'+' | b'-' | b'0'..=b'9') => number(text),
        _ => Plain::Text { time: false },
    }
}

/// Whether a text may be written without quotes and is read as a text again.
pub fn is_text(text: &str) -> bool {
    resolve(text) == Plain::Text { time: false } && !is_base_sixty(text)
}

fn word(text: &str) -> Option<Plain> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Plain::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Plain::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Plain::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Plain::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Plain::Float(f64::NEG_INFINITY),
        "<<" => Plain::Merge,
        _ => return None,
    })
}

static FLOAT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$").ok());
static SIXTY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$").ok());
static TIME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(\d{4})-(\d{1,2})-(\d{1,2})(?:(?:[Tt](\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?(?:Z|[-+]\d{2}:\d{2}))|(?: (\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.\d+)?))?$",
    )
    .ok()
});

fn is_base_sixty(text: &str) -> bool {
    SIXTY.as_ref().is_some_and(|r| r.is_match(text))
}

fn number(text: &str) -> Plain {
    if is_time(text) {
        return Plain::Text { time: true };
    }
    let plain = text.replace('_', "");
    if let Some(number) = integer(&plain) {
        return number;
    }
    if FLOAT.as_ref().is_some_and(|r| r.is_match(&plain))
        && let Ok(number) = plain.parse::<f64>()
        && number.is_finite()
    {
        return Plain::Float(number);
    }
    Plain::Text { time: false }
}

/// Integers with Go's prefixes for bases; a leading zero means octal.
fn integer(text: &str) -> Option<Plain> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let size = i128::from(u64::from_str_radix(digits, base).ok()?);
    let value = if negative { -size } else { size };
    match i64::try_from(value) {
        Ok(value) => Some(Plain::Int(value)),
        Err(_) if text.starts_with('+') => None,
        Err(_) => u64::try_from(value).ok().map(Plain::UInt),
    }
}

fn is_time(text: &str) -> bool {
    let Some(parts) = TIME.as_ref().and_then(|r| r.captures(text)) else { return false };
    let part = |at: usize| parts.get(at).and_then(|m| m.as_str().parse::<i16>().ok());
    let day = || jiff::civil::Date::new(part(1)?, part(2)?.try_into().ok()?, part(3)?.try_into().ok()?).ok();
    let within = |at: usize, limit: i16| part(at).is_none_or(|v| v < limit);
    day().is_some() && [4, 7].iter().all(|at| within(*at, 24) && within(at + 1, 60) && within(at + 2, 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars() {
        for (text, wanted) in [
            ("~", Plain::Null),
            ("yes", Plain::Bool(true)),
            ("Off", Plain::Bool(false)),
            ("oN", Plain::Text { time: false }),
            ("12", Plain::Int(12)),
            ("-0x1F", Plain::Int(-31)),
            ("0777", Plain::Int(511)),
            ("0b11", Plain::Int(3)),
            ("1_000", Plain::Int(1000)),
            ("08", Plain::Float(8.0)),
            ("18446744073709551615", Plain::UInt(u64::MAX)),
            ("1e3", Plain::Float(1000.0)),
            (".5", Plain::Float(0.5)),
            (".", Plain::Text { time: false }),
            ("1.2.3", Plain::Text { time: false }),
            ("100m", Plain::Text { time: false }),
            ("2026-01-02T03:04:05Z", Plain::Text { time: true }),
            ("2026-02-30", Plain::Text { time: false }),
            ("<<", Plain::Merge),
        ] {
            assert_eq!(resolve(text), wanted, "{text}");
        }
        assert!(!is_text("12:30:45") && is_text("12:61") && is_text("a: b"));
    }
}
