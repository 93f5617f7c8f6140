//! Sizes and conversions between types.

use super::Outcome;
use crate::error::EvalError;
use crate::time;
use crate::value::Val;

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let [v] = args else { return Err(EvalError::overload()) };
    match name {
        "size" => v.size().and_then(|n| i64::try_from(n).ok()).map(Val::Int).ok_or_else(EvalError::overload),
        "dyn" => Ok(v.clone()),
        "type" => Ok(Val::Type(v.type_name().to_string())),
        "bool" => boolean(v),
        "bytes" => match v {
            Val::Bytes(_) => Ok(v.clone()),
            Val::String(s) => Ok(Val::Bytes(s.as_bytes().into())),
            _ => Err(EvalError::overload()),
        },
        "double" => double(v),
        "int" => int(v),
        "uint" => uint(v),
        "string" => text(v).map(Val::string),
        "duration" => match v {
            Val::Duration(_) => Ok(v.clone()),
            Val::String(s) => time::parse_duration(s)
                .map(Val::Duration)
                .ok_or_else(|| EvalError::text(format!("time: invalid duration {s:?}"))),
            _ => Err(EvalError::overload()),
        },
        _ => match v {
            Val::Timestamp(_) => Ok(v.clone()),
            Val::Int(i) => jiff::Timestamp::from_second(*i)
                .map(Val::Timestamp)
                .map_err(|_| EvalError::text("timestamp overflow")),
            Val::String(s) => {
                s.parse().map(Val::Timestamp).map_err(|_| EvalError::text(format!("invalid timestamp {s:?}")))
            }
            _ => Err(EvalError::overload()),
        },
    }
}

fn conversion(from: &str, to: &str) -> EvalError {
    EvalError::text(format!("type conversion error from '{from}' to '{to}'"))
}

fn boolean<'a>(v: &Val<'a>) -> Outcome<'a> {
    match v {
        Val::Bool(_) => Ok(v.clone()),
        Val::String(s) => match s.as_ref() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Val::Bool(false)),
            _ => Err(conversion("string", "bool")),
        },
        _ => Err(EvalError::overload()),
    }
}

fn double<'a>(v: &Val<'a>) -> Outcome<'a> {
    match v {
        Val::Double(_) => Ok(v.clone()),
        Val::Int(i) => Ok(Val::Double(*i as f64)),
        Val::Uint(u) => Ok(Val::Double(*u as f64)),
        Val::String(s) => s.parse().map(Val::Double).map_err(|_| conversion("string", "double")),
        _ => Err(EvalError::overload()),
    }
}

fn int<'a>(v: &Val<'a>) -> Outcome<'a> {
    let overflow = || EvalError::text("integer overflow");
    match v {
        Val::Int(_) => Ok(v.clone()),
        Val::Uint(u) => i64::try_from(*u).map(Val::Int).map_err(|_| overflow()),
        Val::Double(d) if d.is_finite() && d.abs() < 9.2e18 => Ok(Val::Int(d.trunc() as i64)),
        Val::Double(_) => Err(overflow()),
        Val::String(s) => s.parse().map(Val::Int).map_err(|_| conversion("string", "int")),
        Val::Timestamp(t) => Ok(Val::Int(t.as_second())),
        _ => Err(EvalError::overload()),
    }
}

fn uint<'a>(v: &Val<'a>) -> Outcome<'a> {
    let overflow = || EvalError::text("unsigned integer overflow");
    match v {
        Val::Uint(_) => Ok(v.clone()),
        Val::Int(i) => u64::try_from(*i).map(Val::Uint).map_err(|_| overflow()),
        Val::Double(d) if (0.0..1.8e19).contains(d) => Ok(Val::Uint(d.trunc() as u64)),
        Val::Double(_) => Err(overflow()),
        Val::String(s) => s.parse().map(Val::Uint).map_err(|_| conversion("string", "uint")),
        _ => Err(EvalError::overload()),
    }
}

/// A value as `string()` prints it.
pub(crate) fn text(v: &Val<'_>) -> Result<String, EvalError> {
    Ok(match v {
        Val::String(s) => s.to_string(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => double_text(*d),
        Val::Bytes(b) => String::from_utf8(b.to_vec()).map_err(|_| conversion("bytes", "string"))?,
        Val::Duration(d) => time::duration_text(*d),
        Val::Timestamp(t) => t.to_string(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(ip, bits) => format!("{ip}/{bits}"),
        _ => return Err(EvalError::overload()),
    })
}

/// A double as Go prints it with the fewest digits.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if d != 0.0 && (d.abs() >= 1e21 || d.abs() < 1e-4) {
        let short = format!("{d:e}");
        let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{d}")
}
