//! The four patch types.

use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, GroupKind, patch};
use serde_json::Value;

use crate::create::check_identity;
use crate::obj;
use crate::registry::WriteContext;

/// How unknown and duplicate fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a warning each.
    Warn,
    /// Refused.
    Strict,
}

/// How strictly a patch is taken, and what was found when it was parsed.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// What to do about unknown and duplicate fields.
    pub validation: FieldValidation,
    /// Findings about the patch itself (duplicate fields).
    pub found: &'a [String],
    /// The patch as it was sent, for error texts.
    pub sent: &'a [u8],
}

/// A patch as it was sent.
pub enum Patch<'a> {
    /// `application/json-patch+json`
    Json(Checks<'a>),
    /// `application/merge-patch+json`
    Merge(&'a Value, Checks<'a>),
    /// `application/strategic-merge-patch+json`
    Strategic(&'a Value, Checks<'a>),
    /// `application/apply-patch+yaml`; unknown fields are refused by apply itself.
    Apply {
        /// The applied configuration.
        document: &'a Value,
        /// Take fields from other managers.
        force: bool,
    },
}

impl Patch<'_> {
    /// The patched document.
    ///
    /// # Errors
    /// 400 for patches that do not fit, 409 for conflicts of managers, 422 for what Strict refuses.
    pub(crate) fn apply(
        &self,
        w: &WriteContext<'_>,
        old: &Value,
        now: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let types = &w.kind.info.types;
        let (patched, checks) = match self {
            Self::Json(c) => (patch::json_patch(old, c.sent)?, *c),
            Self::Merge(value, c) => (patch::merge_patch(old.clone(), value), *c),
            Self::Strategic(value, c) => (patch::strategic(types, old.clone(), value)?, *c),
            Self::Apply { document, force } => {
                let mut document = (*document).clone();
                check_applied(w, &mut document)?;
                let version = obj::resource_version(&document).to_string();
                let mut merged = crate::managed::apply(w, Some(old), &document, *force, now)?;
                obj::set_meta(&mut merged, "resourceVersion", &version);
                w.kind.rules.default(&mut merged);
                return Ok(merged);
            }
        };
        let mut patched = patched;
        check_custom_type(w, &patched)?;
        let whole = patched.to_string();
        let unknown = w.kind.rules.prune(types, &mut patched).map_err(unprocessable)?;
        let findings: Vec<String> =
            checks.found.iter().cloned().chain(unknown.into_iter().map(|f| f.message)).collect();
        if checks.validation == FieldValidation::Strict && !findings.is_empty() {
            // A strategic patch is repeated as it was sent, the others as what they make.
            let shown = if matches!(self, Self::Strategic(..)) { checks.sent } else { whole.as_bytes() };
            return Err(strict_error(shown, &findings));
        }
        report(findings.into_iter(), checks.validation, warnings)?;
        check_identity(w, &mut patched)?;
        Ok(patched)
    }
}

/// An applied document names its type itself; its namespace is left out where the client left it out.
///
/// # Errors
/// 400 for another type, name or namespace.
pub(crate) fn check_applied(w: &WriteContext<'_>, document: &mut Value) -> Result<(), ApiError> {
    let text = |f: &str| document.get(f).and_then(Value::as_str).unwrap_or("").to_string();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != w.api_version() || kind != w.kind.info.gvk.kind {
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        return Err(ApiError::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")));
    }
    let named = !obj::namespace(document).is_empty();
    check_identity(w, document)?;
    if !named {
        obj::set_meta(document, "namespace", "");
    }
    Ok(())
}

/// A patch may not make another kind of a custom resource.
fn check_custom_type(w: &WriteContext<'_>, patched: &Value) -> Result<(), ApiError> {
    let gvk = &w.kind.info.gvk;
    if !w.kind.info.custom || gvk.group == "autoscaling" {
        return Ok(());
    }
    let text = |f: &str| patched.get(f).and_then(Value::as_str).unwrap_or("");
    if text("kind").is_empty() {
        let cause = format!("Object 'Kind' is missing in '{patched}'");
        let error = FieldError::invalid(&Path::new("patch"), patched.to_string(), cause);
        return Err(ApiError::invalid(&GroupKind::default(), "", &[error]));
    }
    let mut errors = Vec::new();
    for (field, wanted) in [("kind", gvk.kind.to_string()), ("apiVersion", w.api_version())] {
        let given = text(field);
        if given != wanted {
            errors.push(FieldError::invalid(&Path::new(field), given, format!("must be {wanted}")));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind::new(gvk.group.clone(), text("kind").to_string()), w.name, &errors))
}

/// 422 that repeats the patch, as upstream.
fn strict_error(sent: &[u8], findings: &[String]) -> ApiError {
    let detail = format!("strict decoding error: {}", findings.join(", "));
    let text = String::from_utf8_lossy(sent).into_owned();
    let error = FieldError::invalid(&Path::new("patch"), text, detail);
    ApiError::invalid(&GroupKind::default(), "", &[error])
}

/// The patched document does not fit its kind.
fn unprocessable(error: ApiError) -> ApiError {
    ApiError { code: 422, reason: "Invalid".into(), ..error }
}

/// Turns findings of strict decoding into warnings or an error.
///
/// # Errors
/// 400 under Strict.
pub fn report(
    findings: impl Iterator<Item = String>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    match validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(findings);
            Ok(())
        }
        FieldValidation::Strict => {
            let all: Vec<String> = findings.collect();
            if all.is_empty() {
                return Ok(());
            }
            Err(ApiError::bad_request(format!("strict decoding error: {}", all.join(", "))))
        }
    }
}
