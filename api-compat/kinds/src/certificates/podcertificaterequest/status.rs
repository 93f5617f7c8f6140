//! The answer to a PodCertificateRequest: it is given once, and the certificate must be what was asked for.

use jiff::{SignedDuration, Timestamp};
use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::key;
use crate::check::{self, Errors};
use crate::kind::Ctx;
use crate::value::{each, fill, int, list, text};

const KNOWN: [&str; 3] = ["Denied", "Failed", "Issued"];
/// Longest chain that is read.
const CHAIN_LIMIT_BYTES: usize = 10 * 1024;

/// Conditions that stay keep what they said, and new ones get a time.
pub(super) fn prepare(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    let before = list(old, "/status/conditions").to_vec();
    each(obj, "/status/conditions", |c| {
        if let Some(same) =
            before.iter().find(|b| b["type"] == c["type"] && KNOWN.contains(&text(b, "/type")))
        {
            *c = same.clone();
        }
        if text(c, "/lastTransitionTime").is_empty() {
            fill(c, "lastTransitionTime", ctx.now);
        }
    });
}

/// Whether the request has its answer, and which.
fn answer(obj: &Value) -> Option<&str> {
    let told = list(obj, "/status/conditions").iter().find(|c| text(c, "/status") == "True");
    told.map(|c| text(c, "/type")).filter(|t| KNOWN.contains(t))
}

/// Errors of a write of `status`.
pub(super) fn validate(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Errors {
    let path = Path::new("status");
    let mut errors = conditions(obj, &path.child("conditions"));
    if !errors.is_empty() {
        return errors;
    }
    let (new, before) = (obj.get("status"), old.get("status"));
    let mut stays = |detail: &str| {
        if !check::same(new, before) {
            errors.push(FieldError::wrong(&path, detail));
        }
    };
    match (answer(old), answer(obj)) {
        (Some(_), _) => stays("immutable after PodCertificateRequest is issued, denied, or failed"),
        (None, None) => {
            stays("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
        }
        (None, Some("Issued")) => {
            if let Err(error) = issued(ctx, obj, &path) {
                errors.extend(error);
            }
        }
        (None, Some(_)) => {
            let only = json!({"conditions": obj.pointer("/status/conditions")});
            if !check::same(new, Some(&only)) {
                let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
                errors.push(FieldError::wrong(&path, detail));
            }
        }
    }
    errors
}

fn conditions(obj: &Value, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let mut known = 0;
    for (i, c) in list(obj, "/status/conditions").iter().enumerate() {
        let at = path.index(i);
        let kind = text(c, "/type");
        if !KNOWN.contains(&kind) {
            errors.push(FieldError::not_supported(&at.child("type"), kind, &KNOWN));
            continue;
        }
        known += 1;
        if known > 1 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(&at.child("type"), kind, detail));
        }
        if text(c, "/status") != "True" {
            errors.push(FieldError::not_supported(&at.child("status"), text(c, "/status"), &["True"]));
        }
        if text(c, "/reason").is_empty() {
            errors.push(FieldError::required(&at.child("reason"), ""));
        }
    }
    errors
}

/// The one thing that is wrong with an issued certificate, as upstream reports it; or all times that are missing.
fn issued(ctx: &Ctx<'_>, obj: &Value, status: &Path) -> Result<(), Errors> {
    let path = status.child("certificateChain");
    let chain = text(obj, "/status/certificateChain");
    if chain.len() > CHAIN_LIMIT_BYTES {
        return Err(vec![FieldError::too_long(&path, CHAIN_LIMIT_BYTES)]);
    }
    let wrong = |detail: &str| vec![FieldError::invalid(&path, chain, detail)];
    let blocks = pem::parse_many(chain).map_err(|e| wrong(&e.to_string()))?;
    let Some((leaf, others)) = blocks.split_first() else {
        return Err(wrong("issued certificate chain must contain at least one certificate"));
    };
    if leaf.tag() != "CERTIFICATE" {
        return Err(wrong("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let (_, cert) = X509Certificate::from_der(leaf.contents())
        .map_err(|_| wrong("leaf certificate does not parse as valid X.509"))?;
    let named = names(&cert, &path);
    if !named.is_empty() {
        return Err(named);
    }
    if key::public_key(obj).is_none_or(|wanted| wanted != cert.public_key().raw) {
        return Err(wrong("leaf certificate was not issued to the requested public key"));
    }
    times(ctx, obj, &cert, status)?;
    for other in others {
        if other.tag() != "CERTIFICATE" {
            return Err(wrong("issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
        }
        X509Certificate::from_der(other.contents())
            .map_err(|_| wrong("intermediate certificate does not parse as valid X.509"))?;
    }
    Ok(())
}

fn names(cert: &X509Certificate<'_>, path: &Path) -> Errors {
    let mut errors = Errors::new();
    let found = cert.subject_alternative_name().ok().flatten();
    for name in found.iter().flat_map(|n| &n.value.general_names) {
        let mut wrong = |value: &str, detail: &str| errors.push(FieldError::invalid(path, value, detail));
        match name {
            GeneralName::DNSName(name) => {
                if name.is_empty() {
                    wrong(name, "leaf certificate should not contain empty DNSName");
                }
                if name.contains("..") {
                    wrong(name, "leaf certificate's DNSName should not contain '..'");
                }
                if name.starts_with('.') || name.ends_with('.') {
                    wrong(name, "leaf certificate's DNSName should not start or end with '.'");
                }
            }
            GeneralName::RFC822Name(name)
                if name.split_once('@').is_none_or(|(user, host)| user.is_empty() || host.is_empty()) =>
            {
                wrong(name, "leaf certificate should not contain invalid EmailAddress");
            }
            _ => {}
        }
    }
    errors
}

fn times(ctx: &Ctx<'_>, obj: &Value, cert: &X509Certificate<'_>, status: &Path) -> Result<(), Errors> {
    const NEAR: SignedDuration = SignedDuration::from_mins(5);
    const MARGIN: SignedDuration = SignedDuration::from_mins(10);
    let time = |key: &str| text(obj, &format!("/status/{key}")).parse::<Timestamp>().ok();
    let (begin, end, refresh) = (time("notBefore"), time("notAfter"), time("beginRefreshAt"));
    let (Some(begin), Some(end), Some(refresh)) = (begin, end, refresh) else {
        let consistent = "must be present and consistent with the issued certificate";
        let within = "must be present and in the range [notbefore+10min, notafter-10min]";
        let missing = [
            ("notBefore", begin, consistent),
            ("notAfter", end, consistent),
            ("beginRefreshAt", refresh, within),
        ];
        let missing = missing.into_iter().filter(|(_, given, _)| given.is_none());
        return Err(missing
            .map(|(key, _, detail)| FieldError::required(&status.child(key), detail))
            .collect());
    };
    let wrong = |key: &str, detail: &str| {
        let shown = text(obj, &format!("/status/{key}"));
        Err(vec![FieldError::invalid(&status.child(key), shown, detail)])
    };
    let validity = cert.validity();
    if begin.as_second() != validity.not_before.timestamp() {
        return wrong("notBefore", "must be set to the NotBefore time encoded in the leaf certificate");
    }
    let now = ctx.now.parse::<Timestamp>().unwrap_or_default();
    if now.duration_since(begin).abs() >= NEAR {
        return wrong("notBefore", "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if end.as_second() != validity.not_after.timestamp() {
        return wrong("notAfter", "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let seconds = end.as_second() - begin.as_second();
    let most = int(obj, "/spec/maxExpirationSeconds").unwrap_or_default();
    let chain = status.child("certificateChain");
    if seconds < 3600 {
        let detail = "leaf certificate lifetime must be >= 1 hour";
        return Err(vec![FieldError::invalid(&chain, seconds, detail)]);
    }
    if seconds > most {
        let detail = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        return Err(vec![FieldError::invalid(&chain, seconds, detail)]);
    }
    if refresh < begin + MARGIN {
        return wrong("beginRefreshAt", "must be at least 10 minutes after status.notBefore");
    }
    if refresh > end - MARGIN {
        return wrong("beginRefreshAt", "must be at least 10 minutes before status.notAfter");
    }
    Ok(())
}
