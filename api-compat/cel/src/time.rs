//! Durations and times in Go's forms.

const NANOS: i64 = 1_000_000_000;

/// A Go duration (`1h30m`, `-1.5s`, `0`) in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|n| *n > 0)?;
        let number = &rest[..digits];
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| digits + n);
        let unit: i128 = match &rest[digits..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => i128::from(NANOS),
            "m" => 60 * i128::from(NANOS),
            "h" => 3600 * i128::from(NANOS),
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole.checked_mul(unit)?;
        let (mut scale, mut part) = (1i128, 0i128);
        for b in fraction.bytes().take(18) {
            part = part * 10 + i128::from(b - b'0');
            scale *= 10;
        }
        total += part * unit / scale;
        rest = &rest[unit_end..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration in nanoseconds as CEL's `string()` prints it: seconds with a fraction.
pub fn duration_text(nanos: i64) -> String {
    let (seconds, part) = (nanos / NANOS, (nanos % NANOS).abs());
    if part == 0 {
        return format!("{seconds}s");
    }
    let sign = if nanos < 0 && seconds == 0 { "-" } else { "" };
    format!("{sign}{seconds}.{}s", format!("{part:09}").trim_end_matches('0'))
}

/// RFC 3339, or a date alone.
pub fn parse_timestamp(text: &str) -> Option<jiff::Timestamp> {
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        return Some(t);
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("1h30m", Some(5_400 * NANOS)),
            ("-1.5s", Some(-1_500_000_000)),
            ("0", Some(0)),
            ("500ms", Some(500_000_000)),
            (".5s", Some(500_000_000)),
            ("1", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text}");
        }
        assert_eq!(duration_text(5_400 * NANOS), "5400s");
        assert_eq!(duration_text(-500_000_000), "-0.5s");
    }
}
