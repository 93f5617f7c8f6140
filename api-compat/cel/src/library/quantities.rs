//! `kubernetes.Quantity`.

use std::sync::Arc;

use knarr_machinery::quantity::{Format, Quantity};

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("quantity", [Val::String(s)]) => {
            Quantity::parse(s).map(|q| Val::Quantity(Arc::new(q))).map_err(EvalError::Failed)
        }
        ("isQuantity", [Val::String(s)]) => Ok(Val::Bool(Quantity::parse(s).is_ok())),
        ("isInteger", [Val::Quantity(q)]) => Ok(Val::Bool(q.is_integer() && q.as_f64().abs() < 9.2e18)),
        ("asInteger", [Val::Quantity(q)]) => {
            if q.is_integer() && q.as_f64().abs() < 9.2e18 {
                Ok(Val::Int(q.value()))
            } else {
                Err(EvalError::text("cannot convert value to integer"))
            }
        }
        ("asApproximateFloat", [Val::Quantity(q)]) => Ok(Val::Double(q.as_f64())),
        ("sign", [Val::Quantity(q)]) => Ok(Val::Int(q.sign().into())),
        ("add" | "sub", [Val::Quantity(a), b]) => {
            let b = match b {
                Val::Quantity(b) => (**b).clone(),
                Val::Int(i) => Quantity::from_value(*i, Format::DecimalSi),
                _ => return Err(EvalError::overload()),
            };
            Ok(Val::Quantity(Arc::new(if name == "add" { a.add(&b) } else { a.sub(&b) })))
        }
        ("isLessThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a.cmp(b).is_lt())),
        ("isGreaterThan", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Bool(a.cmp(b).is_gt())),
        ("compareTo", [Val::Quantity(a), Val::Quantity(b)]) => Ok(Val::Int(a.cmp(b) as i64)),
        _ => Err(EvalError::overload()),
    }
}
