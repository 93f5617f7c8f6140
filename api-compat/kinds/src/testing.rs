//! What the tables of the kinds' tests share.

use knarr_machinery::UserInfo;
use serde_json::Value;

use crate::kind::{Ctx, Kind};

/// Moment of all tests.
pub(crate) const NOW: &str = "2026-01-02T03:04:05Z";

/// The kind of an apiVersion and plural.
pub(crate) fn kind(api_version: &str, plural: &str) -> Kind {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    crate::builtins()
        .iter()
        .find(|k| k.info.gvk.group == group && k.info.gvk.version == version && k.info.plural == plural)
        .unwrap()
        .clone()
}

/// A request context without subresource.
pub(crate) fn ctx<'a>(user: &'a UserInfo, subresource: Option<&'a str>) -> Ctx<'a> {
    Ctx { user, namespace: "default", subresource, now: NOW, uid: "11111111-2222-3333-4444-555555555555" }
}

/// The document with its defaults.
pub(crate) fn defaulted(api_version: &str, plural: &str, mut obj: Value) -> Value {
    kind(api_version, plural).rules.default(&mut obj);
    obj
}

/// The document with its defaults, prepared for creation.
pub(crate) fn created(api_version: &str, plural: &str, obj: Value) -> Value {
    let mut obj = defaulted(api_version, plural, obj);
    let user = UserInfo::component("tester", &[]);
    kind(api_version, plural).rules.prepare_create(&ctx(&user, None), &mut obj);
    obj
}

/// The errors of a create are exactly these.
pub(crate) fn check(api_version: &str, plural: &str, obj: Value, expected: &[&str]) {
    let obj = created(api_version, plural, obj);
    let user = UserInfo::component("tester", &[]);
    let errors = kind(api_version, plural).rules.validate(&ctx(&user, None), &obj);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{plural}: {obj}");
}

/// The errors of an update of the main resource are exactly these.
pub(crate) fn check_update(api_version: &str, plural: &str, obj: Value, old: Value, expected: &[&str]) {
    check_sub(api_version, plural, None, obj, old, expected);
}

/// The errors of an update of a subresource.
pub(crate) fn check_sub(
    api_version: &str,
    plural: &str,
    sub: Option<&str>,
    obj: Value,
    old: Value,
    expected: &[&str],
) {
    let old = created(api_version, plural, old);
    let mut obj = defaulted(api_version, plural, obj);
    let user = UserInfo::component("tester", &[]);
    let (kind, ctx) = (kind(api_version, plural), ctx(&user, sub));
    kind.rules.prepare_update(&ctx, &mut obj, &old);
    let errors = kind.rules.validate_update(&ctx, &obj, &old);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{plural}: {obj}");
}
