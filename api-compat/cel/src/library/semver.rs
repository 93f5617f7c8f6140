//! `kubernetes.Semver`.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

/// A semantic version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: Vec<String>,
}

impl Semver {
    /// Parses `1.2.3-rc.1+b`; `lenient` takes a leading `v`, zeros in front and missing parts.
    fn parse(text: &str, lenient: bool) -> Option<Self> {
        let mut text = text;
        if lenient {
            text = text.trim().trim_start_matches('v');
        }
        let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
        let parts: Vec<&str> = core.split('.').collect();
        if parts.len() > 3
            || (parts.len() < 3 && !lenient)
            || (parts.len() < 3 && (pre.is_some() || build.is_some()))
        {
            return None;
        }
        let mut numbers = [0; 3];
        for (slot, part) in numbers.iter_mut().zip(&parts) {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if !digits || (part.len() > 1 && part.starts_with('0') && !lenient) {
                return None;
            }
            *slot = part.parse().ok()?;
        }
        let identifiers = |list: Option<&str>| -> Option<Vec<String>> {
            let Some(list) = list else { return Some(Vec::new()) };
            let all: Vec<String> = list.split('.').map(str::to_string).collect();
            let fine =
                |i: &String| !i.is_empty() && i.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            all.iter().all(fine).then_some(all)
        };
        let pre = identifiers(pre)?;
        let zeros = |i: &String| i.len() > 1 && i.starts_with('0') && i.bytes().all(|b| b.is_ascii_digit());
        if pre.iter().any(zeros) {
            return None;
        }
        Some(Self { numbers, pre, build: identifiers(build)? })
    }

    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => {
                for (a, b) in self.pre.iter().zip(&other.pre) {
                    let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(x), Ok(y)) => x.cmp(&y),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        _ => a.cmp(b),
                    };
                    if order.is_ne() {
                        return order;
                    }
                }
                self.pre.len().cmp(&other.pre.len())
            }
        })
    }
}

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let lenient = matches!(args.get(1), Some(Val::Bool(true)));
    let number = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (name, args) {
        ("semver", [Val::String(s), ..]) => Semver::parse(s, lenient)
            .map(|v| Val::Semver(Arc::new(v)))
            .ok_or_else(|| EvalError::text(format!("invalid semver: {s:?}"))),
        ("isSemver", [Val::String(s), ..]) => Ok(Val::Bool(Semver::parse(s, lenient).is_some())),
        ("major", [Val::Semver(v)]) => number(v.numbers[0]),
        ("minor", [Val::Semver(v)]) => number(v.numbers[1]),
        ("patch", [Val::Semver(v)]) => number(v.numbers[2]),
        ("isLessThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.order(b).is_lt())),
        ("isGreaterThan", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Bool(a.order(b).is_gt())),
        ("compareTo", [Val::Semver(a), Val::Semver(b)]) => Ok(Val::Int(a.order(b) as i64)),
        _ => Err(EvalError::overload()),
    }
}
