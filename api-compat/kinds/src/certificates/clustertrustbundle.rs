//! ClusterTrustBundle.

use std::collections::BTreeMap;

use knarr_machinery::{FieldError, Path, Str};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

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
    let mut errors = named(obj);
    anchors(&mut errors, text(obj, "/spec/trustBundle"));
    errors
}

fn named(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
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
        super::validate_signer(&mut errors, signer, &Path::new("spec").child("signerName"));
    }
    errors
}

/// Largest bundle.
const LIMIT_BYTES: usize = 1024 * 1024;

/// Every block must be the certificate of an authority, bare, and be there once.
fn anchors(errors: &mut Vec<FieldError>, pem: &str) {
    let path = Path::new("spec").child("trustBundle");
    if pem.len() > LIMIT_BYTES {
        errors.push(FieldError::too_long(&path, LIMIT_BYTES));
        return;
    }
    let mut wrong = |detail: String| errors.push(FieldError::invalid(&path, "<value omitted>", detail));
    let blocks = match pem::parse_many(pem) {
        Ok(blocks) => blocks,
        Err(e) => return wrong(e.to_string()),
    };
    let found: Vec<String> = blocks
        .iter()
        .enumerate()
        .filter_map(|(i, b)| unfit(b).map(|why| format!("entry {i} {why}")))
        .collect();
    if !found.is_empty() {
        return found.into_iter().for_each(wrong);
    }
    if blocks.is_empty() {
        return wrong("at least one trust anchor must be provided".to_string());
    }
    let mut places: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (i, block) in blocks.iter().enumerate() {
        places.entry(block.contents()).or_default().push(i);
    }
    for indices in places.values().filter(|i| i.len() > 1) {
        let shown: Vec<String> = indices.iter().map(ToString::to_string).collect();
        wrong(format!("duplicate trust anchor (indices [{}])", shown.join(" ")));
    }
}

/// Why a block is no trust anchor.
fn unfit(block: &pem::Pem) -> Option<String> {
    if block.tag() != "CERTIFICATE" {
        return Some(format!("has bad block type: {}", block.tag()));
    }
    if block.headers().iter().next().is_some() {
        return Some("has PEM block headers".to_string());
    }
    let Ok((_, cert)) = X509Certificate::from_der(block.contents()) else {
        return Some("does not parse as X.509".to_string());
    };
    (!cert.is_ca()).then(|| "does not have the CA bit set".to_string())
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let bundle = |v: &Value| text(v, "/spec/trustBundle").to_string();
    // What is stored is not read anew.
    let mut errors = if bundle(obj) == bundle(old) { named(obj) } else { validate(ctx, obj) };
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
