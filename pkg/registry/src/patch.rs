//! The four patch types.

use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, GroupKind, apply, decode, patch};
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

/// A patch as it was sent.
pub enum Patch<'a> {
    /// `application/json-patch+json`
    Json(&'a [u8], FieldValidation),
    /// `application/merge-patch+json`
    Merge(&'a Value, FieldValidation),
    /// `application/strategic-merge-patch+json`
    Strategic(&'a Value, FieldValidation),
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
        let (patched, validation) = match self {
            Self::Json(bytes, v) => (patch::json_patch(old, bytes)?, *v),
            Self::Merge(value, v) => (patch::merge_patch(old.clone(), value), *v),
            Self::Strategic(value, v) => (patch::strategic(types, old.clone(), value)?, *v),
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
        let findings: Vec<String> =
            decode::prune(types, &mut patched).map_err(unprocessable)?.into_iter().map(|f| f.message).collect();
        if validation == FieldValidation::Strict && !findings.is_empty() {
            return Err(self.strict_error(&findings));
        }
        report(findings.into_iter(), validation, warnings)?;
        check_identity(w, &mut patched)?;
        Ok(patched)
    }

    /// 422 that repeats the patch, as upstream.
    fn strict_error(&self, findings: &[String]) -> ApiError {
        let text = match self {
            Self::Json(bytes, _) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Merge(value, _) | Self::Strategic(value, _) => value.to_string(),
            Self::Apply { document, .. } => document.to_string(),
        };
        let detail = format!("strict decoding error: {}", findings.join(", "));
        let error = FieldError::invalid(&Path::new("patch"), text, detail);
        ApiError::invalid(&GroupKind::default(), "", &[error])
    }
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
