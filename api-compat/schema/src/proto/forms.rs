//! Values that have a form of their own in JSON: times, durations, bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Seconds of Go's zero time, 0001-01-01T00:00:00Z.
const ZERO_TIME: i64 = -62_135_596_800;

/// The JSON kind of a value, for messages.
pub(crate) fn kind_of(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// RFC 3339 in UTC; microseconds when `micro`. Go's zero time is null. `None` outside the years 1 to 9999.
pub(crate) fn time_to_json(seconds: i64, nanos: i32, micro: bool) -> Option<Value> {
    if seconds == ZERO_TIME && nanos == 0 {
        return Some(Value::Null);
    }
    let at = jiff::Timestamp::from_second(seconds).ok()?;
    let text = at.to_string();
    if seconds < ZERO_TIME {
        return None;
    }
    Some(Value::String(match (micro, text.strip_suffix('Z')) {
        (true, Some(head)) => format!("{head}.{:06}Z", nanos / 1000),
        _ => text,
    }))
}

/// Seconds and nanoseconds of an RFC 3339 time; nanoseconds cut to microseconds, or to none.
pub(crate) fn time_from_json(text: &str, micro: bool) -> Result<(i64, i32), String> {
    if let Some(seconds) = plain_utc(text.as_bytes()) {
        return Ok((seconds, 0));
    }
    let at: jiff::Timestamp =
        text.parse().map_err(|_| format!("\"{text}\" is not a time in RFC 3339 form"))?;
    let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    Ok((seconds, if micro { nanos / 1000 * 1000 } else { 0 }))
}

/// Seconds of a time in the form that we write ourselves, `2020-01-01T00:00:00Z`; `None` for any other form.
fn plain_utc(text: &[u8]) -> Option<i64> {
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = text.len() == shape.len()
        && text.iter().zip(shape).all(|(t, s)| if *s == b'd' { t.is_ascii_digit() } else { t == s });
    if !fits {
        return None;
    }
    let number =
        |from: usize, to: usize| text[from..to].iter().fold(0i64, |n, d| n * 10 + i64::from(d - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    // Days 1 to 28 are in every month; the rest is left to the full parser, and so are leap seconds.
    if year == 0
        || !(1..=12).contains(&month)
        || !(1..=28).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    // Days since 1970 of the proleptic Gregorian calendar, counted in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// A duration as Go prints it: `1h2m3.5s`, `1.5ms`, `0s`.
pub(crate) fn duration_to_json(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".into();
    }
    let n = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    if n < 1_000_000_000 {
        let (unit, digits) = match n {
            0..1_000 => ("ns", 0),
            1_000..1_000_000 => ("µs", 3),
            _ => ("ms", 6),
        };
        return format!("{sign}{}{unit}", decimal(n, digits));
    }
    let minutes = n / 60_000_000_000;
    let seconds = decimal(n % 60_000_000_000, 9);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// `n / 10^digits` without trailing zeros.
fn decimal(n: u64, digits: u32) -> String {
    let unit = 10u64.pow(digits);
    let fraction = n % unit;
    if fraction == 0 {
        return (n / unit).to_string();
    }
    let text = format!("{fraction:0width$}", width = digits as usize);
    format!("{}.{}", n / unit, text.trim_end_matches('0'))
}

/// Nanoseconds of a Go duration string.
pub(crate) fn duration_from_json(text: &str) -> Result<i64, String> {
    let bad = || format!("\"{text}\" is not a duration such as 1h30m or 1.5s");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let (unit, tail) = unit(tail).ok_or_else(bad)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
            return Err(bad());
        }
        let fraction = &fraction[..fraction.len().min(18)];
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        total += whole * unit;
        if !fraction.is_empty() {
            let value: i128 = fraction.parse().map_err(|_| bad())?;
            total += value * unit / 10i128.pow(fraction.len() as u32);
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| bad())
}

fn unit(text: &str) -> Option<(i128, &str)> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    UNITS.iter().find_map(|(name, n)| Some((*n, text.strip_prefix(name)?)))
}

/// Standard base64.
pub(crate) fn bytes_to_json(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Standard base64; line breaks are allowed, as in Go.
pub(crate) fn bytes_from_json(text: &str) -> Result<Vec<u8>, String> {
    let decoded = if text.contains(['\n', '\r']) {
        STANDARD.decode(text.replace(['\n', '\r'], ""))
    } else {
        STANDARD.decode(text)
    };
    decoded.map_err(|e| format!("not valid base64: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (15_000_000, "15ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-7_384_000_000_000, "-2h3m4s"),
        ] {
            assert_eq!(duration_to_json(nanos), text);
            assert_eq!(duration_from_json(text), Ok(nanos));
        }
        for bad in ["", "1", "s", "1x", "1..5s", "99999999999h"] {
            assert!(duration_from_json(bad).is_err(), "{bad}");
        }
        assert_eq!(duration_from_json("1.5h"), Ok(5_400_000_000_000));
    }

    #[test]
    fn times() {
        assert_eq!(time_from_json("2020-01-01T01:00:00+01:00", false), Ok((1_577_836_800, 0)));
        assert_eq!(time_to_json(1_577_836_800, 5, false), Some("2020-01-01T00:00:00Z".into()));
        assert_eq!(time_from_json("2020-01-01T00:00:00.1234567Z", true), Ok((1_577_836_800, 123_456_000)));
        assert_eq!(
            time_to_json(1_577_836_800, 123_456_000, true),
            Some("2020-01-01T00:00:00.123456Z".into())
        );
        assert_eq!(time_to_json(ZERO_TIME, 0, false), Some(Value::Null));
        assert_eq!(time_from_json("1969-12-31T23:59:59.5Z", true), Ok((-1, 500_000_000)));
        assert!(time_from_json("yesterday", false).is_err());
        assert!(time_from_json("2020-02-31T00:00:00Z", false).is_err());
        for second in (0..4_000_000_000i64).step_by(1_234_567) {
            let text = jiff::Timestamp::from_second(second).unwrap().to_string();
            assert_eq!(time_from_json(&text, false), Ok((second, 0)), "{text}");
        }
        assert_eq!(time_to_json(i64::MAX, 0, false), None);
    }
}
