//! Named formats: `format.dns1123Label().validate(x)`.

use knarr_machinery::names;

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

const NAMED: &[&str] = &[
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "dns1035Label",
    "dns1035LabelPrefix",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

pub(crate) fn call<'a>(name: &str, args: &[Val<'a>]) -> Outcome<'a> {
    match (name, args) {
        ("format.named", [Val::String(s)]) => {
            let found = NAMED.iter().find(|n| **n == s.as_ref());
            Ok(Val::Optional(found.map(|n| Box::new(Val::Format(n)))))
        }
        (_, []) => {
            let wanted = name.trim_start_matches("format.");
            NAMED.iter().find(|n| **n == wanted).map(|n| Val::Format(n)).ok_or_else(EvalError::overload)
        }
        ("validate", [Val::Format(f), Val::String(s)]) => {
            let found = problems(f, s);
            let list = Val::list(found.into_iter().map(Val::string).collect());
            Ok(Val::Optional((list.size() != Some(0)).then(|| Box::new(list))))
        }
        _ => Err(EvalError::overload()),
    }
}

fn problems(format: &str, s: &str) -> Vec<String> {
    let unless = |fine: bool, text: &str| if fine { Vec::new() } else { vec![text.to_string()] };
    match format {
        "dns1123Label" => names::name_is_dns_label(s, false),
        "dns1123LabelPrefix" => names::name_is_dns_label(s, true),
        "dns1123Subdomain" => names::name_is_dns_subdomain(s, false),
        "dns1123SubdomainPrefix" => names::name_is_dns_subdomain(s, true),
        "dns1035Label" => names::name_is_dns1035_label(s, false),
        "dns1035LabelPrefix" => names::name_is_dns1035_label(s, true),
        "qualifiedName" => names::is_qualified_name(s),
        "labelValue" => names::is_label_value(s),
        "uri" => unless(super::net::Url::parse(s).is_ok(), "invalid URI"),
        "uuid" => unless(is_uuid(s), "does not match the UUID format"),
        "byte" => {
            use base64::Engine as _;
            unless(base64::engine::general_purpose::STANDARD.decode(s).is_ok(), "invalid base64")
        }
        "date" => unless(s.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
        _ => unless(s.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    }
}

fn is_uuid(s: &str) -> bool {
    let hex = s.chars().filter(|c| *c != '-').count() == 32;
    hex && s.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}
