//! `"%s is %d".format([…])`.

use super::Outcome;
use super::convert::{double_text, text};
use crate::error::EvalError;
use crate::value::Val;

/// A clause: precision and letter.
type Clause = (Option<usize>, char);

/// Digits after the point that may be asked for.
const PRECISION_MAX: usize = 100;

enum Part {
    Text(String),
    Clause(Clause),
}

fn parts(format: &str) -> Result<Vec<Part>, String> {
    let mut out = Vec::new();
    let mut plain = String::new();
    let mut letters = format.chars().peekable();
    while let Some(c) = letters.next() {
        if c != '%' {
            plain.push(c);
            continue;
        }
        let mut precision = None;
        if letters.peek() == Some(&'.') {
            letters.next();
            let mut digits = String::new();
            while let Some(d) = letters.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                letters.next();
            }
            precision = digits.parse().ok().filter(|p| *p <= PRECISION_MAX);
            if precision.is_none() {
                return Err(format!("error while parsing precision: {digits:?}"));
            }
        }
        match letters.next() {
            None => return Err("unexpected end of string".into()),
            Some('%') => plain.push('%'),
            Some(l @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => {
                out.push(Part::Text(std::mem::take(&mut plain)));
                out.push(Part::Clause((precision, l)));
            }
            Some(other) => {
                return Err(format!(
                    "could not parse formatting clause: unrecognized formatting clause \"{other}\""
                ));
            }
        }
    }
    out.push(Part::Text(plain));
    Ok(out)
}

/// Whether a literal format fits this many arguments.
pub(crate) fn check(format: &str, arguments: usize) -> Result<(), String> {
    let wanted = parts(format)?.iter().filter(|p| matches!(p, Part::Clause(_))).count();
    if wanted > arguments {
        return Err(format!("index {arguments} out of range"));
    }
    if wanted < arguments {
        return Err(format!(
            "too many arguments supplied to string.format (expected {wanted}, got {arguments})"
        ));
    }
    Ok(())
}

pub(crate) fn call<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let [Val::String(format), list] = args else { return Err(EvalError::overload()) };
    let Some(items) = list.items() else { return Err(EvalError::overload()) };
    let mut items = items.iter().enumerate();
    let mut out = String::new();
    for part in parts(format).map_err(EvalError::Failed)? {
        match part {
            Part::Text(t) => out.push_str(&t),
            Part::Clause((precision, letter)) => {
                let Some((_, v)) = items.next() else {
                    return Err(EvalError::text("index out of range in format string"));
                };
                out.push_str(&clause(letter, precision, v)?);
            }
        }
    }
    Ok(Val::string(out))
}

fn clause(letter: char, precision: Option<usize>, v: &Val<'_>) -> Result<String, EvalError> {
    let wrong = |what: &str| {
        EvalError::text(format!(
            "error during formatting: {what} can only be used on numbers, was given {}",
            v.type_name()
        ))
    };
    let digits = precision.unwrap_or(6);
    Ok(match (letter, v) {
        ('s', v) => show(v),
        ('d', Val::Int(i)) => i.to_string(),
        ('d', Val::Uint(u)) => u.to_string(),
        ('d', Val::Double(d)) if d.is_nan() || d.is_infinite() => double_text(*d),
        ('f', Val::Double(d)) => format!("{d:.digits$}"),
        ('f', Val::Int(i)) => format!("{:.digits$}", *i as f64),
        ('f', Val::Uint(u)) => format!("{:.digits$}", *u as f64),
        ('e', Val::Double(d)) => exponent(*d, digits),
        ('e', Val::Int(i)) => exponent(*i as f64, digits),
        ('b', Val::Int(i)) => radix(*i, |u| format!("{u:b}")),
        ('b', Val::Uint(u)) => format!("{u:b}"),
        ('b', Val::Bool(b)) => u8::from(*b).to_string(),
        ('o', Val::Int(i)) => radix(*i, |u| format!("{u:o}")),
        ('o', Val::Uint(u)) => format!("{u:o}"),
        ('x', Val::Int(i)) => radix(*i, |u| format!("{u:x}")),
        ('X', Val::Int(i)) => radix(*i, |u| format!("{u:X}")),
        ('x', Val::Uint(u)) => format!("{u:x}"),
        ('X', Val::Uint(u)) => format!("{u:X}"),
        ('x', Val::String(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::String(s)) => s.bytes().map(|b| format!("{b:02X}")).collect(),
        ('x', Val::Bytes(s)) => s.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', Val::Bytes(s)) => s.iter().map(|b| format!("{b:02X}")).collect(),
        ('d', _) => return Err(wrong("decimal clause")),
        ('f', _) => return Err(wrong("fixed-point clause")),
        ('e', _) => return Err(wrong("scientific clause")),
        ('b', _) => return Err(wrong("binary clause")),
        ('o', _) => return Err(wrong("octal clause")),
        _ => return Err(wrong("hex clause")),
    })
}

fn radix(i: i64, digits: impl Fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", digits(i.unsigned_abs()))
}

fn exponent(d: f64, digits: usize) -> String {
    let short = format!("{d:.digits$e}");
    let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let (sign, rest) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{mantissa}e{sign}{rest:0>2}")
}

/// Any value as `%s` prints it.
fn show(v: &Val<'_>) -> String {
    match v {
        Val::Null => "null".into(),
        Val::Type(name) => name.clone(),
        Val::Optional(None) => "optional.none()".into(),
        Val::Optional(Some(v)) => format!("optional({})", show(v)),
        _ => {
            if let Some(items) = v.items() {
                let texts: Vec<String> = items.iter().map(show).collect();
                return format!("[{}]", texts.join(", "));
            }
            if let Some(entries) = v.entries() {
                let mut texts: Vec<String> =
                    entries.iter().map(|(k, v)| format!("{}: {}", show(k), show(v))).collect();
                texts.sort();
                return format!("{{{}}}", texts.join(", "));
            }
            text(v).unwrap_or_else(|_| v.type_name().to_string())
        }
    }
}
