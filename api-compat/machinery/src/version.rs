//! The order of API version names.

use std::cmp::Ordering;

/// Compares version names: the greater one is preferred. GA is above beta, beta above alpha, then the number counts;
/// names of another form are below all and in falling order of the alphabet.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stage (2 GA, 1 beta, 0 alpha), major, minor.
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(digits);
    let number = |s: &str| (!s.is_empty() && !s.starts_with('0')).then(|| s.parse().ok()).flatten();
    let major: u64 = number(major)?;
    if stage.is_empty() {
        return Some((2, major, 0));
    }
    let (level, minor) = match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    if !minor.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((level, major, number(minor)?))
}
