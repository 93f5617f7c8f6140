//! Arithmetic, with overflow told.

use std::sync::Arc;

use jiff::SignedDuration;

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

pub(crate) fn operator<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    use Val::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let overflow = |kind: &str| EvalError::text(format!("{kind} overflow"));
    let int = |v: Option<i64>| v.map(Int).ok_or_else(|| overflow("integer"));
    let uint = |v: Option<u64>| v.map(Uint).ok_or_else(|| overflow("unsigned integer"));
    let span = |v: Option<i64>| v.map(Duration).ok_or_else(|| overflow("duration"));
    match (name, args) {
        ("!_", [Bool(b)]) => Ok(Bool(!b)),
        ("-_", [Int(i)]) => int(i.checked_neg()),
        ("-_", [Double(d)]) => Ok(Double(-d)),
        ("_+_", [Int(a), Int(b)]) => int(a.checked_add(*b)),
        ("_-_", [Int(a), Int(b)]) => int(a.checked_sub(*b)),
        ("_*_", [Int(a), Int(b)]) => int(a.checked_mul(*b)),
        ("_/_", [Int(_), Int(0)]) | ("_/_", [Uint(_), Uint(0)]) => Err(EvalError::text("division by zero")),
        ("_%_", [Int(_), Int(0)]) | ("_%_", [Uint(_), Uint(0)]) => Err(EvalError::text("modulus by zero")),
        ("_/_", [Int(a), Int(b)]) => int(a.checked_div(*b)),
        ("_%_", [Int(a), Int(b)]) => int(a.checked_rem(*b)),
        ("_+_", [Uint(a), Uint(b)]) => uint(a.checked_add(*b)),
        ("_-_", [Uint(a), Uint(b)]) => uint(a.checked_sub(*b)),
        ("_*_", [Uint(a), Uint(b)]) => uint(a.checked_mul(*b)),
        ("_/_", [Uint(a), Uint(b)]) => uint(a.checked_div(*b)),
        ("_%_", [Uint(a), Uint(b)]) => uint(a.checked_rem(*b)),
        ("_+_", [Double(a), Double(b)]) => Ok(Double(a + b)),
        ("_-_", [Double(a), Double(b)]) => Ok(Double(a - b)),
        ("_*_", [Double(a), Double(b)]) => Ok(Double(a * b)),
        ("_/_", [Double(a), Double(b)]) => Ok(Double(a / b)),
        ("_+_", [String(a), String(b)]) => Ok(Val::string(format!("{a}{b}"))),
        ("_+_", [Bytes(a), Bytes(b)]) => Ok(Bytes([&a[..], &b[..]].concat().into())),
        ("_+_", [Duration(a), Duration(b)]) => span(a.checked_add(*b)),
        ("_-_", [Duration(a), Duration(b)]) => span(a.checked_sub(*b)),
        ("_+_", [Timestamp(t), Duration(d)] | [Duration(d), Timestamp(t)]) => {
            let moved = t.checked_add(SignedDuration::from_nanos(*d));
            moved.map(Timestamp).map_err(|_| overflow("timestamp"))
        }
        ("_-_", [Timestamp(t), Duration(d)]) => {
            let moved = t.checked_sub(SignedDuration::from_nanos(*d));
            moved.map(Timestamp).map_err(|_| overflow("timestamp"))
        }
        ("_-_", [Timestamp(a), Timestamp(b)]) => span(i64::try_from(a.duration_since(*b).as_nanos()).ok()),
        ("_+_", [a, b]) => match (a.items(), b.items()) {
            (Some(mut x), Some(y)) => {
                x.extend(y);
                Ok(Val::List(Arc::new(x)))
            }
            _ => Err(EvalError::overload()),
        },
        _ => Err(EvalError::overload()),
    }
}
