//! JSON documents to and from `application/vnd.kubernetes.protobuf`.
//!
//! A document in protobuf is the four bytes `k8s\0` and a `runtime.Unknown` that carries apiVersion, kind and the raw
//! message ([`encode`], [`decode`]). The raw message follows from the facts about the type ([`encode_raw`],
//! [`decode_raw`]). Decoding yields the JSON that Go would write: its omissions, its zero values, its nulls. Encoding
//! writes what Go would write, so a field that is a Go value and not a pointer is present even when it is zero.
//!
//! Not done here: quantities are not brought into canonical form, and a JSON field that the type does not have is left
//! out (prune first, that reports it).

mod decode;
mod encode;
mod forms;
mod transcode;
mod wire;

use std::sync::Arc;

use knarr_machinery::types::{StructId, Type, TypeRef};
use knarr_machinery::{GroupVersion, GroupVersionKind};
use serde_json::{Map, Value};

use crate::facts::facts;
use wire::{Reader, Writer};

/// What every enveloped document begins with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// How deep messages may nest.
const MAX_DEPTH: usize = 128;

/// Why a document cannot be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtoError {
    /// The field concerned, such as `spec.containers[0].name`; "" for the document itself.
    pub path: String,
    /// Byte of the body where decoding stopped; `None` for an encoding error.
    pub offset: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl ProtoError {
    pub(crate) fn decode(offset: usize, message: impl Into<String>) -> Self {
        Self { path: String::new(), offset: Some(offset), message: message.into() }
    }

    pub(crate) fn encode(message: impl Into<String>) -> Self {
        Self { path: String::new(), offset: None, message: message.into() }
    }

    /// Puts a field name in front of the path.
    pub(crate) fn under(mut self, field: &str) -> Self {
        if field.is_empty() {
            return self;
        }
        let dot = !self.path.is_empty() && !self.path.starts_with('[');
        self.path.insert_str(0, if dot { "." } else { "" });
        self.path.insert_str(0, field);
        self
    }

    /// Whether the envelope itself is damaged, so that nothing is known of what it holds.
    pub fn is_envelope(&self) -> bool {
        self.path == "(the envelope)"
    }

    /// An error in the envelope itself: its parts have names of their own.
    fn of_envelope(mut self) -> Self {
        self.path = match self.noted() {
            Some(2) => "(the message)".into(),
            Some(_) => "(the envelope)".into(),
            None => self.path,
        };
        self
    }

    /// Puts `[index]` in front of the path.
    pub(crate) fn at_index(self, index: usize) -> Self {
        self.under(&format!("[{index}]"))
    }
}

impl std::fmt::Display for ProtoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match self.offset {
            Some(offset) => write!(f, "{} at byte {offset}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ProtoError {}

/// Finds the type of a kind while decoding. [`crate::type_of`] for the built-in ones.
pub type Lookup<'a> = &'a dyn Fn(&GroupVersionKind) -> Option<TypeRef>;

/// Encodes a document with its envelope.
///
/// # Errors
/// The type has no protobuf form, or a value is not of its field's type.
pub fn encode(types: &TypeRef, gvk: &GroupVersionKind, obj: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Writer::default();
    let named = if has_type_meta(root(types)?) { gvk } else { &GroupVersionKind::default() };
    let raw = begin_unknown(&mut out, named);
    encode_into(types, obj, &mut out)?;
    Ok(end_unknown(out, raw))
}

/// Encodes the message alone, as it stands in lists and in [`wrap`].
///
/// # Errors
/// As [`encode`].
pub fn encode_raw(types: &TypeRef, obj: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Writer::default();
    encode_into(types, obj, &mut out)?;
    Ok(out.into_bytes())
}

/// The raw message of a document given as JSON text, without making a [`Value`] of it: what lists and watches are served
/// with. Differs from [`encode_raw`] only in the order of the fields.
///
/// # Errors
/// As [`encode`], and for text that is not JSON.
pub fn transcode_raw(types: &TypeRef, json: &[u8]) -> Result<Vec<u8>, ProtoError> {
    let mut out = Writer::with_capacity(json.len() / 2 + 64);
    transcode_into(root(types)?, json, &mut out)?;
    Ok(out.into_bytes())
}

fn transcode_into(id: StructId, json: &[u8], out: &mut Writer) -> Result<(), ProtoError> {
    let start = out.len();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let seed = transcode::MessageSeed { facts: facts(), id, out: &mut *out, depth: 0 };
    let done =
        serde::de::DeserializeSeed::deserialize(seed, &mut deserializer).and_then(|()| deserializer.end());
    if done.is_ok() {
        return Ok(());
    }
    // The slower way knows the field.
    out.truncate(start);
    let value: Value = serde_json::from_slice(json)
        .map_err(|e| ProtoError::encode(format!("the document is not JSON: {e}")))?;
    let Value::Object(map) = &value else {
        return Err(ProtoError::encode(format!("expected an object, got {}", forms::kind_of(&value))));
    };
    encode::Encoder { facts: facts() }.message(id, map, out, 0)
}

/// As [`encode_list`], from items given as JSON text; `types` is the type of an item.
///
/// # Errors
/// As [`encode_list`] and [`transcode_raw`], the latter with the item's index.
pub fn transcode_list<'a>(
    types: &TypeRef,
    gvk: &GroupVersionKind,
    list_meta: &Value,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtoError> {
    let id = root(types)?;
    list_of(gvk, list_meta, |out| {
        for (index, json) in items.into_iter().enumerate() {
            let at = out.begin(2);
            transcode_into(id, json, out).map_err(|e| e.at_index(index).under("items"))?;
            out.end(at);
        }
        Ok(())
    })
}

/// Puts the envelope around a raw message.
pub fn wrap(gvk: &GroupVersionKind, raw: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(raw.len() + 64);
    let at = begin_unknown(&mut out, gvk);
    out.extend(raw);
    end_unknown(out, at)
}

/// Encodes a list document from its metadata (`resourceVersion`, `continue`, `remainingItemCount`) and the raw messages
/// of its items ([`encode_raw`]); `gvk` is that of the list (`PodList`).
///
/// # Errors
/// The metadata is not a ListMeta.
pub fn encode_list<'a>(
    gvk: &GroupVersionKind,
    list_meta: &Value,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtoError> {
    list_of(gvk, list_meta, |out| {
        items.into_iter().for_each(|item| out.bytes(2, item));
        Ok(())
    })
}

fn list_of(
    gvk: &GroupVersionKind,
    list_meta: &Value,
    items: impl FnOnce(&mut Writer) -> Result<(), ProtoError>,
) -> Result<Vec<u8>, ProtoError> {
    let meta = crate::builtin_type("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
        .ok_or_else(|| ProtoError::encode("the type facts lack ListMeta"))?;
    let mut out = Writer::default();
    let raw = begin_unknown(&mut out, gvk);
    let at = out.begin(1);
    encode_into(&meta, list_meta, &mut out).map_err(|e| e.under("metadata"))?;
    out.end(at);
    items(&mut out)?;
    Ok(end_unknown(out, raw))
}

/// Decodes an enveloped document. `apiVersion` and `kind` of the result are those of the envelope.
///
/// # Errors
/// No envelope, a kind that `lookup` does not know, or a malformed message (with the field and the offset).
pub fn decode(bytes: &[u8], lookup: Lookup<'_>) -> Result<(GroupVersionKind, Value), ProtoError> {
    decode_as(bytes, None, lookup)
}

/// As [`decode`]; what the envelope does not name is taken from `default`, as upstream takes it from the request.
///
/// # Errors
/// As [`decode`].
pub fn decode_as(
    bytes: &[u8],
    default: Option<&GroupVersionKind>,
    lookup: Lookup<'_>,
) -> Result<(GroupVersionKind, Value), ProtoError> {
    let envelope = open_any(bytes)?;
    let gvk = envelope.gvk(default)?;
    let types = lookup(&gvk).ok_or_else(|| {
        let (kind, version) = (&gvk.kind, gvk.group_version());
        ProtoError::decode(0, format!("no kind \"{kind}\" is registered for version \"{version}\""))
    })?;
    let id = root(&types)?;
    let mut map = Map::new();
    decode::Decoder { facts: facts(), lookup: Some(lookup) }.root(
        id,
        envelope.raw,
        envelope.base,
        &mut map,
    )?;
    if has_type_meta(id) {
        map.insert("apiVersion".into(), Value::String(gvk.group_version().to_string()));
        map.insert("kind".into(), Value::String(gvk.kind.to_string()));
    }
    Ok((gvk, Value::Object(map)))
}

/// Decodes a raw message.
///
/// # Errors
/// As [`decode`].
pub fn decode_raw(types: &TypeRef, bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut map = Map::new();
    let lookup: Lookup<'_> = &crate::type_of;
    decode::Decoder { facts: facts(), lookup: Some(lookup) }.root(root(types)?, bytes, 0, &mut map)?;
    Ok(Value::Object(map))
}

/// Opens the envelope: the kind, the raw message and its offset in `bytes`.
///
/// # Errors
/// The marker is missing, the envelope is malformed, names no kind, or its content is encoded in a way we do not know.
pub fn open(bytes: &[u8]) -> Result<(GroupVersionKind, &[u8], usize), ProtoError> {
    let envelope = open_any(bytes)?;
    Ok((envelope.gvk(None)?, envelope.raw, envelope.base))
}

/// The envelope as it stands.
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    base: usize,
}

impl Envelope<'_> {
    fn gvk(&self, default: Option<&GroupVersionKind>) -> Result<GroupVersionKind, ProtoError> {
        let bad = |message: String| ProtoError::decode(MAGIC.len(), message);
        let gv = match (GroupVersion::parse(self.api_version), default) {
            (Some(gv), _) => gv,
            (None, Some(gvk)) if self.api_version.is_empty() => gvk.group_version(),
            _ => {
                return Err(bad(format!("the envelope has no valid apiVersion: \"{}\"", self.api_version)));
            }
        };
        let kind = match (self.kind, default) {
            ("", Some(gvk)) => gvk.kind.clone(),
            ("", None) => return Err(bad("the envelope has no kind".into())),
            (kind, _) => kind.to_owned().into(),
        };
        Ok(GroupVersionKind { group: gv.group, version: gv.version, kind })
    }
}

fn open_any(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let body = bytes
        .strip_prefix(&MAGIC)
        .ok_or_else(|| ProtoError::decode(0, "the body does not begin with the protobuf marker k8s\\0"))?;
    let mut reader = Reader::new(body, MAGIC.len());
    let mut envelope = Envelope { api_version: "", kind: "", raw: &[], base: bytes.len() };
    let mut encoding = "";
    while let Some(field) = reader.noted_field().map_err(ProtoError::of_envelope)? {
        match field.tag {
            1 => {
                let mut inner = field.reader()?;
                while let Some(f) = inner.field()? {
                    match f.tag {
                        1 => envelope.api_version = f.string()?,
                        2 => envelope.kind = f.string()?,
                        _ => {}
                    }
                }
            }
            2 => (envelope.raw, envelope.base) = field.payload()?,
            3 => encoding = field.string()?,
            _ => {}
        }
    }
    if !encoding.is_empty() {
        return Err(ProtoError::decode(0, format!("contentEncoding \"{encoding}\" is not supported")));
    }
    Ok(envelope)
}

/// Whether the type carries apiVersion and kind (a WatchEvent does not).
fn has_type_meta(id: StructId) -> bool {
    let s = facts().types.get(id);
    s.field("apiVersion").is_some() && s.field("kind").is_some()
}

/// One frame of a protobuf watch stream: four bytes of length, big-endian, and a `WatchEvent` without envelope whose
/// object is an enveloped document ([`encode`]).
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(object.len() + 24);
    out.extend(&[0; 4]);
    out.bytes(1, event.as_bytes());
    let at = out.begin(2);
    out.bytes(1, object);
    out.end(at);
    let mut frame = out.into_bytes();
    let length = (frame.len() - 4) as u32;
    if let Some(head) = frame.get_mut(..4) {
        head.copy_from_slice(&length.to_be_bytes());
    }
    frame
}

/// Reads the body of one watch frame (without the four bytes of length): the event's type and the enveloped object.
///
/// # Errors
/// A malformed message.
pub fn open_watch_event(body: &[u8]) -> Result<(&str, &[u8]), ProtoError> {
    let mut reader = Reader::new(body, 0);
    let (mut event, mut object): (&str, &[u8]) = ("", &[]);
    while let Some(field) = reader.noted_field().map_err(|e| {
        let name = if e.noted() == Some(1) { "type" } else { "object" };
        ProtoError { path: name.into(), ..e }
    })? {
        match field.tag {
            1 => event = field.string().map_err(|e| e.under("type"))?,
            2 => {
                let mut inner = field.reader().map_err(|e| e.under("object"))?;
                while let Some(f) = inner.field().map_err(|e| e.under("object"))? {
                    if f.tag == 1 {
                        object = f.payload().map_err(|e| e.under("object"))?.0;
                    }
                }
            }
            _ => {}
        }
    }
    Ok((event, object))
}

/// Whether documents of this type can be written in protobuf (a Table cannot, nor can a custom resource).
pub fn has_form(types: &TypeRef) -> bool {
    root(types).is_ok()
}

/// The struct behind a type of the built-in set.
fn root(types: &TypeRef) -> Result<StructId, ProtoError> {
    let Type::Struct(id) = types.root else {
        return Err(ProtoError::encode("only structs have a protobuf form"));
    };
    let facts = facts();
    if !Arc::ptr_eq(&types.set, &facts.types) {
        let name = &types.set.get(id).name;
        return Err(ProtoError::encode(format!("{name} is not built in and has no protobuf form")));
    }
    let (members, tagged) = (&facts.members[id.0 as usize], &facts.by_tag[id.0 as usize]);
    if tagged.is_empty() && !members.is_empty() {
        return Err(ProtoError::encode(format!("{} has no protobuf form", types.set.get(id).name)));
    }
    Ok(id)
}

fn encode_into(types: &TypeRef, obj: &Value, out: &mut Writer) -> Result<(), ProtoError> {
    let id = root(types)?;
    let Value::Object(map) = obj else {
        return Err(ProtoError::encode(format!("expected an object, got {}", forms::kind_of(obj))));
    };
    encode::Encoder { facts: facts() }.message(id, map, out, 0)
}

fn begin_unknown(out: &mut Writer, gvk: &GroupVersionKind) -> usize {
    out.extend(&MAGIC);
    let at = out.begin(1);
    out.bytes(1, gvk.group_version().to_string().as_bytes());
    out.bytes(2, gvk.kind.as_bytes());
    out.end(at);
    out.begin(2)
}

fn end_unknown(mut out: Writer, raw: usize) -> Vec<u8> {
    out.end(raw);
    out.bytes(3, b"");
    out.bytes(4, b"");
    out.into_bytes()
}
