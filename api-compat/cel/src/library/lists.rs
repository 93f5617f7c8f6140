//! Lists, maps and sets.

use std::cmp::Ordering;

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

/// `in` and indexing.
pub(crate) fn access<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let [a, b] = args else { return Err(EvalError::overload()) };
    if name == "@in" {
        return match b.items() {
            Some(items) => Ok(Val::Bool(items.iter().any(|i| i.equals(a)))),
            None if b.entries().is_some() => Ok(Val::Bool(b.lookup(a).is_some())),
            None => Err(EvalError::overload()),
        };
    }
    let (from, chained) = match a {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(v)) => ((**v).clone(), true),
        v => (v.clone(), false),
    };
    let found = index(&from, b);
    if name == "_[?_]" || chained {
        return Ok(Val::Optional(found.ok().map(Box::new)));
    }
    found
}

fn index<'a>(from: &Val<'a>, key: &Val<'a>) -> Outcome<'a> {
    if let Val::Json(serde_json::Value::Object(_), _) | Val::Map(_) = from {
        return from.lookup(key).ok_or_else(|| {
            let shown = super::convert::text(key).unwrap_or_default();
            EvalError::text(format!("no such key: {shown}"))
        });
    }
    let Some(i) = position(key) else { return Err(EvalError::overload()) };
    let out = || EvalError::text(format!("index out of bounds: {i}"));
    let at = usize::try_from(i).map_err(|_| out())?;
    match from {
        Val::List(l) => l.get(at).cloned().ok_or_else(out),
        Val::Json(serde_json::Value::Array(l), ty) => {
            l.get(at).map(|v| crate::value::from_json(v, crate::value::element_type(ty, ""))).ok_or_else(out)
        }
        _ => Err(EvalError::overload()),
    }
}

fn position(key: &Val<'_>) -> Option<i64> {
    match key {
        Val::Int(i) => Some(*i),
        Val::Uint(u) => i64::try_from(*u).ok(),
        Val::Double(d) if d.fract() == 0.0 => Some(*d as i64),
        _ => None,
    }
}

/// Sorts by keys of one kind.
pub(crate) fn sort_keyed<'a>(list: &mut [(Val<'a>, Val<'a>)]) -> Result<(), EvalError> {
    let mut failed = None;
    list.sort_by(|(a, _), (b, _)| {
        a.compare(b).unwrap_or_else(|e| {
            failed = Some(e);
            Ordering::Equal
        })
    });
    failed.map_or(Ok(()), Err)
}

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    if let ("lists.range", [Val::Int(n)]) = (name, args) {
        return Ok(Val::list((0..*n).map(Val::Int).collect()));
    }
    let Some(items) = args.first().and_then(Val::items) else { return Err(EvalError::overload()) };
    match (name, &args[1..]) {
        ("isSorted", []) => {
            for pair in items.windows(2) {
                if pair[0].compare(&pair[1])?.is_gt() {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        }
        ("sum", []) => sum(&items),
        ("min" | "max", []) => {
            let mut best: Option<Val<'a>> = None;
            for item in items {
                let better = match &best {
                    None => true,
                    Some(b) if name == "min" => item.compare(b)?.is_lt(),
                    Some(b) => item.compare(b)?.is_gt(),
                };
                if better {
                    best = Some(item);
                }
            }
            best.ok_or_else(|| EvalError::text(format!("{name} called on empty list")))
        }
        ("indexOf", [v]) => Ok(place(items.iter().position(|i| i.equals(v)))),
        ("lastIndexOf", [v]) => Ok(place(items.iter().rposition(|i| i.equals(v)))),
        ("reverse", []) => Ok(Val::list(items.into_iter().rev().collect())),
        ("slice", [Val::Int(from), Val::Int(to)]) => {
            let (a, b) = (usize::try_from(*from), usize::try_from(*to));
            match (a, b) {
                (Ok(a), Ok(b)) if a <= b && b <= items.len() => Ok(Val::list(items[a..b].to_vec())),
                _ => Err(EvalError::text(format!(
                    "cannot slice({from}, {to}), list is length {}",
                    items.len()
                ))),
            }
        }
        ("flatten", []) => {
            Ok(Val::list(items.into_iter().flat_map(|i| i.items().unwrap_or_else(|| vec![i])).collect()))
        }
        ("distinct", []) => {
            let mut out: Vec<Val<'a>> = Vec::new();
            for item in items {
                if !out.iter().any(|o| o.equals(&item)) {
                    out.push(item);
                }
            }
            Ok(Val::list(out))
        }
        ("sort", []) => {
            let mut keyed: Vec<(Val<'a>, Val<'a>)> = items.into_iter().map(|v| (v.clone(), v)).collect();
            sort_keyed(&mut keyed)?;
            Ok(Val::list(keyed.into_iter().map(|(_, v)| v).collect()))
        }
        ("first", []) => Ok(Val::Optional(items.first().cloned().map(Box::new))),
        ("last", []) => Ok(Val::Optional(items.last().cloned().map(Box::new))),
        (_, [other]) if name.starts_with("sets.") => sets(name, &items, other),
        _ => Err(EvalError::overload()),
    }
}

fn sets<'a>(name: &str, items: &[Val<'a>], other: &Val<'a>) -> Outcome<'a> {
    let Some(others) = other.items() else { return Err(EvalError::overload()) };
    let within = |a: &[Val<'a>], b: &[Val<'a>]| a.iter().all(|x| b.iter().any(|y| x.equals(y)));
    Ok(Val::Bool(match name {
        "sets.contains" => within(&others, items),
        "sets.equivalent" => within(&others, items) && within(items, &others),
        _ => items.iter().any(|x| others.iter().any(|y| x.equals(y))),
    }))
}

fn place<'a>(found: Option<usize>) -> Val<'a> {
    Val::Int(found.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1))
}

fn sum<'a>(items: &[Val<'a>]) -> Outcome<'a> {
    let mut total = match items.first() {
        None | Some(Val::Int(_)) => Val::Int(0),
        Some(Val::Uint(_)) => Val::Uint(0),
        Some(Val::Double(_)) => Val::Double(0.0),
        Some(Val::Duration(_)) => Val::Duration(0),
        Some(_) => return Err(EvalError::overload()),
    };
    for item in items {
        total = super::numbers::operator("_+_", &[total, item.clone()])?;
    }
    Ok(total)
}
