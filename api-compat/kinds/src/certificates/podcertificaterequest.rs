//! PodCertificateRequest.

use knarr_machinery::{FieldError, Path, Str};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, fill, list, name, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec", |s| fill(s, "maxExpirationSeconds", 86_400)),
    status: Some(empty_status),
    validate,
    validate_update: Some(update),
    row,
    fields,
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
    for key in
        ["signerName", "podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID"]
    {
        if text(obj, &format!("/spec/{key}")).is_empty() {
            errors.push(FieldError::required(&Path::new("spec").child(key), ""));
        }
    }
    errors
}

fn update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
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
