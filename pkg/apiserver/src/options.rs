//! Query parameters of the verbs, all checked at once.

use std::time::Duration;

use knarr_kinds::Kind;
use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::{ApiError, GroupKind};
use knarr_registry::patch::FieldValidation;
use knarr_registry::{ListOptions, Selection, VersionMatch, WatchOptions};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::info::Query;

/// A watch without `timeoutSeconds` ends after this time, or up to twice as long.
const WATCH_MIN: Duration = Duration::from_secs(1800);

/// ListOptions of a list or a watch.
///
/// # Errors
/// 400 for selectors, 422 with all other wrong fields.
pub fn list(kind: &Kind, query: &Query) -> Result<ListOptions, ApiError> {
    let mut errors = Vec::new();
    let version_match = version_match(query, &mut errors);
    let root = Path::new("resourceVersionMatch");
    if !query.text("resourceVersionMatch").is_empty() {
        if query.text("resourceVersion").is_empty() {
            errors.push(FieldError::forbidden(
                &root,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !query.text("continue").is_empty() {
            errors.push(FieldError::forbidden(
                &root,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if version_match == Some(VersionMatch::Exact) && query.text("resourceVersion") == "0" {
            errors.push(FieldError::forbidden(
                &root,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
    }
    if query.get("sendInitialEvents").is_some() {
        errors.push(FieldError::forbidden(
            &Path::new("sendInitialEvents"),
            "sendInitialEvents is forbidden for list",
        ));
    }
    refuse(errors)?;
    query.number("timeoutSeconds")?;
    Ok(ListOptions {
        selection: selection(kind, query)?,
        resource_version: query.text("resourceVersion").to_string(),
        version_match,
        // Whatever state there is comes as a whole: pages of it would not be of one state.
        limit: if query.text("resourceVersion") == "0" && query.text("continue").is_empty() {
            query.number("limit")?;
            0
        } else {
            usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0)
        },
        continue_token: query.text("continue").to_string(),
    })
}

/// ListOptions of a watch.
///
/// # Errors
/// As [`list`].
pub fn watch(kind: &Kind, query: &Query) -> Result<WatchOptions, ApiError> {
    let mut errors = Vec::new();
    let path = Path::new("resourceVersionMatch");
    let given = query.text("resourceVersionMatch");
    let initial_events = query.boolean("sendInitialEvents");
    if initial_events.is_none() {
        if !given.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
    } else {
        match given {
            "" => errors.push(FieldError::forbidden(
                &path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            "NotOlderThan" => {}
            other => {
                errors.push(FieldError::forbidden(
                    &path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
                errors.push(FieldError::not_supported(&path, other, &["NotOlderThan"]));
            }
        }
        if !query.text("continue").is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
    }
    refuse(errors)?;
    Ok(WatchOptions {
        selection: selection(kind, query)?,
        resource_version: query.text("resourceVersion").to_string(),
        bookmarks: query.flag("allowWatchBookmarks"),
        initial_events,
    })
}

fn version_match(query: &Query, errors: &mut Vec<FieldError>) -> Option<VersionMatch> {
    match query.text("resourceVersionMatch") {
        "" => None,
        "Exact" => Some(VersionMatch::Exact),
        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
        other => {
            let path = Path::new("resourceVersionMatch");
            errors.push(FieldError::not_supported_in_order(&path, other, &["Exact", "NotOlderThan", ""]));
            None
        }
    }
}

fn refuse(errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", &errors))
}

/// The two selectors.
///
/// # Errors
/// 400.
pub fn selection(kind: &Kind, query: &Query) -> Result<Selection, ApiError> {
    Selection::parse(kind, query.text("labelSelector"), query.text("fieldSelector"))
}

/// How long a watch lasts.
///
/// # Errors
/// 400 for what is no number.
pub fn watch_timeout(query: &Query) -> Result<Duration, ApiError> {
    Ok(match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
        _ => WATCH_MIN.mul_f64(1.0 + rand::rng().random::<f64>()),
    })
}

/// The options that all writes share.
pub struct WriteOptions {
    /// Who owns the fields that are written.
    pub manager: String,
    /// Whether nothing is stored.
    pub dry_run: bool,
    /// What to do about unknown and repeated fields.
    pub validation: FieldValidation,
}

/// The options of a write, all checked at once. `kind` is that of the options.
///
/// # Errors
/// 422 with all that are wrong.
pub fn write(query: &Query, headers: &http::HeaderMap, kind: &str) -> Result<WriteOptions, ApiError> {
    let mut errors = Vec::new();
    if kind == "PatchOptions" {
        patch(query, headers, &mut errors);
    }
    let options = WriteOptions {
        manager: field_manager(query, headers, &mut errors),
        dry_run: dry_run_of(query, None, &mut errors),
        validation: field_validation(query, &mut errors),
    };
    if errors.is_empty() {
        return Ok(options);
    }
    Err(ApiError::invalid(&GroupKind::new("meta.k8s.io", kind.to_string()), "", &errors))
}

/// Apply has a manager, and only apply may be forced.
fn patch(query: &Query, headers: &http::HeaderMap, errors: &mut Vec<FieldError>) {
    let apply = crate::body::media_type(headers) == "application/apply-patch+yaml";
    if !apply && query.get("force").is_some() {
        let path = Path::new("force");
        errors.push(FieldError::forbidden(&path, "may not be specified for non-apply patch"));
    }
    if apply && query.text("fieldManager").is_empty() {
        errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
    }
}

fn field_validation(query: &Query, errors: &mut Vec<FieldError>) -> FieldValidation {
    match query.text("fieldValidation") {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            let valid = ["", "Ignore", "Strict", "Warn"];
            errors.push(FieldError::not_supported(&Path::new("fieldValidation"), other, &valid));
            FieldValidation::Strict
        }
    }
}

/// `dryRun` of the query and of the options in a body.
///
/// # Errors
/// 422 for another value than `All`.
pub fn dry_run(query: &Query, body: Option<&Value>, kind: &str) -> Result<bool, ApiError> {
    let mut errors = Vec::new();
    let given = dry_run_of(query, body, &mut errors);
    if errors.is_empty() {
        return Ok(given);
    }
    Err(ApiError::invalid(&GroupKind::new("meta.k8s.io", kind.to_string()), "", &errors))
}

fn dry_run_of(query: &Query, body: Option<&Value>, errors: &mut Vec<FieldError>) -> bool {
    let in_body: Vec<String> = knarr_registry::obj::strings(body.and_then(|b| b.get("dryRun")));
    let given: Vec<&str> = query.all("dryRun").chain(in_body.iter().map(String::as_str)).collect();
    if let Some(wrong) = given.iter().find(|v| **v != "All") {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), json!([wrong]), &["All"]));
    }
    !given.is_empty()
}

/// `fieldManager`, or what the user agent says before its first slash.
fn field_manager(query: &Query, headers: &http::HeaderMap, errors: &mut Vec<FieldError>) -> String {
    let given = query.text("fieldManager");
    let path = Path::new("fieldManager");
    if given.len() > 128 {
        errors.push(FieldError::too_long(&path, 128));
    }
    if let Some((at, c)) = given.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        errors.push(FieldError::invalid(&path, given, detail));
    }
    if !given.is_empty() {
        return given.to_string();
    }
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let name: String =
        agent.split('/').next().unwrap_or("").chars().filter(|c| !c.is_control()).take(128).collect();
    if name.is_empty() { "unknown".into() } else { name }
}
