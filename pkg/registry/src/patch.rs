//! The four patch types.

use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, GroupKind, apply, patch};
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
                check_identity(w, &mut document)?;
                let version = obj::resource_version(&document).to_string();
                let mut merged = apply::apply(
                    types,
                    &w.api_version(),
                    Some(old),
                    &document,
                    w.manager,
                    *force,
                    w.subresource,
                    now,
                )?;
                obj::set_meta(&mut merged, "resourceVersion", &version);
                w.kind.rules.default(&mut merged);
                return Ok(merged);
            }
        };
        let mut patched = patched;
        let unknown = w.kind.rules.prune(types, &mut patched).map_err(unprocessable)?;
        let findings: Vec<String> =
            checks.found.iter().cloned().chain(unknown.into_iter().map(|f| f.message)).collect();
        if checks.validation == FieldValidation::Strict && !findings.is_empty() {
            return Err(strict_error(checks.sent, &findings));
        }
        report(findings.into_iter(), checks.validation, warnings)?;
        check_identity(w, &mut patched)?;
        Ok(patched)
    }
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
