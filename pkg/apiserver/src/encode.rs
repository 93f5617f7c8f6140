//! Answers: one encoder per request turns entries and documents into bytes of the negotiated encoding and shape.

use std::hash::{Hash, Hasher};

use bytes::{BufMut as _, Bytes, BytesMut};
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionKind};
use knarr_registry::{Entry, EventType, codec, obj};
use serde_json::{Value, json};

use crate::negotiate::{Accepted, Format, IncludeObject, Shape};

/// Encodes objects of one kind for one request.
#[derive(Debug, Clone)]
pub struct Encoder {
    kind: Kind,
    accepted: Accepted,
    /// Stored bytes are in the request's version.
    native: bool,
}

impl Encoder {
    /// An encoder for a kind in the version of the request.
    pub fn new(kind: &Kind, accepted: Accepted) -> Self {
        let native = knarr_registry::registry::is_stored_version(kind);
        Self { kind: kind.clone(), accepted, native }
    }

    /// What was negotiated.
    pub fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// Whether stored bytes go out as they are.
    pub fn is_spliced(&self) -> bool {
        self.native && self.accepted.format == Format::Json && self.accepted.shape == Shape::Object
    }

    /// Whether stored bytes are turned into protobuf without building documents.
    pub fn is_transcoded(&self) -> bool {
        self.native && self.accepted.format == Format::Protobuf && self.accepted.shape == Shape::Object
    }

    /// Names the encoding of an event, for sharing; None when it depends on more than the event.
    pub fn share_key(&self, event: EventType) -> Option<u64> {
        if matches!(self.accepted.shape, Shape::Table(_)) {
            return None;
        }
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (self.accepted, event, &self.kind.info.gvk).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The document of an entry in the request's version.
    ///
    /// # Errors
    /// Damaged bytes, or a form that this version cannot tell.
    pub fn value(&self, entry: &Entry) -> Result<Value, ApiError> {
        knarr_registry::registry::read(&self.kind, entry)
    }

    /// One entry as an answer.
    ///
    /// # Errors
    /// As [`Encoder::value`].
    pub fn entry(&self, entry: &Entry) -> Result<Bytes, ApiError> {
        if self.is_spliced() {
            return Ok(entry.bytes.clone());
        }
        if self.is_transcoded() {
            let raw = knarr_schema::proto::transcode_raw(&self.kind.info.types, &entry.bytes);
            let raw = raw.map_err(ApiError::internal)?;
            return Ok(Bytes::from(knarr_schema::proto::wrap(&self.kind.info.gvk, &raw)));
        }
        self.document(&self.value(entry)?)
    }

    /// One document of the kind as an answer.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn document(&self, value: &Value) -> Result<Bytes, ApiError> {
        match self.accepted.shape {
            Shape::Object => self.plain(value, &self.kind.info.gvk),
            Shape::Partial => bytes_of(&self.partial(value), self.accepted.format),
            Shape::Table(include) => {
                let rows = vec![self.row(value, include)];
                let table = self.table(rows, obj::resource_version(value), "", None, true);
                bytes_of(&table, self.accepted.format)
            }
        }
    }

    /// A document of another kind (Status, Scale) in the same encoding.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn plain(&self, value: &Value, gvk: &GroupVersionKind) -> Result<Bytes, ApiError> {
        if self.accepted.format != Format::Protobuf {
            if self.accepted.format == Format::Json && value.get("metadata").is_some_and(Value::is_object) {
                return codec::to_bytes(value);
            }
            return bytes_of(value, self.accepted.format);
        }
        let types =
            if *gvk == self.kind.info.gvk { Some(self.kind.info.types.clone()) } else { types_of(gvk) };
        let types = types.ok_or_else(|| ApiError::not_acceptable(format!("{gvk} has no protobuf form")))?;
        knarr_schema::proto::encode(&types, gvk, value).map(Bytes::from).map_err(ApiError::internal)
    }

    /// PartialObjectMetadata of a document.
    pub fn partial(&self, value: &Value) -> Value {
        json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": self.accepted.meta_version(),
            "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})),
        })
    }

    /// A Table row.
    pub fn row(&self, value: &Value, include: IncludeObject) -> Value {
        let cells = self.kind.rules.row(value, &knarr_registry::registry::now());
        let mut row = json!({"cells": cells});
        match include {
            IncludeObject::None => row["object"] = Value::Null,
            IncludeObject::Metadata => row["object"] = self.partial(value),
            IncludeObject::Object => row["object"] = value.clone(),
        }
        row
    }

    /// A Table document.
    pub fn table(
        &self,
        rows: Vec<Value>,
        revision: &str,
        next: &str,
        remaining: Option<i64>,
        columns: bool,
    ) -> Value {
        let mut metadata = json!({});
        if !revision.is_empty() {
            metadata["resourceVersion"] = revision.into();
        }
        if !next.is_empty() {
            metadata["continue"] = next.into();
        }
        if let Some(remaining) = remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let definitions: Value = if columns {
            self.kind.info.columns.iter().map(|c| {
                json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
            }).collect()
        } else {
            Value::Null
        };
        json!({
            "kind": "Table",
            "apiVersion": self.accepted.meta_version(),
            "metadata": metadata,
            "columnDefinitions": definitions,
            "rows": rows,
        })
    }

    /// One watch frame: an event with its object.
    ///
    /// # Errors
    /// As [`Encoder::value`].
    pub fn frame(&self, event: EventType, entry: &Entry, columns: bool) -> Result<Bytes, ApiError> {
        if let Shape::Table(include) = self.accepted.shape {
            let value = self.value(entry)?;
            let table =
                self.table(vec![self.row(&value, include)], &entry.revision.to_string(), "", None, columns);
            return self.frame_of(event.as_str(), &bytes_of(&table, Format::Json)?);
        }
        // Frames are lines: indented JSON would break them.
        let object = if self.accepted.format == Format::Pretty {
            self.compact().entry(entry)?
        } else {
            self.entry(entry)?
        };
        self.frame_of(event.as_str(), &object)
    }

    fn compact(&self) -> Self {
        Self { accepted: Accepted { format: Format::Json, ..self.accepted }, ..self.clone() }
    }

    /// A frame of the watch protocol around an encoded object.
    ///
    /// # Errors
    /// When protobuf refuses it.
    pub fn frame_of(&self, event: &str, object: &[u8]) -> Result<Bytes, ApiError> {
        if self.accepted.format == Format::Protobuf {
            return Ok(Bytes::from(knarr_schema::proto::watch_frame(event, object)));
        }
        if self.accepted.format == Format::Yaml {
            let text = String::from_utf8_lossy(object).replace('\n', "\n  ");
            return Ok(Bytes::from(format!("---\ntype: {event}\nobject:\n  {}\n", text.trim_end())));
        }
        let mut out = BytesMut::with_capacity(object.len() + 40);
        out.put_slice(b"{\"type\":\"");
        out.put_slice(event.as_bytes());
        out.put_slice(b"\",\"object\":");
        out.put_slice(object);
        out.put_slice(b"}\n");
        Ok(out.freeze())
    }

    /// A bookmark frame.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn bookmark(&self, revision: i64, initial_end: bool) -> Result<Bytes, ApiError> {
        let gvk = &self.kind.info.gvk;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": gvk.kind, "apiVersion": gvk.group_version().to_string(), "metadata": metadata});
        let bytes = match self.accepted.shape {
            Shape::Table(_) => {
                let row = json!({"cells": [], "object": self.partial(&object)});
                bytes_of(&self.table(vec![row], &revision.to_string(), "", None, false), Format::Json)?
            }
            Shape::Partial => bytes_of(&self.partial(&object), self.frame_format())?,
            Shape::Object => self.compact_if_pretty().plain(&object, gvk)?,
        };
        self.frame_of("BOOKMARK", &bytes)
    }

    /// The frame that ends a watch with an error.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn error_frame(&self, error: &ApiError) -> Result<Bytes, ApiError> {
        let gvk = GroupVersionKind::new("", "v1", "Status");
        let bytes = self.compact_if_pretty().plain(&error.to_value(), &gvk)?;
        self.frame_of("ERROR", &bytes)
    }

    fn frame_format(&self) -> Format {
        if self.accepted.format == Format::Pretty { Format::Json } else { self.accepted.format }
    }

    fn compact_if_pretty(&self) -> Self {
        Self { accepted: Accepted { format: self.frame_format(), ..self.accepted }, ..self.clone() }
    }

    /// The kind.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

/// The types of a built-in document.
pub fn types_of(gvk: &GroupVersionKind) -> Option<knarr_machinery::types::TypeRef> {
    if gvk.group == "meta.k8s.io" || gvk.kind == "Status" {
        return knarr_schema::builtin_type(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{}", gvk.kind));
    }
    knarr_schema::type_of(gvk)
}

/// Encodes any document; protobuf only for `meta.k8s.io` kinds and Status.
///
/// # Errors
/// When it cannot be encoded.
pub fn bytes_of(value: &Value, format: Format) -> Result<Bytes, ApiError> {
    match format {
        Format::Json => serde_json::to_vec(value).map(Bytes::from).map_err(ApiError::internal),
        Format::Pretty => serde_json::to_vec_pretty(value).map(Bytes::from).map_err(ApiError::internal),
        Format::Yaml => Ok(Bytes::from(knarr_machinery::yaml::write(value))),
        Format::Protobuf => {
            let text = |f: &str| value.get(f).and_then(Value::as_str).unwrap_or("").to_string();
            let version = text("apiVersion");
            let gv = knarr_machinery::GroupVersion::parse(&version).unwrap_or_default();
            let gvk = GroupVersionKind { group: gv.group, version: gv.version, kind: text("kind").into() };
            let types = types_of(&gvk)
                .ok_or_else(|| ApiError::not_acceptable(format!("{gvk} has no protobuf form")))?;
            knarr_schema::proto::encode(&types, &gvk, value).map(Bytes::from).map_err(ApiError::internal)
        }
    }
}
