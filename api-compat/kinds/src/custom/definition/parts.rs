//! Errors of subresources, printer columns, selectable fields and other parts of a version.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::Errors;
use crate::custom::schema::Schema;
use crate::value::{flag, list, text};

const SELECTABLE_MAX: usize = 8;
const URL_FORM: &str = "; desired format: https://host[/path]";

/// The client of a conversion webhook, which names either a URL or a service.
pub(super) fn client_config(errors: &mut Errors, client: &Value, path: &Path) {
    if let Some(service) = client.get("service").filter(|s| !s.is_null()) {
        service_reference(errors, service, &path.child("service"));
        return;
    }
    let at = path.child("url");
    let url = text(client, "/url");
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        let text = format!("'https' is the only allowed URL scheme{URL_FORM}");
        errors.push(FieldError::invalid(&at, scheme, text));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = rest.split('/').next().unwrap_or_default();
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    if host.is_empty() || scheme.is_empty() {
        errors.push(FieldError::invalid(&at, "", format!("host must be specified{URL_FORM}")));
    }
    for (found, what) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !found.is_empty() {
            errors.push(FieldError::invalid(&at, found, what));
        }
    }
}

fn service_reference(errors: &mut Errors, service: &Value, path: &Path) {
    for key in ["name", "namespace"] {
        if text(service, &format!("/{key}")).is_empty() {
            errors.push(FieldError::required(&path.child(key), ""));
        }
    }
    if let Some(port) = service.get("port").and_then(Value::as_i64).filter(|p| !(1..=65535).contains(p)) {
        let text = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(&path.child("port"), port, text));
    }
    let given = text(service, "/path");
    let at = path.child("path");
    if given.is_empty() || given == "/" {
        return;
    }
    if !given.starts_with('/') {
        errors.push(FieldError::invalid(&at, given, "must start with a '/'"));
    }
    let inner = given.strip_prefix('/').unwrap_or(given);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(&at, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for failure in names::is_dns1123_subdomain(step) {
            errors.push(FieldError::invalid(&at, given, format!("segment[{i}]: {failure}")));
        }
    }
}

/// `subresources.scale`.
pub(super) fn subresources(errors: &mut Errors, doc: &Value, path: &Path) {
    let Some(scale) = doc.get("scale").filter(|s| !s.is_null()) else { return };
    for (key, prefixes, text_) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."][..], "should be a json path under .status"),
        (
            "labelSelectorPath",
            &[".spec.", ".status."][..],
            "should be a json path under either .spec or .status",
        ),
    ] {
        let at = path.child(&format!("scale.{key}"));
        let value = text(scale, &format!("/{key}"));
        if value.is_empty() {
            if key != "labelSelectorPath" {
                errors.push(FieldError::required(&at, ""));
            }
        } else if !value.starts_with('.') {
            errors.push(FieldError::invalid(&at, value, "must be a simple json path starting with ."));
        } else if !prefixes.iter().any(|p| value.starts_with(p)) {
            errors.push(FieldError::invalid(&at, value, text_));
        }
    }
}

/// `additionalPrinterColumns`.
pub(super) fn columns(errors: &mut Errors, version: &Value, path: &Path) {
    const TYPES: &str = "must be one of boolean,date,integer,number,string";
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for (i, column) in list(version, "/additionalPrinterColumns").iter().enumerate() {
        let at = path.index(i);
        if text(column, "/name").is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        match text(column, "/type") {
            "" => errors.push(FieldError::required(&at.child("type"), TYPES)),
            "boolean" | "date" | "integer" | "number" | "string" => {}
            other => errors.push(FieldError::invalid(&at.child("type"), other, TYPES)),
        }
        let format = text(column, "/format");
        if !format.is_empty() && !FORMATS.contains(&format) {
            let text = format!("must be one of {}", FORMATS.join(","));
            errors.push(FieldError::invalid(&at.child("format"), format, text));
        }
        match text(column, "/jsonPath") {
            "" => errors.push(FieldError::required(&at.child("JSONPath"), "")),
            p if !p.starts_with('.') => {
                let text = "must be a simple json path starting with .";
                errors.push(FieldError::invalid(&at.child("JSONPath"), p, text));
            }
            _ => {}
        }
    }
}

/// `selectableFields`.
pub(super) fn selectable(errors: &mut Errors, version: &Value, path: &Path) {
    let fields = list(version, "/selectableFields");
    let Some(schema) = version.pointer("/schema/openAPIV3Schema").filter(|_| !fields.is_empty()) else {
        if !fields.is_empty() {
            errors.push(FieldError::invalid(path, "", "may only be set when validations.schema is included"));
        }
        return;
    };
    let schema = Schema::parse(schema);
    let mut seen: Vec<&str> = Vec::new();
    for (i, f) in fields.iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        let given = text(f, "/jsonPath");
        if given.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let found = match field_path(&schema, given, false) {
            Err(e) => {
                errors.push(FieldError::invalid(&at, given, format!("is an invalid path: {e}")));
                continue;
            }
            Ok(found) => found,
        };
        if given.trim_start_matches('.').split('.').next() == Some("metadata") {
            errors.push(FieldError::invalid(&at, given, "must not point to fields in metadata"));
        }
        if !found.is_some_and(|s| matches!(s.ty.as_str(), "string" | "boolean" | "integer")) {
            let text = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(&at, given, text));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&at, given));
        } else {
            seen.push(given);
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_MAX));
    }
}

/// The schema that a field path (`.spec.x`, `['a']`) leads to; None below fields that the schema does not describe.
///
/// # Errors
/// Why the path is none.
pub(in crate::custom) fn field_path<'a>(
    schema: &'a Schema,
    path: &str,
    brackets: bool,
) -> Result<Option<&'a Schema>, String> {
    let mut at = schema;
    let mut rest = path.trim();
    if rest.is_empty() {
        return Err("must not be empty".into());
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            name = after[..end].to_string();
            rest = &after[end..];
            let mut letters = name.chars();
            let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(format!("expected field name but got {name}"));
            }
        } else if let Some(after) = rest.strip_prefix("['").filter(|_| brackets) {
            let end = after.find("']").ok_or_else(|| format!("unterminated bracket in {path}"))?;
            name = after[..end].replace("\\'", "'").replace("\\\\", "\\");
            rest = &after[end + 2..];
        } else if rest.starts_with('[') && !brackets {
            return Err("array notation is not allowed".into());
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            return Err(format!("expected [ or . but got: {}", &rest[..end]));
        }
        if let Some(below) = at.properties.get(&name) {
            at = below;
        } else if let Some(below) = at.additional_schema() {
            at = below;
        } else {
            return Err("does not refer to a valid field".into());
        }
    }
    Ok(Some(at))
}

/// A field path as errors tell it; None for none, and for one that is wrong.
pub(in crate::custom) fn field_path_text(schema: &Schema, path: &str) -> Option<String> {
    if path.is_empty() || field_path(schema, path, true).is_err() {
        return None;
    }
    let (mut out, mut at, mut rest) = (Path::new(""), schema, path.trim());
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = (after[..end].to_string(), &after[end..]);
        } else {
            let after = rest.strip_prefix("['")?;
            let end = after.find("']")?;
            (name, rest) = (after[..end].replace("\\'", "'").replace("\\\\", "\\"), &after[end + 2..]);
        }
        match at.properties.get(&name) {
            Some(below) => {
                out = out.child(&name);
                at = below;
            }
            None => {
                out = out.key(&name);
                at = at.additional_schema()?;
            }
        }
    }
    Some(out.as_str().to_string())
}

/// `deprecationWarning`.
pub(super) fn deprecation(errors: &mut Errors, version: &Value, path: &Path) {
    let Some(given) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let mut wrong = |text: String| errors.push(FieldError::invalid(path, given, text));
    if !flag(version, "/deprecated") {
        wrong("can only be set for deprecated versions".into());
        return;
    }
    if given.len() > 256 {
        wrong("must be <= 256 characters long".into());
    }
    if given.is_empty() {
        wrong("must not be an empty string".into());
    }
    if let Some((i, _)) = given.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

/// `conversionReviewVersions`.
pub(super) fn review_versions(errors: &mut Errors, versions: &[Value], path: &Path) {
    if versions.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let names_: Vec<&str> = versions.iter().filter_map(Value::as_str).collect();
    for (i, v) in names_.iter().enumerate() {
        if names_[..i].contains(v) {
            errors.push(FieldError::invalid(&path.index(i), *v, "duplicate version"));
            continue;
        }
        for e in names::is_dns1035_label(v) {
            errors.push(FieldError::invalid(&path.index(i), *v, e));
        }
    }
    if !names_.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        errors.push(FieldError::invalid(path, versions.to_vec(), "must include at least one of v1, v1beta1"));
    }
}
