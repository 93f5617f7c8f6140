//! The schedule of a CronJob: five fields, or one of the `@` names, with the messages of the parser that upstream uses
//! (robfig/cron, standard form).

/// A field: its bounds, and names for its values.
struct Field {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { low: 0, high: 59, names: &[] },
    Field { low: 0, high: 23, names: &[] },
    Field { low: 1, high: 31, names: &[] },
    Field { low: 1, high: 12, names: MONTHS },
    Field { low: 0, high: 6, names: DAYS },
];

/// Checks a schedule.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        for range in part.split(',').filter(|r| !r.is_empty()) {
            check_range(range, field)?;
        }
    }
    Ok(())
}

fn descriptor(schedule: &str) -> Result<(), String> {
    if matches!(
        schedule,
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly"
    ) {
        return Ok(());
    }
    match schedule.strip_prefix("@every ") {
        Some(d) if is_duration(d) => Ok(()),
        Some(d) => Err(format!("failed to parse duration {schedule}: time: invalid duration {d:?}")),
        None => Err(format!("unrecognized descriptor: {schedule}")),
    }
}

/// Numbers with units, such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['-', '+']);
    if rest == "0" {
        return true;
    }
    let mut some = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = ["ns", "us", "µs", "ms", "h", "m", "s"].iter().find(|u| tail.starts_with(**u));
        let (Some(unit), Ok(_)) = (unit, number.parse::<f64>()) else { return false };
        rest = &tail[unit.len()..];
        some = true;
    }
    some
}

fn check_range(expr: &str, field: &Field) -> Result<(), String> {
    let (range, step) = match expr.split('/').collect::<Vec<_>>().as_slice() {
        [range] => (*range, None),
        [range, step] => (*range, Some(*step)),
        _ => return Err(format!("too many slashes: {expr}")),
    };
    let ends: Vec<&str> = range.split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (field.low, field.high),
        ["*" | "?", ..] | [_, _, _, ..] => return Err(format!("too many hyphens: {expr}")),
        [one] => {
            let n = value(one, field)?;
            (n, n)
        }
        [a, b] => (value(a, field)?, value(b, field)?),
        [] => (field.low, field.high),
    };
    if let Some(step) = step {
        let n = number(step)?;
        if ends.len() == 1 {
            end = field.high;
        }
        if n == 0 {
            return Err(format!("step of range should be a positive number: {expr}"));
        }
    }
    if start < field.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {expr}", field.low));
    }
    if end > field.high {
        return Err(format!("end of range ({end}) above maximum ({}): {expr}", field.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {expr}"));
    }
    Ok(())
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    match field.names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        Some(i) => Ok(field.low + u32::try_from(i).unwrap_or(0)),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => u32::try_from(n).map_err(|_| format!("failed to parse int from {text}: value out of range")),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn schedules() {
        for good in
            ["* * * * *", "*/5 0-6,12 ? jan-MAR sun", "@every 1h30m", "@daily", "0 3 * * 1-5", "5/15 * * * *"]
        {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
        for (bad, message) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ] {
            assert_eq!(parse(bad), Err(message.to_string()), "{bad}");
        }
    }
}
