//! Request bodies: size limit, encodings, strict decoding.

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use knarr_kinds::Kind;
use knarr_machinery::types::TypeRef;
use knarr_machinery::{ApiError, GroupVersionKind, decode, strict, syntax, yaml};
use knarr_registry::patch::FieldValidation;
use serde_json::Value;

use crate::negotiate::{JSON, PROTOBUF, YAML};

/// Largest request body, as upstream.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// Reads a body up to the limit.
///
/// # Errors
/// 413 beyond it, 400 when the client breaks off.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::too_large(format!("Request entity too large: limit is {MAX_BODY}")))
        }
        Err(e) => Err(ApiError::bad_request(format!("error reading the request body: {e}"))),
    }
}

/// The media type of the body without parameters; JSON when none is given.
pub fn media_type(headers: &HeaderMap) -> String {
    media_type_as_sent(headers).to_ascii_lowercase()
}

/// As [`media_type`], in the letters of the client.
pub fn media_type_as_sent(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = text.split(';').next().unwrap_or("").trim();
    if media.is_empty() { JSON.to_string() } else { media.to_string() }
}

/// A decoded document.
pub struct Decoded {
    /// The document, pruned to its type.
    pub value: Value,
    /// Warnings of strict decoding.
    pub warnings: Vec<String>,
}

/// Decodes a document of a kind. `typed`: the types of a kind that is no custom resource.
///
/// # Errors
/// 415 for unknown encodings, 400 for what does not decode or is refused by Strict.
pub fn object(
    headers: &HeaderMap,
    bytes: &[u8],
    gvk: &GroupVersionKind,
    typed: Option<&TypeRef>,
    prune: &dyn Fn(&mut Value) -> Result<Vec<decode::Finding>, ApiError>,
    lookup: &dyn Fn(&GroupVersionKind) -> Option<TypeRef>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    if headers.get(CONTENT_ENCODING).is_some_and(|v| v != "identity") {
        return Err(ApiError::unsupported_media_type(
            "request bodies with a Content-Encoding are not supported",
        ));
    }
    let (mut value, mut findings) = match media_type(headers).as_str() {
        JSON => {
            let (value, found) =
                decode::parse_json(bytes).map_err(|e| unrecognized(gvk, &e.message, bytes))?;
            (value, found.into_iter().map(|f| f.message).collect::<Vec<_>>())
        }
        YAML | "application/x-yaml" => {
            let read = yaml(bytes).map_err(|e| unrecognized(gvk, &e, bytes))?;
            let found = match validation {
                FieldValidation::Strict => read.strict_error().into_iter().collect(),
                _ => read.duplicates,
            };
            (read.value, found)
        }
        PROTOBUF => {
            let value = protobuf(bytes, gvk, lookup)?;
            return Ok(Decoded { value, warnings: Vec::new() });
        }
        _ => {
            return Err(unknown_format());
        }
    };
    check_type_meta(&value).map_err(|text| unrecognized(gvk, &text, bytes))?;
    if value.is_null() {
        value = Value::Object(serde_json::Map::new());
    }
    let given =
        value.get("kind").and_then(Value::as_str).filter(|k| !k.is_empty()).unwrap_or(&gvk.kind).to_string();
    let handled = |text: &str| {
        ApiError::bad_request(format!(
            "{given} in version \"{}\" cannot be handled as a {}: {text}",
            gvk.version, gvk.kind
        ))
    };
    let pruned = prune(&mut value).map_err(|e| {
        let told = e.code != 400
            || ["the object provided", "the API version"].iter().any(|t| e.message.starts_with(t));
        if told { e } else { handled(&e.to_string()) }
    })?;
    findings.extend(pruned.into_iter().map(|f| f.message));
    if let Some(types) = typed.filter(|_| !findings.is_empty() && media_type(headers) == JSON) {
        findings = strict::findings(types, bytes).into_iter().map(|f| f.message).collect();
    }
    let mut warnings = Vec::new();
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings = findings,
        FieldValidation::Strict if findings.is_empty() => {}
        FieldValidation::Strict => {
            return Err(handled(&format!("strict decoding error: {}", findings.join(", "))));
        }
    }
    Ok(Decoded { value, warnings })
}

/// A protobuf document; what its envelope does not name is taken from the request.
fn protobuf(
    bytes: &[u8],
    gvk: &GroupVersionKind,
    lookup: &dyn Fn(&GroupVersionKind) -> Option<TypeRef>,
) -> Result<Value, ApiError> {
    if !bytes.starts_with(b"k8s\0") {
        let text = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
        return Err(unrecognized(gvk, text, bytes));
    }
    if bytes.len() == 4 {
        return Err(unrecognized(gvk, "empty body", bytes));
    }
    match knarr_schema::proto::decode_as(bytes, Some(gvk), lookup) {
        Ok((_, value)) => Ok(value),
        Err(e) if e.is_envelope() => Err(unrecognized(gvk, "unexpected EOF", bytes)),
        Err(e) => Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {e}",
            gvk.kind, gvk.version, gvk.kind
        ))),
    }
}

/// A custom resource names its type itself.
fn check_custom_type(gvk: &GroupVersionKind, bytes: &[u8], value: &Value) -> Result<(), ApiError> {
    let text = |f: &str| value.get(f).and_then(Value::as_str).unwrap_or("");
    for field in ["apiVersion", "kind"] {
        if let Some(v) = value.get(field).filter(|v| !v.is_string() && !v.is_null()) {
            let cause = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{field} of type string",
                knarr_machinery::syntax::type_name(v)
            );
            return Err(unrecognized(gvk, &cause, bytes));
        }
    }
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version.matches('/').count() > 1 {
        return Err(unrecognized(gvk, &format!("unexpected GroupVersion string: {version}"), bytes));
    }
    if kind.is_empty() {
        let sent = String::from_utf8_lossy(bytes);
        return Err(unrecognized(gvk, &format!("Object 'Kind' is missing in '{sent}'"), bytes));
    }
    let wanted = gvk.group_version().to_string();
    if version != wanted {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if kind != gvk.kind {
        let error = knarr_machinery::FieldError::invalid(
            &knarr_machinery::Path::new("kind"),
            kind,
            format!("must be {}", gvk.kind),
        );
        let named = knarr_machinery::GroupKind::new(gvk.group.clone(), kind.to_string());
        return Err(ApiError::invalid(&named, knarr_registry::obj::name(value), &[error]));
    }
    Ok(())
}

/// Decodes a document that is a kind's own.
///
/// # Errors
/// As [`object`].
pub fn kind_object(
    headers: &HeaderMap,
    bytes: &[u8],
    kind: &Kind,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let types = kind.info.types.clone();
    let lookup = |_: &GroupVersionKind| Some(types.clone());
    let own = kind.info.custom && kind.info.gvk.group != "autoscaling";
    let prune = |value: &mut Value| {
        if own {
            check_custom_type(&kind.info.gvk, bytes, value)?;
        }
        kind.rules.prune(&kind.info.types, value)
    };
    let typed = Some(&kind.info.types).filter(|_| !own);
    object(headers, bytes, &kind.info.gvk, typed, &prune, &lookup, validation)
}

/// The 400 for a body whose kind cannot be told.
fn unrecognized(gvk: &GroupVersionKind, text: &str, bytes: &[u8]) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {text} ({})",
        gvk.kind,
        syntax::summary(bytes)
    ))
}

/// What upstream reads first of any document: its type. Null is an empty document.
fn check_type_meta(value: &Value) -> Result<(), String> {
    let Value::Object(map) = value else {
        if value.is_null() {
            return Ok(());
        }
        return Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            syntax::type_name(value)
        ));
    };
    for field in ["apiVersion", "kind"] {
        if let Some(other) = map.get(field).filter(|v| !v.is_string() && !v.is_null()) {
            return Err(format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{field} of type string",
                syntax::type_name(other)
            ));
        }
    }
    let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {version}"));
    }
    Ok(())
}

/// YAML as JSON; repeated keys are told.
///
/// # Errors
/// What is no YAML, in the words of [`yaml::read`].
pub fn yaml(bytes: &[u8]) -> Result<yaml::Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_string())?;
    // A document that is JSON already keeps its exact numbers.
    if text.trim_start().starts_with('{')
        && let Ok((value, found)) = decode::parse_json(bytes)
        && found.is_empty()
    {
        return Ok(yaml::Document { value, duplicates: Vec::new() });
    }
    yaml::read(text)
}

/// A small options document (DeleteOptions), JSON, YAML or protobuf.
///
/// # Errors
/// As [`object`].
pub fn options(headers: &HeaderMap, bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let value = match media_type(headers).as_str() {
        PROTOBUF => {
            let types = || knarr_schema::builtin_type("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
            knarr_schema::proto::decode(bytes, &|_| types())
                .map(|(_, v)| v)
                .map_err(|e| ApiError::bad_request(format!("cannot decode DeleteOptions: {e}")))
        }
        YAML => yaml(bytes).map(|d| d.value).map_err(ApiError::bad_request),
        JSON => decode::parse_json(bytes).map(|(v, _)| v),
        _ => Err(unknown_format()),
    }?;
    check_type_meta(&value).map_err(ApiError::bad_request)?;
    let text = |f: &str| value.get(f).and_then(Value::as_str).unwrap_or("");
    if !matches!(text("kind"), "" | "DeleteOptions") {
        return Err(ApiError::bad_request(format!(
            "no kind \"{}\" is registered for version \"{}\" in scheme \"knarr\"",
            text("kind"),
            text("apiVersion")
        )));
    }
    Ok(value)
}

fn unknown_format() -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}, {PROTOBUF}"
    ))
}
