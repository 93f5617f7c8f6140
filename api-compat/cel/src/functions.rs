//! The table of functions with their signatures.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::types::Type;

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Whether the first parameter stands before the dot.
    pub member: bool,
    pub params: Vec<Type>,
    pub result: Type,
}

/// `name`, then signatures: `T.(U) -> R` for members, `(T, U) -> R` for functions. A and B are type parameters.
const TABLE: &[(&str, &[&str])] = &[
    // Operators.
    ("!_", &["(bool) -> bool"]),
    ("-_", &["(int) -> int", "(double) -> double"]),
    (
        "_+_",
        &[
            "(int, int) -> int",
            "(uint, uint) -> uint",
            "(double, double) -> double",
            "(string, string) -> string",
            "(bytes, bytes) -> bytes",
            "(list(A), list(A)) -> list(A)",
            "(duration, duration) -> duration",
            "(timestamp, duration) -> timestamp",
            "(duration, timestamp) -> timestamp",
        ],
    ),
    (
        "_-_",
        &[
            "(int, int) -> int",
            "(uint, uint) -> uint",
            "(double, double) -> double",
            "(duration, duration) -> duration",
            "(timestamp, duration) -> timestamp",
            "(timestamp, timestamp) -> duration",
        ],
    ),
    ("_*_", &["(int, int) -> int", "(uint, uint) -> uint", "(double, double) -> double"]),
    ("_/_", &["(int, int) -> int", "(uint, uint) -> uint", "(double, double) -> double"]),
    ("_%_", &["(int, int) -> int", "(uint, uint) -> uint"]),
    ("_==_", &["(A, A) -> bool"]),
    ("_!=_", &["(A, A) -> bool"]),
    ("_<_", COMPARE),
    ("_<=_", COMPARE),
    ("_>_", COMPARE),
    ("_>=_", COMPARE),
    ("@in", &["(A, list(A)) -> bool", "(A, map(A, B)) -> bool"]),
    ("_?_:_", &["(bool, A, A) -> A"]),
    (
        "_[_]",
        &[
            "(list(A), int) -> A",
            "(map(A, B), A) -> B",
            "(optional(list(A)), int) -> optional(A)",
            "(optional(map(A, B)), A) -> optional(B)",
        ],
    ),
    (
        "_[?_]",
        &[
            "(list(A), int) -> optional(A)",
            "(map(A, B), A) -> optional(B)",
            "(optional(list(A)), int) -> optional(A)",
            "(optional(map(A, B)), A) -> optional(B)",
        ],
    ),
    // Conversions.
    (
        "size",
        &[
            "(string) -> int",
            "(bytes) -> int",
            "(list(A)) -> int",
            "(map(A, B)) -> int",
            "string.() -> int",
            "bytes.() -> int",
            "list(A).() -> int",
            "map(A, B).() -> int",
        ],
    ),
    ("bool", &["(bool) -> bool", "(string) -> bool"]),
    ("bytes", &["(bytes) -> bytes", "(string) -> bytes"]),
    ("double", &["(double) -> double", "(int) -> double", "(uint) -> double", "(string) -> double"]),
    ("int", &["(int) -> int", "(uint) -> int", "(double) -> int", "(string) -> int", "(timestamp) -> int"]),
    ("uint", &["(uint) -> uint", "(int) -> uint", "(double) -> uint", "(string) -> uint"]),
    (
        "string",
        &[
            "(string) -> string",
            "(bool) -> string",
            "(bytes) -> string",
            "(double) -> string",
            "(duration) -> string",
            "(int) -> string",
            "(timestamp) -> string",
            "(uint) -> string",
        ],
    ),
    ("duration", &["(duration) -> duration", "(string) -> duration"]),
    ("timestamp", &["(timestamp) -> timestamp", "(string) -> timestamp", "(int) -> timestamp"]),
    ("dyn", &["(A) -> dyn"]),
    ("type", &["(A) -> type(A)"]),
    // Strings.
    ("contains", &["string.(string) -> bool"]),
    ("startsWith", &["string.(string) -> bool"]),
    ("endsWith", &["string.(string) -> bool"]),
    ("matches", &["string.(string) -> bool", "(string, string) -> bool"]),
    ("find", &["string.(string) -> string"]),
    ("findAll", &["string.(string) -> list(string)", "string.(string, int) -> list(string)"]),
    ("charAt", &["string.(int) -> string"]),
    ("indexOf", &["string.(string) -> int", "string.(string, int) -> int", "list(A).(A) -> int"]),
    ("lastIndexOf", &["string.(string) -> int", "string.(string, int) -> int", "list(A).(A) -> int"]),
    ("lowerAscii", &["string.() -> string"]),
    ("upperAscii", &["string.() -> string"]),
    ("trim", &["string.() -> string"]),
    ("replace", &["string.(string, string) -> string", "string.(string, string, int) -> string"]),
    ("split", &["string.(string) -> list(string)", "string.(string, int) -> list(string)"]),
    ("substring", &["string.(int) -> string", "string.(int, int) -> string"]),
    ("join", &["list(string).() -> string", "list(string).(string) -> string"]),
    ("format", &["string.(list(dyn)) -> string"]),
    ("strings.quote", &["(string) -> string"]),
    ("reverse", &["string.() -> string", "list(A).() -> list(A)"]),
    // Lists.
    (
        "isSorted",
        &[
            "list(int).() -> bool",
            "list(uint).() -> bool",
            "list(double).() -> bool",
            "list(bool).() -> bool",
            "list(duration).() -> bool",
            "list(timestamp).() -> bool",
            "list(string).() -> bool",
            "list(bytes).() -> bool",
        ],
    ),
    (
        "sum",
        &[
            "list(int).() -> int",
            "list(uint).() -> uint",
            "list(double).() -> double",
            "list(duration).() -> duration",
        ],
    ),
    ("min", EXTREME),
    ("max", EXTREME),
    ("slice", &["list(A).(int, int) -> list(A)"]),
    ("flatten", &["list(list(A)).() -> list(A)"]),
    ("distinct", &["list(A).() -> list(A)"]),
    ("sort", &["list(A).() -> list(A)"]),
    ("first", &["list(A).() -> optional(A)"]),
    ("last", &["list(A).() -> optional(A)"]),
    ("lists.range", &["(int) -> list(int)"]),
    ("sets.contains", &["(list(A), list(A)) -> bool"]),
    ("sets.equivalent", &["(list(A), list(A)) -> bool"]),
    ("sets.intersects", &["(list(A), list(A)) -> bool"]),
    // Times.
    ("getFullYear", DATE_PART),
    ("getMonth", DATE_PART),
    ("getDate", DATE_PART),
    ("getDayOfMonth", DATE_PART),
    ("getDayOfWeek", DATE_PART),
    ("getDayOfYear", DATE_PART),
    ("getHours", TIME_PART),
    ("getMinutes", TIME_PART),
    ("getSeconds", TIME_PART),
    ("getMilliseconds", TIME_PART),
    // Optionals.
    ("optional.of", &["(A) -> optional(A)"]),
    ("optional.ofNonZeroValue", &["(A) -> optional(A)"]),
    ("optional.none", &["() -> optional(A)"]),
    ("hasValue", &["optional(A).() -> bool"]),
    ("value", &["optional(A).() -> A"]),
    ("or", &["optional(A).(optional(A)) -> optional(A)"]),
    ("orValue", &["optional(A).(A) -> A"]),
    // URLs and addresses.
    ("url", &["(string) -> url"]),
    ("isURL", &["(string) -> bool"]),
    ("getScheme", &["url.() -> string"]),
    ("getHost", &["url.() -> string"]),
    ("getHostname", &["url.() -> string"]),
    ("getPort", &["url.() -> string"]),
    ("getEscapedPath", &["url.() -> string"]),
    ("getQuery", &["url.() -> map(string, list(string))"]),
    ("ip", &["(string) -> ip", "cidr.() -> ip"]),
    ("isIP", &["(string) -> bool"]),
    ("ip.isCanonical", &["(string) -> bool"]),
    ("family", &["ip.() -> int"]),
    ("isUnspecified", &["ip.() -> bool"]),
    ("isLoopback", &["ip.() -> bool"]),
    ("isLinkLocalMulticast", &["ip.() -> bool"]),
    ("isLinkLocalUnicast", &["ip.() -> bool"]),
    ("isGlobalUnicast", &["ip.() -> bool"]),
    ("cidr", &["(string) -> cidr"]),
    ("isCIDR", &["(string) -> bool"]),
    ("containsIP", &["cidr.(string) -> bool", "cidr.(ip) -> bool"]),
    ("containsCIDR", &["cidr.(string) -> bool", "cidr.(cidr) -> bool"]),
    ("masked", &["cidr.() -> cidr"]),
    ("prefixLength", &["cidr.() -> int"]),
    // Quantities and versions.
    ("quantity", &["(string) -> quantity"]),
    ("isQuantity", &["(string) -> bool"]),
    ("isInteger", &["quantity.() -> bool"]),
    ("asInteger", &["quantity.() -> int"]),
    ("asApproximateFloat", &["quantity.() -> double"]),
    ("sign", &["quantity.() -> int"]),
    ("add", &["quantity.(quantity) -> quantity", "quantity.(int) -> quantity"]),
    ("sub", &["quantity.(quantity) -> quantity", "quantity.(int) -> quantity"]),
    ("isLessThan", &["quantity.(quantity) -> bool", "semver.(semver) -> bool"]),
    ("isGreaterThan", &["quantity.(quantity) -> bool", "semver.(semver) -> bool"]),
    ("compareTo", &["quantity.(quantity) -> int", "semver.(semver) -> int"]),
    ("semver", &["(string) -> semver", "(string, bool) -> semver"]),
    ("isSemver", &["(string) -> bool", "(string, bool) -> bool"]),
    ("major", &["semver.() -> int"]),
    ("minor", &["semver.() -> int"]),
    ("patch", &["semver.() -> int"]),
    // Named formats.
    ("format.named", &["(string) -> optional(format)"]),
    ("format.dns1123Label", FORMAT),
    ("format.dns1123LabelPrefix", FORMAT),
    ("format.dns1123Subdomain", FORMAT),
    ("format.dns1123SubdomainPrefix", FORMAT),
    ("format.dns1035Label", FORMAT),
    ("format.dns1035LabelPrefix", FORMAT),
    ("format.qualifiedName", FORMAT),
    ("format.labelValue", FORMAT),
    ("format.uri", FORMAT),
    ("format.uuid", FORMAT),
    ("format.byte", FORMAT),
    ("format.date", FORMAT),
    ("format.datetime", FORMAT),
    ("validate", &["format.(string) -> optional(list(string))"]),
    // Authorization.
    ("path", &["authorizer.(string) -> pathcheck"]),
    ("group", &["authorizer.(string) -> groupcheck"]),
    ("serviceAccount", &["authorizer.(string, string) -> authorizer"]),
    ("resource", &["groupcheck.(string) -> resourcecheck"]),
    ("subresource", RESOURCE_CHECK),
    ("namespace", RESOURCE_CHECK),
    ("name", RESOURCE_CHECK),
    ("fieldSelector", RESOURCE_CHECK),
    ("labelSelector", RESOURCE_CHECK),
    ("check", &["pathcheck.(string) -> decision", "resourcecheck.(string) -> decision"]),
    ("allowed", &["decision.() -> bool"]),
    ("reason", &["decision.() -> string"]),
    ("errored", &["decision.() -> bool"]),
    ("error", &["decision.() -> string"]),
    // Paths of JSON patches.
    ("jsonpatch.escapeKey", &["(string) -> string"]),
];
const RESOURCE_CHECK: &[&str] = &["resourcecheck.(string) -> resourcecheck"];

const COMPARE: &[&str] = &[
    "(bool, bool) -> bool",
    "(int, int) -> bool",
    "(int, double) -> bool",
    "(int, uint) -> bool",
    "(uint, uint) -> bool",
    "(uint, double) -> bool",
    "(uint, int) -> bool",
    "(double, double) -> bool",
    "(double, int) -> bool",
    "(double, uint) -> bool",
    "(string, string) -> bool",
    "(bytes, bytes) -> bool",
    "(timestamp, timestamp) -> bool",
    "(duration, duration) -> bool",
];
const EXTREME: &[&str] = &[
    "list(int).() -> int",
    "list(uint).() -> uint",
    "list(double).() -> double",
    "list(bool).() -> bool",
    "list(duration).() -> duration",
    "list(timestamp).() -> timestamp",
    "list(string).() -> string",
    "list(bytes).() -> bytes",
];
const DATE_PART: &[&str] = &["timestamp.() -> int", "timestamp.(string) -> int"];
const TIME_PART: &[&str] = &["timestamp.() -> int", "timestamp.(string) -> int", "duration.() -> int"];
const FORMAT: &[&str] = &["() -> format"];

static OVERLOADS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    TABLE.iter().map(|(name, texts)| (*name, texts.iter().filter_map(|t| signature(t)).collect())).collect()
});

/// The ways to call a function.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    OVERLOADS.get(name).map(Vec::as_slice)
}

fn signature(text: &str) -> Option<Overload> {
    let (call, result) = text.split_once(" -> ")?;
    let open =
        call.find(".(").map(|at| (true, at)).or_else(|| call.starts_with('(').then_some((false, 0)))?;
    let (member, at) = open;
    let inner = if member { &call[at + 2..] } else { &call[1..] };
    let inner = inner.strip_suffix(')')?;
    let mut params = Vec::new();
    if member {
        params.push(parse(&call[..at])?);
    }
    for part in split(inner) {
        params.push(parse(part)?);
    }
    Some(Overload { member, params, result: parse(result)? })
}

/// Splits at commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut out) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        out.push(text[from..].trim());
    }
    out
}

fn parse(text: &str) -> Option<Type> {
    if let Some((head, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let parts: Vec<Type> = split(inner).into_iter().map(parse).collect::<Option<_>>()?;
        return match (head, parts.as_slice()) {
            ("list", [item]) => Some(Type::list(item.clone())),
            ("optional", [value]) => Some(Type::optional(value.clone())),
            ("type", [value]) => Some(Type::Type(Arc::new(value.clone()))),
            ("map", [k, v]) => Some(Type::Map(Arc::new(k.clone()), Arc::new(v.clone()))),
            _ => None,
        };
    }
    Some(match text {
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "url" => Type::Opaque("kubernetes.URL"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
        "pathcheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "groupcheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "resourcecheck" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "decision" => Type::Opaque("kubernetes.authorization.Decision"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read() {
        for (name, texts) in TABLE {
            assert_eq!(overloads(name).unwrap().len(), texts.len(), "{name}");
        }
    }
}
