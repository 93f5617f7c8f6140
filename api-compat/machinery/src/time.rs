//! Times as text. This crate has no clock: now is always given.

use jiff::Timestamp;
use jiff::fmt::strtime;

/// RFC 3339 in UTC with whole seconds (`metav1.Time`).
pub fn rfc3339(t: Timestamp) -> String {
    format_utc("%Y-%m-%dT%H:%M:%SZ", t)
}

/// RFC 3339 in UTC with six decimals (`metav1.MicroTime`).
pub fn rfc3339_micro(t: Timestamp) -> String {
    format_utc("%Y-%m-%dT%H:%M:%S.%6fZ", t)
}

fn format_utc(format: &str, t: Timestamp) -> String {
    // The formats are constants of this file and valid for every timestamp.
    strtime::format(format, t).unwrap_or_default()
}

/// Parses RFC 3339 with any offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    let shaped = text.len() >= 20 && text.as_bytes().get(10).is_some_and(|c| *c == b'T');
    if shaped { text.parse().ok() } else { None }
}

/// Brings a time to the form that is stored: UTC, whole seconds.
pub fn normalize(text: &str) -> Option<String> {
    parse(text).map(rfc3339)
}

/// Brings a time to the form that is stored: UTC, six decimals.
pub fn normalize_micro(text: &str) -> Option<String> {
    parse(text).map(rfc3339_micro)
}

/// Age in kubectl's short form (`5s`, `2m3s`, `3d4h`).
pub fn human_duration(seconds: i64) -> String {
    let with = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < -1 => "<invalid>".to_string(),
        () if seconds < 0 => "0s".to_string(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => with(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => with(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => with(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => with(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// Age at `now` (RFC 3339) of something that happened at `then`; `<unknown>` when there is no time.
pub fn age(then: &str, now: &str) -> String {
    match (parse(then), parse(now)) {
        (Some(then), Some(now)) => {
            human_duration((now.as_millisecond() - then.as_millisecond()).div_euclid(1000))
        }
        _ => "<unknown>".to_string(),
    }
}

/// `now` (RFC 3339) moved by `seconds`, or `now` itself where that leaves the range of time.
pub fn add_seconds(now: &str, seconds: i64) -> String {
    parse(now)
        .and_then(|t| t.checked_add(jiff::SignedDuration::from_secs(seconds)).ok())
        .map_or_else(|| now.to_string(), rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let t: Timestamp = "2026-01-02T03:04:05.678901234+01:00".parse().unwrap();
        assert_eq!(rfc3339(t), "2026-01-02T02:04:05Z");
        assert_eq!(rfc3339_micro(t), "2026-01-02T02:04:05.678901Z");
        assert_eq!(normalize("2026-01-02T03:04:05+01:00").as_deref(), Some("2026-01-02T02:04:05Z"));
        assert_eq!(normalize("2026-01-02"), None);
        assert_eq!(normalize("yesterday"), None);
        assert_eq!(add_seconds("2026-01-02T03:04:05Z", 30), "2026-01-02T03:04:35Z");
    }

    #[test]
    fn ages() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (8 * 3600 - 60, "7h59m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (365 * 86400 * 2, "2y"),
            (366 * 86400 * 2, "2y2d"),
            (365 * 86400 * 9, "9y"),
        ];
        for (s, want) in cases {
            assert_eq!(human_duration(s), want, "{s}");
        }
        assert_eq!(age("2026-01-01T00:00:00Z", "2026-01-01T00:02:00Z"), "2m");
        assert_eq!(age("", "2026-01-01T00:02:00Z"), "<unknown>");
    }
}
