//! Create, update, patch and delete over HTTP.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind, decode};
use knarr_registry::delete::DeleteOptions;
use knarr_registry::patch::{Checks, FieldValidation, Patch};
use knarr_registry::update::Change;
use knarr_registry::{Hooks, Outcome, WriteContext};
use serde_json::{Value, json};

use crate::encode::Encoder;
use crate::info::Query;
use crate::resource::{encoder, namespace};
use crate::server::{Call, Inner};
use crate::{body, listing, options, respond};

/// What a write needs besides its document.
pub(crate) struct Writing {
    pub encoder: Encoder,
    pub manager: String,
    pub dry_run: bool,
    pub validation: FieldValidation,
    pub options: Value,
    pub hooks: Arc<dyn Hooks>,
}

impl Writing {
    /// Reads the parameters that all writes share.
    ///
    /// # Errors
    /// 406, 422.
    pub fn new(server: &Inner, kind: &Kind, call: &Call, options_kind: &str) -> Result<Self, ApiError> {
        let options::WriteOptions { manager, dry_run, validation } =
            options::write(&call.query, &call.parts.headers, options_kind)?;
        let mut document = json!({"kind": options_kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            document["dryRun"] = json!(["All"]);
        }
        if !call.query.text("fieldManager").is_empty() {
            document["fieldManager"] = call.query.text("fieldManager").into();
        }
        if !call.query.text("fieldValidation").is_empty() {
            document["fieldValidation"] = call.query.text("fieldValidation").into();
        }
        Ok(Self {
            encoder: encoder(kind, call)?,
            manager,
            dry_run,
            validation,
            options: document,
            hooks: server.hooks(),
        })
    }

    /// The registry's context of the write.
    pub fn context<'a>(
        &'a self,
        kind: &'a Kind,
        call: &'a Call,
        subresource: Option<&'a str>,
    ) -> WriteContext<'a> {
        WriteContext {
            kind,
            namespace: namespace(kind, call),
            name: &call.info.name,
            subresource,
            user: &call.user,
            manager: &self.manager,
            dry_run: self.dry_run,
            options: &self.options,
            hooks: &*self.hooks,
        }
    }

    /// The response for an outcome.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn respond(&self, outcome: &Outcome, warnings: &[String]) -> Result<Response, ApiError> {
        let status = if outcome.created { 201 } else { 200 };
        self.respond_as(status, &outcome.object, &outcome.warnings, warnings)
    }

    /// The response for a refusal; what decoding warned of is told all the same.
    pub fn refuse(&self, error: &ApiError, warnings: &[String]) -> Response {
        let mut response = respond::error(error, self.encoder.accepted());
        respond::warn(&mut response, warnings);
        response
    }

    /// The response with a document of the kind, or of another one that names itself.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn respond_as(
        &self,
        status: u16,
        object: &Value,
        first: &[String],
        then: &[String],
    ) -> Result<Response, ApiError> {
        let gvk = gvk_of(object);
        let own = gvk.kind == self.encoder.kind().info.gvk.kind;
        let body = if own { self.encoder.document(object)? } else { self.encoder.plain(object, &gvk)? };
        let format = self.encoder.accepted().format;
        let mut response = respond::bytes(status, format.media_type(), respond::line(format, body));
        respond::warn(&mut response, then);
        respond::warn(&mut response, first);
        Ok(response)
    }
}

/// The type that a document names.
pub(crate) fn gvk_of(object: &Value) -> GroupVersionKind {
    let text = |f: &str| object.get(f).and_then(Value::as_str).unwrap_or("").to_string();
    let gv = knarr_machinery::GroupVersion::parse(&text("apiVersion")).unwrap_or_default();
    GroupVersionKind { group: gv.group, version: gv.version, kind: text("kind").into() }
}

/// Takes the body of a call.
///
/// # Errors
/// 413, 400.
pub(crate) async fn take_body(call: &mut Call) -> Result<Bytes, ApiError> {
    let body = std::mem::replace(call.body.get_mut(), Body::empty());
    body::read(body).await
}

/// POST on a collection.
///
/// # Errors
/// What decoding and the registry raise.
pub(crate) async fn create(server: &Arc<Inner>, kind: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let writing = Writing::new(server, kind, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, kind, writing.validation)?;
    match server.registry.create(&writing.context(kind, &call, None), decoded.value).await {
        Ok(outcome) => writing.respond(&outcome, &decoded.warnings),
        Err(error) => Ok(writing.refuse(&error, &decoded.warnings)),
    }
}

/// PUT.
///
/// # Errors
/// What decoding and the registry raise.
pub(crate) async fn update(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    update_part(server, kind, call, None).await
}

/// PUT on the object or on a subresource of the same kind.
///
/// # Errors
/// What decoding and the registry raise.
pub(crate) async fn update_part(
    server: &Arc<Inner>,
    kind: &Kind,
    mut call: Call,
    subresource: Option<&str>,
) -> Result<Response, ApiError> {
    let writing = Writing::new(server, kind, &call, "UpdateOptions")?;
    let bytes = take_body(&mut call).await?;
    let decoded = body::kind_object(&call.parts.headers, &bytes, kind, writing.validation)?;
    match server.registry.update(&writing.context(kind, &call, subresource), decoded.value).await {
        Ok(outcome) => writing.respond(&outcome, &decoded.warnings),
        Err(error) => Ok(writing.refuse(&error, &decoded.warnings)),
    }
}

/// PATCH.
///
/// # Errors
/// What decoding and the registry raise.
pub(crate) async fn patch(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    patch_part(server, kind, call, None).await
}

/// PATCH on the object or on a subresource of the same kind.
///
/// # Errors
/// 415 for unknown patch types; what decoding and the registry raise.
pub(crate) async fn patch_part(
    server: &Arc<Inner>,
    kind: &Kind,
    mut call: Call,
    subresource: Option<&str>,
) -> Result<Response, ApiError> {
    let mut writing = Writing::new(server, kind, &call, "PatchOptions")?;
    let bytes = take_body(&mut call).await?;
    let sent = SentPatch::parse(kind, &call, &bytes, writing.validation)?;
    writing.options["force"] = call.query.flag("force").into();
    let context = writing.context(kind, &call, subresource);
    let outcome = server
        .registry
        .change(&context, Change::Patch(sent.patch(&call.query, &bytes, writing.validation)))
        .await?;
    writing.respond(&outcome, &sent.warnings)
}

/// The type of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A patch with its document decoded.
pub(crate) struct SentPatch {
    pub form: Form,
    document: Value,
    found: Vec<String>,
    warnings: Vec<String>,
}

impl SentPatch {
    /// Decodes by content type.
    ///
    /// # Errors
    /// 415, 400.
    pub fn parse(
        kind: &Kind,
        call: &Call,
        bytes: &[u8],
        validation: FieldValidation,
    ) -> Result<Self, ApiError> {
        let custom = kind.info.custom;
        // The type of a patch is told apart to the letter.
        let media = body::media_type_as_sent(&call.parts.headers);
        let form = match media.as_str() {
            "application/json-patch+json" => Form::Json,
            "application/merge-patch+json" => Form::Merge,
            "application/strategic-merge-patch+json" if !custom => Form::Strategic,
            "application/apply-patch+yaml" => Form::Apply,
            _ => {
                let strategic = if custom { "" } else { "application/strategic-merge-patch+json, " };
                return Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, {strategic}application/apply-patch+yaml"
                )));
            }
        };
        let mut warnings = Vec::new();
        let mut document = Value::Null;
        let mut found = Vec::new();
        match form {
            Form::Json => found = check_operations(bytes)?,
            Form::Merge | Form::Strategic => {
                let invalid = |_| ApiError::bad_request("invalid JSON patch");
                let (value, duplicates) = decode::parse_json(bytes).map_err(invalid)?;
                found = duplicates.into_iter().map(|f| f.message).collect();
                document = value;
                check_map(&document, "")?;
            }
            Form::Apply => {
                let wrong = |during: &str, error: String| {
                    ApiError::bad_request(format!(
                        "error {during} patch: error converting YAML to JSON: {error}"
                    ))
                };
                let read = body::yaml(bytes).map_err(|e| wrong("decoding", e))?;
                let repeated = read.strict_error().filter(|_| validation == FieldValidation::Strict);
                document = if read.value.is_null() { json!({}) } else { read.value };
                check_map(&document, "error unmarshaling JSON: while decoding JSON: ")?;
                check_applied_type(kind, &document)?;
                if let Some(error) = repeated {
                    return Err(wrong("strict decoding", error));
                }
                if validation == FieldValidation::Warn {
                    warnings = read.duplicates;
                }
            }
        }
        Ok(Self { form, document, found, warnings })
    }

    /// The patch for the registry.
    pub fn patch<'a>(&'a self, query: &Query, bytes: &'a [u8], validation: FieldValidation) -> Patch<'a> {
        let checks = Checks { validation, found: &self.found, sent: bytes };
        match self.form {
            Form::Json => Patch::Json(checks),
            Form::Merge => Patch::Merge(&self.document, checks),
            Form::Strategic => Patch::Strategic(&self.document, checks),
            Form::Apply => Patch::Apply { document: &self.document, force: query.flag("force") },
        }
    }
}

/// Patches are maps.
fn check_map(document: &Value, during: &str) -> Result<(), ApiError> {
    match document {
        Value::Object(_) => Ok(()),
        Value::Null => Err(ApiError::bad_request("Invalid JSON Patch")),
        other => Err(ApiError::bad_request(format!(
            "error decoding patch: {during}json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            knarr_machinery::syntax::type_name(other)
        ))),
    }
}

/// A JSON patch is a list. What its operations repeat, and what no operation has, is told.
fn check_operations(bytes: &[u8]) -> Result<Vec<String>, ApiError> {
    let (value, repeated) =
        decode::parse_json(bytes).map_err(|_| ApiError::bad_request("invalid JSON patch"))?;
    if let Value::Array(operations) = &value {
        let mut found: Vec<String> = repeated.iter().map(|f| format!("json patch {}", f.message)).collect();
        for (i, operation) in operations.iter().enumerate() {
            let keys = operation.as_object().into_iter().flatten().map(|(key, _)| key);
            let unknown = keys.filter(|k| !matches!(k.as_str(), "op" | "path" | "from" | "value"));
            found.extend(unknown.map(|k| format!("json patch unknown field \"[{i}].{k}\"")));
        }
        return Ok(found);
    }
    Err(ApiError::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
        knarr_machinery::syntax::type_name(&value)
    )))
}

/// An applied document names its type.
fn check_applied_type(kind: &Kind, document: &Value) -> Result<(), ApiError> {
    let gvk = gvk_of(document);
    if gvk == kind.info.gvk {
        return Ok(());
    }
    let (group, version, kind) = (&gvk.group, &gvk.version, &gvk.kind);
    Err(ApiError::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")))
}

/// DeleteOptions from body or query.
async fn delete_options(call: &mut Call) -> Result<(Value, DeleteOptions), ApiError> {
    let bytes = take_body(call).await?;
    let mut document = body::options(&call.parts.headers, &bytes)?;
    if !document.is_object() {
        document = json!({});
    }
    let given = gvk_of(&document);
    if !given.kind.is_empty() && given.kind != "DeleteOptions" {
        return Err(ApiError::bad_request(format!(
            "no kind \"{}\" is registered for version \"{}\" in scheme \"pkg/runtime/scheme.go\"",
            given.kind,
            given.group_version()
        )));
    }
    let map = knarr_registry::obj::map_mut(&mut document);
    if bytes.is_empty() {
        options_of_query(&call.query, map)?;
    }
    map.insert("kind".into(), "DeleteOptions".into());
    map.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    let options = DeleteOptions::parse(&document)?;
    Ok((document, options))
}

/// The query counts only when there is no body, as upstream.
fn options_of_query(query: &Query, map: &mut serde_json::Map<String, Value>) -> Result<(), ApiError> {
    if let Some(grace) = query.number("gracePeriodSeconds")? {
        map.insert("gracePeriodSeconds".into(), grace.into());
    }
    if let Some(policy) = query.get("propagationPolicy") {
        map.insert("propagationPolicy".into(), policy.into());
    }
    if let Some(orphan) = query.boolean("orphanDependents") {
        map.insert("orphanDependents".into(), orphan.into());
    }
    Ok(())
}

/// DELETE on an object.
///
/// # Errors
/// What the registry raises.
pub(crate) async fn delete(server: &Arc<Inner>, kind: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let mut writing = Writing::new(server, kind, &call, "DeleteOptions")?;
    let (document, options) = delete_options(&mut call).await?;
    writing.dry_run = options::dry_run(&call.query, Some(&document), "DeleteOptions")?;
    writing.options = document;
    let outcome = server.registry.delete(&writing.context(kind, &call, None), &options).await?;
    let accepted = !outcome.deleted && options.orphan_dependents == Some(false);
    writing.respond_as(if accepted { 202 } else { 200 }, &outcome.object, &outcome.warnings, &[])
}

/// DELETE on a collection.
///
/// # Errors
/// What the registry raises.
pub(crate) async fn delete_collection(
    server: &Arc<Inner>,
    kind: &Kind,
    mut call: Call,
) -> Result<Response, ApiError> {
    let mut writing = Writing::new(server, kind, &call, "DeleteOptions")?;
    let list = options::list(kind, &call.query)?;
    let (document, options) = delete_options(&mut call).await?;
    writing.dry_run = options::dry_run(&call.query, Some(&document), "DeleteOptions")?;
    writing.options = document;
    let (gone, revision) =
        server.registry.delete_collection(&writing.context(kind, &call, None), &list, &options).await?;
    let mut meta = serde_json::Map::new();
    if kind.info.custom {
        meta.insert("continue".into(), "".into());
    }
    meta.insert("resourceVersion".into(), revision.to_string().into());
    let document = listing::list_document(&writing.encoder, gone, meta);
    let format = match writing.encoder.accepted().format {
        crate::negotiate::Format::Protobuf => crate::negotiate::Format::Json,
        other => other,
    };
    respond::document(200, &document, format)
}
