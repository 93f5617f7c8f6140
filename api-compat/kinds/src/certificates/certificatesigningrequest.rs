//! CertificateSigningRequest, with its `approval` and `status` subresources.

use base64::Engine as _;
use knarr_machinery::{FieldError, Path, Str, time};
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, fill, int, is_empty, list, name, sub, text, with};

static RULES: RuleSet = RuleSet {
    // Any name will do that is a path segment.
    name: knarr_machinery::names::path_segment_name,
    default,
    create,
    update,
    validate,
    validate_update: Some(validate_update),
    row,
    fields: |obj| vec![(Str::from("spec.signerName"), text(obj, "/spec/signerName").to_string())],
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .short(&["csr"])
        .sub_self("approval", GET_PATCH_UPDATE)
        .status()
        .columns(&[
            NAME,
            AGE,
            ("SignerName", "string", 0, "Signer that is asked."),
            ("Requestor", "string", 0, "User who asked."),
            ("RequestedDuration", "string", 0, "Validity that was asked for."),
            ("Condition", "string", 0, "How the request stands."),
        ])
        .selectable(&["spec.signerName"])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        if is_empty(spec.get("usages")) {
            spec["usages"] = json!(["digital signature", "key encipherment"]);
        }
    });
    let mut conditions = obj.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for c in conditions.iter_mut().flat_map(|c| c.iter_mut()) {
        fill(c, "status", "True");
    }
}

/// The identity in the spec is that of the request.
fn create(ctx: &Ctx<'_>, obj: &mut Value) {
    if let Some(map) = obj.as_object_mut() {
        map.insert("status".to_string(), json!({}));
    }
    let spec = sub(obj, "spec");
    for key in ["username", "uid", "groups", "extra"] {
        crate::value::drop_key(spec, key);
    }
    spec["username"] = ctx.user.username.clone().into();
    if !ctx.user.uid.is_empty() {
        spec["uid"] = ctx.user.uid.clone().into();
    }
    if !ctx.user.groups.is_empty() {
        spec["groups"] = json!(ctx.user.groups);
    }
    if !ctx.user.extra.is_empty() {
        spec["extra"] = json!(ctx.user.extra);
    }
}

/// `approval` writes only Approved and Denied, `status` everything else; a certificate is never changed by approval.
fn update(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    let decides = |c: &Value| matches!(text(c, "/type"), "Approved" | "Denied");
    let given = list(obj, "/status/conditions").to_vec();
    if ctx.subresource != Some("status") {
        keep(obj, old, "status");
    }
    match ctx.subresource {
        Some("approval") => {
            let mut conditions: Vec<Value> =
                list(old, "/status/conditions").iter().filter(|c| !decides(c)).cloned().collect();
            conditions.extend(given.into_iter().filter(decides));
            keep(obj, old, "spec");
            set_conditions(obj, conditions);
            stamp(ctx, obj, old);
        }
        Some("status") => {
            let mut conditions: Vec<Value> =
                list(old, "/status/conditions").iter().filter(|c| decides(c)).cloned().collect();
            conditions.extend(list(obj, "/status/conditions").iter().filter(|c| !decides(c)).cloned());
            set_conditions(obj, conditions);
            keep(obj, old, "spec");
            stamp(ctx, obj, old);
        }
        _ => keep(obj, old, "spec"),
    }
}

fn set_conditions(obj: &mut Value, conditions: Vec<Value>) {
    let status = sub(obj, "status");
    if conditions.is_empty() {
        crate::value::drop_key(status, "conditions");
    } else {
        status["conditions"] = conditions.into();
    }
}

/// Gives conditions their times.
fn stamp(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    let before = list(old, "/status/conditions").to_vec();
    crate::value::each(obj, "/status/conditions", |c| {
        fill(c, "status", "True");
        let same = before.iter().find(|o| text(o, "/type") == text(c, "/type"));
        let transition = match same {
            Some(o) if text(o, "/status") == text(c, "/status") => text(o, "/lastTransitionTime"),
            _ => "",
        };
        let transition = if transition.is_empty() { ctx.now } else { transition }.to_string();
        fill(c, "lastTransitionTime", transition);
        fill(c, "lastUpdateTime", ctx.now);
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let request = text(obj, "/spec/request");
    if let Err(detail) = parse_request(request) {
        errors.push(FieldError::invalid(&spec.child("request"), request, detail));
    }
    let usages = list(obj, "/spec/usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&spec.child("usages"), "usages is required"));
    }
    for (i, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
        check::one_of(&mut errors, usage, &spec.child("usages").index(i), USAGES, Some(""));
    }
    signer_name(&mut errors, text(obj, "/spec/signerName"), &spec.child("signerName"));
    if let Some(s) = int(obj, "/spec/expirationSeconds").filter(|s| *s < 600) {
        errors.push(FieldError::invalid(
            &spec.child("expirationSeconds"),
            s,
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    errors
}

const USAGES: &[&str] = &[
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

fn parse_request(request: &str) -> Result<(), String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(request)
        .map_err(|e| format!("unable to decode: {e}"))?;
    let block = pem::parse(&bytes)
        .ok()
        .filter(|b| b.tag() == "CERTIFICATE REQUEST")
        .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    x509_parser::certification_request::X509CertificationRequest::from_der(block.contents())
        .map(|_| ())
        .map_err(|e| format!("unable to parse certificate request: {e}"))
}

/// The name of a signer, `domain/path`.
pub(crate) fn signer_name(errors: &mut Errors, signer: &str, path: &Path) {
    if signer.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    match signer.split_once('/') {
        Some((domain, rest)) if !rest.is_empty() && !rest.contains('/') => {
            check::dns_subdomain(errors, domain, path);
            check::dns_subdomain(errors, rest, path);
            if !domain.contains('.') {
                errors.push(FieldError::invalid(
                    path,
                    signer,
                    "should be a domain with at least two segments separated by dots",
                ));
            }
        }
        _ => errors.push(FieldError::invalid(
            path,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        )),
    }
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let conditions = Path::new("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let has = |v: &Value| list(v, "/status/conditions").iter().any(|c| text(c, "/type") == kind);
        if has(old) && !has(obj) {
            errors.push(FieldError::forbidden(
                &conditions,
                format!("updates may not remove a condition of type {kind:?}"),
            ));
        }
        if !has(old) && has(obj) && kind != "Failed" && ctx.subresource != Some("approval") {
            errors.push(FieldError::forbidden(
                &conditions,
                format!("updates may not add a condition of type {kind:?}"),
            ));
        }
    }
    let types: Vec<&str> = list(obj, "/status/conditions").iter().map(|c| text(c, "/type")).collect();
    if types.contains(&"Approved") && types.contains(&"Denied") {
        errors.push(FieldError::invalid(
            &conditions,
            "Denied",
            "Approved and Denied conditions are mutually exclusive",
        ));
    }
    let certificate = Path::new("status").child("certificate");
    let (new, before) = (text(obj, "/status/certificate"), text(old, "/status/certificate"));
    if new != before && !before.is_empty() {
        errors.push(FieldError::forbidden(&certificate, "updates may not change certificate content"));
    }
    if new != before && ctx.subresource != Some("status") {
        errors.push(FieldError::forbidden(&certificate, "updates may not set certificate content"));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let mut state = Vec::new();
    let has = |kind: &str| list(obj, "/status/conditions").iter().any(|c| text(c, "/type") == kind);
    let issued = !text(obj, "/status/certificate").is_empty();
    if has("Denied") {
        state.push("Denied");
    } else if has("Approved") {
        state.push("Approved");
    }
    if has("Failed") {
        state.push("Failed");
    }
    if issued {
        state.push("Issued");
    }
    let state = if state.is_empty() { "Pending".to_string() } else { state.join(",") };
    let duration = int(obj, "/spec/expirationSeconds").map_or("<none>".to_string(), time::human_duration);
    let signer = text(obj, "/spec/signerName");
    vec![
        name(obj),
        age(obj, now),
        if signer.is_empty() { "<none>" } else { signer }.into(),
        text(obj, "/spec/username").into(),
        duration.into(),
        state.into(),
    ]
}
