//! The functions, each under its name; what they are called with was checked where types were known.

pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod lists;
pub(crate) mod names;
pub(crate) mod net;
pub(crate) mod numbers;
pub(crate) mod quantities;
pub(crate) mod semver;
pub(crate) mod strings;
pub(crate) mod times;

use crate::error::EvalError;
use crate::eval::Machine;
use crate::value::Val;

pub(crate) type Outcome<'a> = Result<Val<'a>, EvalError>;

/// Calls a function; the first value of a member call is what stands before the dot.
pub(crate) fn call<'a>(
    machine: &mut Machine<'_>,
    name: &str,
    member: bool,
    args: Vec<Val<'a>>,
) -> Outcome<'a> {
    machine.charge(1)?;
    // Work that grows with its input is charged before it is done.
    machine.charge(weight(name, &args))?;
    let out = match name {
        "_==_" | "_!=_" => {
            let [a, b] = args.as_slice() else { return Err(EvalError::overload()) };
            return Ok(Val::Bool(a.equals(b) == (name == "_==_")));
        }
        "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let [a, b] = args.as_slice() else { return Err(EvalError::overload()) };
            let order = a.compare(b)?;
            return Ok(Val::Bool(match name {
                "_<_" => order.is_lt(),
                "_<=_" => order.is_le(),
                "_>_" => order.is_gt(),
                _ => order.is_ge(),
            }));
        }
        "!_" | "-_" | "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => numbers::operator(name, &args),
        "@in" | "_[_]" | "_[?_]" => lists::access(name, &args),
        "optional.of" | "optional.ofNonZeroValue" | "optional.none" | "hasValue" | "value" => {
            optional(name, &args)
        }
        "size" | "bool" | "bytes" | "double" | "int" | "uint" | "string" | "duration" | "timestamp"
        | "dyn" | "type" => convert::call(name, &args),
        "isSorted" | "sum" | "min" | "max" | "slice" | "flatten" | "distinct" | "sort" | "first" | "last"
        | "lists.range" | "sets.contains" | "sets.equivalent" | "sets.intersects" => lists::call(name, &args),
        "indexOf" | "lastIndexOf" | "reverse" if !matches!(args.first(), Some(Val::String(_))) => {
            lists::call(name, &args)
        }
        "contains" | "startsWith" | "endsWith" | "matches" | "find" | "findAll" | "charAt" | "indexOf"
        | "lastIndexOf" | "lowerAscii" | "upperAscii" | "trim" | "replace" | "split" | "substring"
        | "join" | "strings.quote" | "reverse" => strings::call(name, &args),
        "format" => format::call(&args),
        n if n.starts_with("get") && matches!(args.first(), Some(Val::Timestamp(_) | Val::Duration(_))) => {
            times::call(name, &args)
        }
        "jsonpatch.escapeKey" => match args.as_slice() {
            [Val::String(key)] => Ok(Val::string(key.replace('~', "~0").replace('/', "~1"))),
            _ => Err(EvalError::overload()),
        },
        _ if matches!(args.first(), Some(Val::Authority(..) | Val::Decision(_))) => {
            crate::authority::call(machine, name, &args)
        }
        n if n.starts_with("format.") || n == "validate" => names::call(name, &args),
        _ if matches!(args.first(), Some(Val::Quantity(_))) || matches!(name, "quantity" | "isQuantity") => {
            quantities::call(name, &args)
        }
        _ if matches!(args.first(), Some(Val::Semver(_))) || matches!(name, "semver" | "isSemver") => {
            semver::call(name, &args)
        }
        _ => net::call(name, member, &args),
    }?;
    Ok(out)
}

/// Steps for walking the input.
fn weight(name: &str, args: &[Val<'_>]) -> usize {
    let sizes = args.iter().filter_map(Val::size);
    match name {
        "size" | "_[_]" | "_[?_]" | "dyn" | "type" | "first" | "last" => 0,
        "matches" | "find" | "findAll" => {
            let size = |i: usize| args.get(i).and_then(Val::size).unwrap_or(0);
            (size(0) / 10 + 1).saturating_mul(size(1) / 4 + 1)
        }
        "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => args.iter().map(deep).min().unwrap_or(0) / 10,
        "@in" => args.last().filter(|v| v.entries().is_none()).and_then(Val::size).unwrap_or(0),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            sizes.fold(1usize, |a, n| a.saturating_mul(n.max(1)))
        }
        "distinct" => sizes.map(|n| n.saturating_mul(n)).max().unwrap_or(0),
        "sort" | "isSorted" | "sum" | "min" | "max" | "flatten" => sizes.sum::<usize>() * 2,
        "lists.range" => match args.first() {
            Some(Val::Int(n)) => usize::try_from(*n).unwrap_or(0),
            _ => 0,
        },
        "replace" => {
            // An empty search string grows the text by the replacement at every place.
            let s = args.first().and_then(Val::size).unwrap_or(0);
            let with = args.get(2).and_then(Val::size).unwrap_or(0);
            s.saturating_mul(with.max(1)) / 10
        }
        _ => sizes.sum::<usize>() / 10,
    }
}

/// The number of leaves of a value.
fn deep(v: &Val<'_>) -> usize {
    fn json(v: &serde_json::Value) -> usize {
        match v {
            serde_json::Value::String(s) => s.len(),
            serde_json::Value::Array(l) => l.iter().map(json).sum::<usize>() + 1,
            serde_json::Value::Object(m) => m.values().map(json).sum::<usize>() + 1,
            _ => 1,
        }
    }
    match v {
        Val::Json(j, _) => json(j),
        Val::List(l) => l.iter().map(deep).sum::<usize>() + 1,
        Val::Map(m) => m.values().map(|(_, v)| deep(v)).sum::<usize>() + 1,
        other => other.size().unwrap_or(1),
    }
}

fn optional<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.of", [v]) => Ok(Val::Optional(Some(Box::new(v.clone())))),
        ("optional.ofNonZeroValue", [v]) => {
            let zero = match v {
                Val::Null => true,
                Val::Bool(b) => !b,
                Val::Int(i) => *i == 0,
                Val::Uint(u) => *u == 0,
                Val::Double(d) => *d == 0.0,
                Val::Duration(d) => *d == 0,
                other => other.size() == Some(0),
            };
            Ok(Val::Optional((!zero).then(|| Box::new(v.clone()))))
        }
        ("hasValue", [Val::Optional(v)]) => Ok(Val::Bool(v.is_some())),
        ("value", [Val::Optional(v)]) => {
            v.as_ref().map(|v| (**v).clone()).ok_or_else(|| EvalError::text("optional.none() dereference"))
        }
        _ => Err(EvalError::overload()),
    }
}
