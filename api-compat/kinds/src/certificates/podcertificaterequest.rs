//! PodCertificateRequest.

mod key;
mod status;
#[cfg(test)]
mod tests;

use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, fill, int, list, map, name, text, with};

/// Seconds that a certificate may live: at least, of Kubernetes' own signers at most, of others at most.
const LIFE: (i64, i64, i64) = (3600, 86_400, 7_862_400);
/// Longest uid of an object.
const UID_LIMIT: usize = 128;

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec", |s| fill(s, "maxExpirationSeconds", 86_400)),
    status: Some(empty_status),
    update: |ctx, obj, old| {
        if ctx.subresource == Some("status") {
            status::prepare(ctx, obj, old);
        }
    },
    validate,
    validate_update: Some(update),
    row,
    fields,
    unconditional_update: false,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "PodCertificateRequest", "podcertificaterequests")
        .namespaced()
        .sub_self("status", GET_PATCH_UPDATE)
        .columns(&[
            NAME,
            ("PodName", "string", 0, "Pod that asks."),
            ("ServiceAccountName", "string", 0, "Identity of the pod."),
            ("NodeName", "string", 0, "Node of the pod."),
            ("SignerName", "string", 0, "Signer that is asked."),
            ("State", "string", 0, "How the request stands."),
            AGE,
        ])
        .selectable(&["spec.signerName", "spec.podName", "spec.nodeName"])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    let signer = text(obj, "/spec/signerName");
    super::validate_signer(&mut errors, signer, &path.child("signerName"));
    for (key, _) in map(obj, "/spec/unverifiedUserAnnotations").into_iter().flatten() {
        let at = path.child("unverifiedUserAnnotations").key(key);
        check::qualified_name(&mut errors, &key.to_lowercase(), &at);
        check::names(&mut errors, names::is_domain_prefixed_key(key), key.as_str().into(), &at);
    }
    for (object, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        let named = text(obj, &format!("/spec/{object}"));
        let messages = names::name_is_dns_subdomain(named, false);
        check::names(&mut errors, messages, named.into(), &path.child(object));
        let given = text(obj, &format!("/spec/{uid}"));
        if given.is_empty() {
            errors.push(FieldError::invalid(&path.child(uid), given, "must not be empty"));
        } else if given.len() > UID_LIMIT {
            errors.push(FieldError::too_long(&path.child(uid), UID_LIMIT));
        }
    }
    let at = path.child("maxExpirationSeconds");
    let (least, own, others) = LIFE;
    let domain = signer.split_once('/').map_or("", |(domain, _)| domain);
    let most = if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { own } else { others };
    match int(obj, "/spec/maxExpirationSeconds") {
        None => errors.push(FieldError::required(&at, "must be set")),
        Some(seconds) if !(least..=most).contains(&seconds) => {
            errors.push(FieldError::invalid(&at, seconds, format!("must be in the range [{least}, {most}]")));
        }
        Some(_) => {}
    }
    key::validate(&mut errors, obj);
    errors
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        return status::validate(ctx, obj, old);
    }
    let mut errors = Vec::new();
    check::immutable(&mut errors, obj.get("spec"), old.get("spec"), &Path::new("spec"));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let state = list(obj, "/status/conditions")
        .iter()
        .find(|c| matches!(text(c, "/type"), "Issued" | "Denied" | "Failed") && text(c, "/status") == "True")
        .map_or("Pending", |c| text(c, "/type"));
    vec![
        name(obj),
        text(obj, "/spec/podName").into(),
        text(obj, "/spec/serviceAccountName").into(),
        text(obj, "/spec/nodeName").into(),
        text(obj, "/spec/signerName").into(),
        state.into(),
        age(obj, now),
    ]
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    ["signerName", "podName", "nodeName"]
        .iter()
        .map(|k| (format!("spec.{k}").into(), text(obj, &format!("/spec/{k}")).to_string()))
        .collect()
}
