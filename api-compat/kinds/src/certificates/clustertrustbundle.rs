//! ClusterTrustBundle.

use knarr_machinery::{FieldError, Path, Str};
use serde_json::Value;

use crate::check;
use crate::facts::{Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{name, text};

static RULES: RuleSet =
    RuleSet { name: name_with_signer, validate, validate_update: Some(update), row, fields, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ClusterTrustBundle", "clustertrustbundles")
        .columns(&[NAME, ("SignerName", "string", 0, "Signer of the certificates, if any.")])
        .selectable(&["spec.signerName"])
        .build(&RULES)
}

/// Colons part the signer from the rest of the name.
fn name_with_signer(name: &str, prefix: bool) -> Vec<String> {
    knarr_machinery::names::name_is_dns_subdomain(&name.replace(':', "."), prefix)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let bundle = Path::new("spec").child("trustBundle");
    let pem = text(obj, "/spec/trustBundle");
    match pem::parse_many(pem) {
        Ok(blocks) if blocks.is_empty() => {
            errors.push(FieldError::invalid(
                &bundle,
                "<value omitted>",
                "at least one trust anchor must be provided",
            ));
        }
        Ok(blocks) => {
            for (i, block) in blocks.iter().enumerate() {
                if block.tag() != "CERTIFICATE" {
                    let detail = format!("entry {i} has bad block type: {}", block.tag());
                    errors.push(FieldError::invalid(&bundle, "<value omitted>", detail));
                }
            }
        }
        Err(e) => errors.push(FieldError::invalid(&bundle, "<value omitted>", e.to_string())),
    }
    let signer = text(obj, "/spec/signerName");
    let object_name = text(obj, "/metadata/name");
    let at = Path::new("metadata").child("name");
    if signer.is_empty() {
        if object_name.contains(':') {
            errors.push(FieldError::invalid(
                &at,
                object_name,
                "ClusterTrustBundle without signer name must not have \":\" in its name",
            ));
        }
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !object_name.starts_with(&prefix) {
            let detail =
                format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            errors.push(FieldError::invalid(&at, object_name, detail));
        }
    }
    errors
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate(ctx, obj);
    let path = Path::new("spec").child("signerName");
    check::immutable(&mut errors, obj.pointer("/spec/signerName"), old.pointer("/spec/signerName"), &path);
    errors
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let signer = text(obj, "/spec/signerName");
    vec![name(obj), if signer.is_empty() { "<none>" } else { signer }.into()]
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    vec![("spec.signerName".into(), text(obj, "/spec/signerName").to_string())]
}
