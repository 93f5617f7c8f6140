//! Parts of timestamps and durations.

use jiff::tz::{Offset, TimeZone};

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    match args {
        [Val::Duration(nanos)] => Ok(Val::Int(match name {
            "getHours" => nanos / 3_600_000_000_000,
            "getMinutes" => nanos / 60_000_000_000,
            "getSeconds" => nanos / 1_000_000_000,
            "getMilliseconds" => nanos / 1_000_000 % 1_000,
            _ => return Err(EvalError::overload()),
        })),
        [Val::Timestamp(t)] => part(name, &t.to_zoned(TimeZone::UTC)),
        [Val::Timestamp(t), Val::String(zone)] => part(name, &t.to_zoned(named(zone)?)),
        _ => Err(EvalError::overload()),
    }
}

fn named(zone: &str) -> Result<TimeZone, EvalError> {
    let unknown = || EvalError::text(format!("unknown time zone {zone}"));
    if let Some((hours, minutes)) = zone.split_once(':') {
        let h: i32 = hours.trim_start_matches('+').parse().map_err(|_| unknown())?;
        let m: i32 = minutes.parse().map_err(|_| unknown())?;
        let seconds = h * 3600 + m * 60 * if hours.starts_with('-') { -1 } else { 1 };
        return Offset::from_seconds(seconds).map(Offset::to_time_zone).map_err(|_| unknown());
    }
    if matches!(zone, "UTC" | "") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(zone).map_err(|_| unknown())
}

fn part<'a>(name: &str, t: &jiff::Zoned) -> Outcome<'a> {
    Ok(Val::Int(match name {
        "getFullYear" => t.year().into(),
        "getMonth" => i64::from(t.month()) - 1,
        "getDate" => t.day().into(),
        "getDayOfMonth" => i64::from(t.day()) - 1,
        "getDayOfWeek" => t.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(t.day_of_year()) - 1,
        "getHours" => t.hour().into(),
        "getMinutes" => t.minute().into(),
        "getSeconds" => t.second().into(),
        "getMilliseconds" => t.millisecond().into(),
        _ => return Err(EvalError::overload()),
    }))
}
