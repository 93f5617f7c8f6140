//! Strings; positions count code points.

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

/// Code points that a text may grow to.
const GROWN_MAX: usize = 4 << 20;

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    if name == "join" {
        return join(args);
    }
    let Some(Val::String(s)) = args.first() else { return Err(EvalError::overload()) };
    match (name, &args[1..]) {
        ("contains", [Val::String(t)]) => Ok(Val::Bool(s.contains(t.as_ref()))),
        ("startsWith", [Val::String(t)]) => Ok(Val::Bool(s.starts_with(t.as_ref()))),
        ("endsWith", [Val::String(t)]) => Ok(Val::Bool(s.ends_with(t.as_ref()))),
        ("matches", [Val::String(p)]) => Ok(Val::Bool(regex(p)?.is_match(s))),
        ("find", [Val::String(p)]) => Ok(Val::string(regex(p)?.find(s).map_or("", |m| m.as_str()))),
        ("findAll", [Val::String(p)]) => find_all(s, p, -1),
        ("findAll", [Val::String(p), Val::Int(n)]) => find_all(s, p, *n),
        ("lowerAscii", []) => Ok(Val::string(s.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::string(s.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::string(s.trim())),
        ("reverse", []) => Ok(Val::string(s.chars().rev().collect::<String>())),
        ("strings.quote", []) => Ok(Val::string(format!("{s:?}"))),
        ("charAt", [Val::Int(i)]) => {
            let count = s.chars().count();
            match usize::try_from(*i) {
                Ok(at) if at < count => {
                    Ok(Val::string(s.chars().nth(at).map(String::from).unwrap_or_default()))
                }
                Ok(at) if at == count => Ok(Val::string("")),
                _ => Err(out_of_range(*i)),
            }
        }
        ("indexOf" | "lastIndexOf", [Val::String(t)]) => find(s, t, None, name == "indexOf"),
        ("indexOf" | "lastIndexOf", [Val::String(t), Val::Int(from)]) => {
            find(s, t, Some(*from), name == "indexOf")
        }
        ("replace", [Val::String(from), Val::String(to)]) => replace(s, from, to, -1),
        ("replace", [Val::String(from), Val::String(to), Val::Int(n)]) => replace(s, from, to, *n),
        ("split", [Val::String(by)]) => Ok(split(s, by, -1)),
        ("split", [Val::String(by), Val::Int(n)]) => Ok(split(s, by, *n)),
        ("substring", [Val::Int(from)]) => substring(s, *from, None),
        ("substring", [Val::Int(from), Val::Int(to)]) => substring(s, *from, Some(*to)),
        _ => Err(EvalError::overload()),
    }
}

fn out_of_range(i: i64) -> EvalError {
    EvalError::text(format!("index out of range: {i}"))
}

fn regex(pattern: &str) -> Result<::regex::Regex, EvalError> {
    crate::regex::compile(pattern).map_err(|e| EvalError::text(format!("error parsing regexp: {e}")))
}

fn find_all<'a>(s: &str, pattern: &str, limit: i64) -> Outcome<'a> {
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = regex(pattern)?;
    Ok(Val::list(regex.find_iter(s).take(count).map(|m| Val::string(m.as_str())).collect()))
}

fn join<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Some(items) = args.first().and_then(Val::items) else { return Err(EvalError::overload()) };
    let by = match args.get(1) {
        None => "",
        Some(Val::String(s)) => s.as_ref(),
        Some(_) => return Err(EvalError::overload()),
    };
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let Val::String(s) = item else { return Err(EvalError::overload()) };
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(s);
        grown(&out)?;
    }
    Ok(Val::string(out))
}

fn grown(text: &str) -> Result<(), EvalError> {
    if text.len() > GROWN_MAX { Err(EvalError::CostLimit) } else { Ok(()) }
}

fn find<'a>(s: &str, t: &str, from: Option<i64>, first: bool) -> Outcome<'a> {
    let (text, part): (Vec<char>, Vec<char>) = (s.chars().collect(), t.chars().collect());
    let count = text.len();
    let start = match from {
        None => None,
        Some(i) => match usize::try_from(i) {
            Ok(at) if at <= count => Some(at),
            _ => return Err(out_of_range(i)),
        },
    };
    let last = count.saturating_sub(part.len());
    let fits = |at: &usize| part.len() <= count && text[*at..].starts_with(&part);
    let found = if first {
        (start.unwrap_or(0)..=last).find(fits)
    } else {
        (0..=start.unwrap_or(count).min(last)).rev().find(fits)
    };
    Ok(Val::Int(found.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1)))
}

fn replace<'a>(s: &str, from: &str, to: &str, limit: i64) -> Outcome<'a> {
    let places = if from.is_empty() { s.chars().count() + 1 } else { s.len() / from.len() + 1 };
    let count = usize::try_from(limit).unwrap_or(usize::MAX);
    if places.min(count).saturating_mul(to.len()) > GROWN_MAX {
        return Err(EvalError::CostLimit);
    }
    Ok(Val::string(s.replacen(from, to, count)))
}

fn split<'a>(s: &str, by: &str, limit: i64) -> Val<'a> {
    let text = |t: &str| Val::string(t);
    match limit {
        0 => Val::list(Vec::new()),
        _ if by.is_empty() => {
            let count = usize::try_from(limit).unwrap_or(usize::MAX);
            let chars: Vec<char> = s.chars().collect();
            let mut out: Vec<Val<'a>> = Vec::new();
            for (i, c) in chars.iter().enumerate() {
                if i + 1 == count {
                    out.push(Val::string(chars[i..].iter().collect::<String>()));
                    break;
                }
                out.push(Val::string(c.to_string()));
            }
            Val::list(out)
        }
        n if n < 0 => Val::list(s.split(by).map(text).collect()),
        n => Val::list(s.splitn(usize::try_from(n).unwrap_or(usize::MAX), by).map(text).collect()),
    }
}

fn substring<'a>(s: &str, from: i64, to: Option<i64>) -> Outcome<'a> {
    let chars: Vec<char> = s.chars().collect();
    let end = match to {
        None => chars.len(),
        Some(t) => usize::try_from(t).ok().filter(|t| *t <= chars.len()).ok_or_else(|| out_of_range(t))?,
    };
    let start = usize::try_from(from).ok().filter(|f| *f <= chars.len()).ok_or_else(|| out_of_range(from))?;
    if start > end {
        return Err(EvalError::text(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Val::string(chars[start..end].iter().collect::<String>()))
}
