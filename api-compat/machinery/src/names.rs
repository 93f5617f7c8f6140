//! Checks of names and other formatted strings, with the messages clients know from upstream's `util/validation`.
//!
//! Every function returns the list of what is wrong; empty means valid.

/// Longest DNS label.
pub const DNS1123_LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
/// Longest label value.
pub const LABEL_VALUE_MAX: usize = 63;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MSG: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const SUBDOMAIN_UNDERSCORE_FMT: &str =
    r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_UNDERSCORE_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character";
const LABEL_1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_MSG: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const WILDCARD_MSG: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const LABEL_KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MSG: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N characters`.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be non-empty`.
pub fn empty_error() -> String {
    "must be non-empty".to_string()
}

/// `must be between A and B, inclusive`.
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A message followed by examples and the expression used.
pub fn regex_error(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let quoted: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{format}')", quoted.join(" or "))
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_shape(s: &str) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(f), Some(l)) => {
            lower_alnum(*f) && lower_alnum(*l) && b.iter().all(|c| lower_alnum(*c) || *c == b'-')
        }
        _ => false,
    }
}

fn label_underscore_shape(s: &str) -> bool {
    let s = s.strip_prefix('_').unwrap_or(s);
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(f), Some(l)) => {
            lower_alnum(*f)
                && lower_alnum(*l)
                && b.iter().all(|c| lower_alnum(*c) || *c == b'-' || *c == b'_')
        }
        _ => false,
    }
}

fn subdomain_shape(s: &str) -> bool {
    s.split('.').all(label_shape)
}

/// A name with a trailing dash (`generateName`) as if a suffix followed.
fn mask_trailing_dash(name: &str) -> String {
    if name.len() > 1 && name.ends_with('-') {
        // The character before the dash goes too, as upstream does; it may be of several bytes.
        let mut cut = name.len() - 2;
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        return format!("{}a", &name[..cut]);
    }
    name.to_string()
}

/// RFC 1123 label: lower case alphanumerics and dashes, at most 63.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(max_len_error(DNS1123_LABEL_MAX));
    }
    if !label_shape(value) {
        if subdomain_shape(value) {
            errors.push("must not contain dots".to_string());
        } else {
            errors.push(regex_error(LABEL_MSG, LABEL_FMT, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// RFC 1123 subdomain: labels joined by dots, at most 253.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if !subdomain_shape(value) {
        errors.push(regex_error(SUBDOMAIN_MSG, SUBDOMAIN_FMT, &["example.com"]));
    }
    errors
}

/// Like [`is_dns1123_subdomain`], underscores allowed.
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.split('.').all(label_underscore_shape) {
        errors.push(regex_error(SUBDOMAIN_UNDERSCORE_MSG, SUBDOMAIN_UNDERSCORE_FMT, &["example.com"]));
    }
    errors
}

/// RFC 1035 label: starts with a letter (Service names).
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        errors.push(max_len_error(DNS1123_LABEL_MAX));
    }
    if !(label_shape(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(regex_error(LABEL_1035_MSG, LABEL_1035_FMT, &["my-name", "abc-123"]));
    }
    errors
}

/// `*.` followed by a subdomain (Ingress hosts).
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_shape) {
        let format = format!(r"\*\.{SUBDOMAIN_FMT}");
        errors.push(regex_error(WILDCARD_MSG, &format, &["*.example.com"]));
    }
    errors
}

fn label_key_shape(s: &str) -> bool {
    let b = s.as_bytes();
    match (b.first(), b.last()) {
        (Some(f), Some(l)) => {
            f.is_ascii_alphanumeric()
                && l.is_ascii_alphanumeric()
                && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// A qualified name (label keys, annotation keys, resource names): `[prefix/]name`.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push(format!("prefix part {}", empty_error()));
            } else {
                errors.extend(is_dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(LABEL_KEY_MSG, LABEL_KEY_FMT, &examples)
            )];
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {}", empty_error()));
    } else if name.len() > LABEL_VALUE_MAX {
        errors.push(format!("name part {}", max_len_error(LABEL_VALUE_MAX)));
    }
    if !label_key_shape(name) {
        errors.push(format!("name part {}", regex_error(LABEL_KEY_MSG, LABEL_KEY_FMT, &examples)));
    }
    errors
}

/// A label value.
pub fn is_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_VALUE_MAX {
        errors.push(format!("must be no more than {LABEL_VALUE_MAX} bytes"));
    }
    if !value.is_empty() && !label_key_shape(value) {
        errors.push(regex_error(LABEL_VALUE_MSG, LABEL_VALUE_FMT, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// `generateName` aware DNS subdomain, the usual name rule of objects.
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    if prefix { is_dns1123_subdomain(&mask_trailing_dash(name)) } else { is_dns1123_subdomain(name) }
}

/// `generateName` aware DNS label (namespaces, nodes' pods, ...).
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    if prefix { is_dns1123_label(&mask_trailing_dash(name)) } else { is_dns1123_label(name) }
}

/// `generateName` aware RFC 1035 label.
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    if prefix { is_dns1035_label(&mask_trailing_dash(name)) } else { is_dns1035_label(name) }
}

/// A name that fits in one path segment (RBAC roles and bindings).
pub fn path_segment_name(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A port number.
pub fn is_valid_port_num(port: i64) -> Vec<String> {
    is_in_range(port, 1, 65535)
}

/// A bounded number.
pub fn is_in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![inclusive_range_error(low, high)] }
}

/// A numeric user id.
pub fn is_valid_user_id(id: i64) -> Vec<String> {
    is_in_range(id, 0, i64::from(i32::MAX))
}

/// A numeric group id.
pub fn is_valid_group_id(id: i64) -> Vec<String> {
    is_in_range(id, 0, i64::from(i32::MAX))
}

/// An IANA service name, used for named ports.
pub fn is_valid_port_name(port: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if port.len() > 15 {
        errors.push(max_len_error(15));
    }
    if port.is_empty() || !port.bytes().all(|b| lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_string());
    }
    if !port.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_string());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".to_string());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_string());
    }
    errors
}

/// A percentage such as `25%`.
pub fn is_percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(message, "[0-9]+%", &["1%", "93%"])]
}

/// An HTTP header name.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A C identifier.
pub fn is_c_identifier(value: &str) -> Vec<String> {
    let b = value.as_bytes();
    let head = b.first().is_some_and(|c| c.is_ascii_alphabetic() || *c == b'_');
    if head && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'_') {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

fn dot_prefix(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_string()),
        ".." => Some("must not be '..'".to_string()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_string()),
        _ => None,
    }
}

/// The stricter form of environment variable names.
pub fn is_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let b = value.as_bytes();
    let plain = |c: &u8| c.is_ascii_alphabetic() || matches!(c, b'-' | b'_' | b'.');
    if !(b.first().is_some_and(plain) && b.iter().all(|c| plain(c) || c.is_ascii_digit())) {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
        let examples = ["my.env-name", "MY_ENV.NAME", "MyEnvName1"];
        errors.push(regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &examples));
    }
    errors.extend(dot_prefix(value));
    errors
}

/// The form of environment variable names that Pods use: printable ASCII without `=`.
pub fn is_relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push(format!("environment variable name {}", empty_error()));
    }
    if value.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_string(),
        );
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        errors.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(dot_prefix(value));
    errors
}

/// A domain name of at least three segments (signer names and the like).
pub fn is_fully_qualified_name(name: &str) -> Vec<String> {
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![errors.join(",")];
    }
    if name.split('.').count() < 3 {
        return vec!["should be a domain with at least three segments separated by dots".to_string()];
    }
    Vec::new()
}

/// A domain followed by a path (`acme.io/foo`).
pub fn is_domain_prefixed_path(value: &str) -> Vec<String> {
    let Some((host, path)) = value.split_once('/').filter(|(h, p)| !h.is_empty() && !p.is_empty()) else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_string()];
    };
    let mut errors = is_dns1123_subdomain(host);
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]));
    }
    errors
}

/// A qualified name that must have a prefix (`acme.io/foo`).
pub fn is_domain_prefixed_key(key: &str) -> Vec<String> {
    let errors = is_qualified_name(key);
    if !errors.is_empty() {
        return errors;
    }
    if key.contains('/') {
        return Vec::new();
    }
    vec!["must be a domain-prefixed key (such as \"acme.io/foo\")".to_string()]
}

/// Parses an address as old API fields do: leading zeros in IPv4 octets are tolerated.
fn parse_ip_sloppy(value: &str) -> Option<std::net::IpAddr> {
    if let Ok(ip) = value.parse() {
        return Some(ip);
    }
    let octets: Vec<&str> = value.split('.').collect();
    if octets.len() != 4 {
        return None;
    }
    let mut out = [0u8; 4];
    for (slot, text) in out.iter_mut().zip(octets) {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = text.parse().ok()?;
    }
    Some(out.into())
}

/// An IP address in canonical form (new fields).
pub fn is_valid_ip(value: &str) -> Vec<String> {
    let Some(ip) = parse_ip_sloppy(value) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string()];
    };
    let mut errors = Vec::new();
    if value.parse::<std::net::IpAddr>().is_err() {
        errors.push("must not have leading 0s".to_string());
    }
    if matches!(ip, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        errors.push("must not be an IPv4-mapped IPv6 address".to_string());
    }
    if errors.is_empty() && ip.to_string() != value {
        errors.push(format!("must be in canonical form (\"{ip}\")"));
    }
    errors
}

/// An IP address as the older API fields accept it: any spelling, but no leading zeros and no mapped addresses.
pub fn is_valid_ip_legacy(value: &str) -> Vec<String> {
    let Some(ip) = parse_ip_sloppy(value) else {
        return vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string()];
    };
    let mut errors = Vec::new();
    if value.parse::<std::net::IpAddr>().is_err() {
        errors.push("must not have leading 0s".to_string());
    }
    if is_mapped(ip) {
        errors.push("must not be an IPv4-mapped IPv6 address".to_string());
    }
    errors
}

fn is_mapped(ip: std::net::IpAddr) -> bool {
    matches!(ip, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Address and prefix length, with leading zeros tolerated.
fn parse_cidr_sloppy(value: &str) -> Option<(std::net::IpAddr, u8)> {
    let (ip, len) = value.split_once('/')?;
    if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (ip, n) = (parse_ip_sloppy(ip)?, len.parse::<u8>().ok()?);
    (n <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, n))
}

/// The number of the address, and the mask of its host bits under a prefix of `length`.
fn number_and_host_mask(ip: std::net::IpAddr, length: u8) -> (u128, u128) {
    let (number, host) = match ip {
        std::net::IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32 - u32::from(length)),
        std::net::IpAddr::V6(v6) => (u128::from(v6), 128 - u32::from(length)),
    };
    (number, 1u128.checked_shl(host).map_or(u128::MAX, |m| m - 1))
}

/// An address block as the older API fields accept it: no leading zeros, no mapped address, no host bits.
pub fn is_cidr(value: &str) -> Vec<String> {
    let Some((ip, length)) = parse_cidr_sloppy(value) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_string()];
    };
    let (address, digits) = value.split_once('/').unwrap_or((value, ""));
    let (number, host) = number_and_host_mask(ip, length);
    if address.parse::<std::net::IpAddr>().is_err() || digits != length.to_string() {
        vec!["must not have leading 0s in IP or prefix length".to_string()]
    } else if is_mapped(ip) {
        vec!["must not have an IPv4-mapped IPv6 address".to_string()]
    } else if number & host != 0 {
        vec!["must not have bits set beyond the prefix length".to_string()]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for ok in ["a", "0", "a-b", "my-name", &"a".repeat(63)] {
            assert!(is_dns1123_label(ok).is_empty(), "{ok}");
        }
        for bad in ["", "A", "-a", "a-", "a_b", "a.b", &"a".repeat(64)] {
            assert!(!is_dns1123_label(bad).is_empty(), "{bad}");
        }
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert!(is_dns1123_subdomain("a.b-c.0").is_empty());
        assert!(!is_dns1123_subdomain("a..b").is_empty());
        assert!(is_dns1035_label("a0").is_empty());
        assert!(!is_dns1035_label("0a").is_empty());
        assert!(is_wildcard_dns1123_subdomain("*.a.b").is_empty());
        assert!(!is_wildcard_dns1123_subdomain("a.b").is_empty());
    }

    #[test]
    fn messages() {
        assert_eq!(
            is_dns1123_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            is_label_value("-"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }

    #[test]
    fn qualified_names() {
        for ok in ["simple", "a/b", "example.com/Upper_Is.OK", "requests.storage-foo"] {
            assert!(is_qualified_name(ok).is_empty(), "{ok}");
        }
        for bad in ["", "a/", "/a", "only/one/slash", "Example.com/a", "ends-", "%"] {
            assert!(!is_qualified_name(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn generate_names() {
        assert!(name_is_dns_subdomain("web-", true).is_empty());
        assert!(!name_is_dns_subdomain("web-", false).is_empty());
        assert!(!name_is_dns_label("é-", true).is_empty() || name_is_dns_label("é-", true).is_empty());
    }

    #[test]
    fn addresses() {
        assert!(is_valid_ip("10.0.0.1").is_empty());
        assert_eq!(is_valid_ip("010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(is_valid_ip("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert!(!is_valid_ip("1.2.3").is_empty());
        assert_eq!(is_valid_ip_legacy("010.0.0.1"), ["must not have leading 0s"]);
        assert!(is_valid_ip_legacy("2001:DB8::1").is_empty());
        assert!(
            is_cidr("10.0.0.0/24").is_empty()
                && is_cidr("::/0").is_empty()
                && is_cidr("10.0.0.1/32").is_empty()
        );
        assert_eq!(is_cidr("10.0.0.1/24"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(is_cidr("10.0.0.0/024"), ["must not have leading 0s in IP or prefix length"]);
        assert_eq!(is_cidr("::ffff:1.2.3.0/120"), ["must not have an IPv4-mapped IPv6 address"]);
        assert!(!is_cidr("10.0.0.0/33").is_empty());
        assert!(!is_cidr("10.0.0.0").is_empty());
    }

    #[test]
    fn ports_and_keys() {
        assert!(is_valid_port_name("http-1").is_empty());
        assert!(!is_valid_port_name("80").is_empty());
        assert!(!is_valid_port_name("a--b").is_empty());
        assert!(is_config_map_key("a.B_c-1").is_empty());
        assert_eq!(is_config_map_key(".."), ["must not be '..'"]);
        assert!(is_env_var_name("MY_VAR").is_empty());
        assert!(!is_env_var_name("1A").is_empty());
        assert!(is_relaxed_env_var_name("1 A").is_empty());
        assert!(!is_relaxed_env_var_name("A=B").is_empty());
        assert!(is_percent("25%").is_empty());
        assert!(!is_percent("25").is_empty());
        assert_eq!(path_segment_name("a/b", false), ["may not contain '/'"]);
        assert!(is_fully_qualified_name("a.b.c").is_empty());
        assert!(!is_fully_qualified_name("a.b").is_empty());
    }
}
