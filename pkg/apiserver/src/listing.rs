//! Bodies of lists.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use knarr_machinery::{ApiError, GroupVersionKind};
use knarr_registry::{Entry, ListPage, codec};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::encode::{Encoder, bytes_of, types_of};
use crate::negotiate::{Format, Shape};
use crate::respond;

/// Lists of more bytes than this are sent in chunks while they are put together.
const CHUNK: usize = 256 * 1024;

/// The response for a page.
///
/// # Errors
/// When an object cannot be encoded.
pub fn respond(encoder: &Encoder, page: ListPage, headers: &HeaderMap) -> Result<Response, ApiError> {
    let media = encoder.accepted().format.media_type();
    if encoder.is_spliced() {
        let size: usize = page.entries.iter().map(|e| e.bytes.len() + 1).sum();
        if size > CHUNK && !respond::takes_gzip(headers) {
            let end = tail(encoder, &page)?;
            return Ok(streamed(encoder, page, end, media));
        }
        let mut out = BytesMut::with_capacity(size + 256);
        out.put_slice(&head(encoder, &page)?);
        for (i, entry) in page.entries.iter().enumerate() {
            item(encoder, &mut out, entry, i == 0);
        }
        out.put_slice(&tail(encoder, &page)?);
        let response = respond::bytes(200, media, Bytes::new());
        return Ok(respond::compress(response, out.freeze(), headers));
    }
    let body = encode(encoder, &page)?;
    Ok(respond::compress(respond::bytes(200, media, Bytes::new()), body, headers))
}

fn list_meta(encoder: &Encoder, page: &ListPage) -> Map<String, Value> {
    let mut meta = Map::new();
    // Lists of custom resources always tell it, as upstream's untyped lists do.
    let untyped = encoder.kind().info.custom && encoder.accepted().shape == Shape::Object;
    if untyped || !page.continue_token.is_empty() {
        meta.insert("continue".into(), page.continue_token.clone().into());
    }
    if let Some(remaining) = page.remaining {
        meta.insert("remainingItemCount".into(), remaining.into());
    }
    meta.insert("resourceVersion".into(), page.revision.to_string().into());
    meta
}

fn head(encoder: &Encoder, page: &ListPage) -> Result<Vec<u8>, ApiError> {
    let info = &encoder.kind().info;
    let info_version = info.gvk.group_version();
    if info.custom {
        return Ok(format!("{{\"apiVersion\":\"{info_version}\",\"items\":[").into_bytes());
    }
    let meta = serde_json::to_string(&list_meta(encoder, page)).map_err(ApiError::internal)?;
    Ok(format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        info.list_kind,
        info.gvk.group_version()
    )
    .into_bytes())
}

/// What follows the items; custom lists have their keys sorted.
fn tail(encoder: &Encoder, page: &ListPage) -> Result<Vec<u8>, ApiError> {
    let info = &encoder.kind().info;
    if !info.custom {
        return Ok(b"]}\n".to_vec());
    }
    let meta = serde_json::to_string(&list_meta(encoder, page)).map_err(ApiError::internal)?;
    Ok(format!("],\"kind\":\"{}\",\"metadata\":{meta}}}\n", info.list_kind).into_bytes())
}

fn item(encoder: &Encoder, out: &mut BytesMut, entry: &Entry, first: bool) {
    if !first {
        out.put_u8(b',');
    }
    // Items of built-in lists carry no type, as upstream's typed lists.
    match codec::without_type(&entry.bytes) {
        Some(rest) if !encoder.kind().info.custom => {
            out.put_u8(b'{');
            out.put_slice(rest);
        }
        _ => out.put_slice(&entry.bytes),
    }
}

fn streamed(encoder: &Encoder, page: ListPage, end: Vec<u8>, media: &'static str) -> Response {
    let encoder = encoder.clone();
    let opening = head(&encoder, &page).unwrap_or_default();
    let entries: Vec<Arc<Entry>> = page.entries;
    let chunks = futures::stream::unfold((0_usize, Some(opening)), move |(mut at, opening)| {
        let done = at > entries.len();
        let chunk = (!done).then(|| {
            let mut out = BytesMut::with_capacity(CHUNK + 8192);
            if let Some(opening) = opening {
                out.put_slice(&opening);
            }
            while at < entries.len() && out.len() < CHUNK {
                item(&encoder, &mut out, &entries[at], at == 0);
                at += 1;
            }
            if at == entries.len() {
                out.put_slice(&end);
                at += 1;
            }
            (Ok::<_, std::convert::Infallible>(out.freeze()), (at, None))
        });
        std::future::ready(chunk)
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn encode(encoder: &Encoder, page: &ListPage) -> Result<Bytes, ApiError> {
    if encoder.is_transcoded() {
        let info = &encoder.kind().info;
        let gvk = GroupVersionKind { kind: info.list_kind.clone(), ..info.gvk.clone() };
        let items = page.entries.iter().map(|e| &*e.bytes);
        let meta = Value::Object(list_meta(encoder, page));
        return knarr_schema::proto::transcode_list(&info.types, &gvk, &meta, items)
            .map(Bytes::from)
            .map_err(ApiError::internal);
    }
    match (encoder.accepted().format, encoder.accepted().shape) {
        (Format::Json, Shape::Table(include)) => {
            one_by_one(encoder, page, |value| encoder.row(value, include))
        }
        (Format::Json, Shape::Partial) => one_by_one(encoder, page, |value| encoder.partial(value)),
        _ => {
            let values: Vec<Value> =
                page.entries.iter().map(|e| encoder.value(e)).collect::<Result<_, _>>()?;
            encode_page(encoder, values, page)
        }
    }
}

/// A list whose items are made of documents, one at a time: documents are ten times the size of their bytes.
fn one_by_one(encoder: &Encoder, page: &ListPage, item: impl Fn(&Value) -> Value) -> Result<Bytes, ApiError> {
    let empty = ListPage { entries: Vec::new(), continue_token: page.continue_token.clone(), ..*page };
    let frame = encode_page(encoder, Vec::new(), &empty)?;
    let hole: &[u8] = match encoder.accepted().shape {
        Shape::Table(_) => b"\"rows\":[",
        _ => b"\"items\":[",
    };
    let at = frame.windows(hole.len()).rposition(|w| w == hole).map(|at| at + hole.len());
    let at = at.ok_or_else(|| ApiError::internal("a list without a place for its items"))?;
    let mut out = Vec::with_capacity(frame.len() + page.entries.len() * 512);
    out.put_slice(&frame[..at]);
    for (i, entry) in page.entries.iter().enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        if encoder.partial_of(entry, &mut out) {
            continue;
        }
        let document = item(&encoder.value(entry)?);
        serde_json::to_writer(&mut out, &document).map_err(ApiError::internal)?;
    }
    out.put_slice(&frame[at..]);
    Ok(Bytes::from(out))
}

/// The list of documents that are not stored.
///
/// # Errors
/// When they cannot be encoded.
pub fn encode_values(encoder: &Encoder, values: &[Value], revision: i64) -> Result<Bytes, ApiError> {
    let page = ListPage { entries: Vec::new(), revision, continue_token: String::new(), remaining: None };
    encode_page(encoder, values.to_vec(), &page)
}

fn encode_page(encoder: &Encoder, values: Vec<Value>, page: &ListPage) -> Result<Bytes, ApiError> {
    let accepted = encoder.accepted();
    if accepted.format == Format::Protobuf {
        return protobuf(encoder, &values, page);
    }
    let document = match accepted.shape {
        Shape::Table(include) => {
            let rows = values.iter().map(|v| encoder.row(v, include)).collect();
            encoder.table(rows, &page.revision.to_string(), &page.continue_token, page.remaining, true)
        }
        Shape::Partial => {
            let items: Vec<Value> = values.iter().map(|v| encoder.partial(v)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": accepted.meta_version(),
                   "metadata": list_meta(encoder, page), "items": items})
        }
        Shape::Object => list_document(encoder, values, list_meta(encoder, page)),
    };
    bytes_of(&document, accepted.format)
}

/// The list document of a kind.
pub fn list_document(encoder: &Encoder, mut items: Vec<Value>, meta: Map<String, Value>) -> Value {
    let info = &encoder.kind().info;
    if !info.custom {
        for map in items.iter_mut().filter_map(Value::as_object_mut) {
            map.remove("kind");
            map.remove("apiVersion");
        }
    }
    json!({"kind": info.list_kind, "apiVersion": info.gvk.group_version().to_string(), "metadata": meta, "items": items})
}

fn protobuf(encoder: &Encoder, values: &[Value], page: &ListPage) -> Result<Bytes, ApiError> {
    let info = &encoder.kind().info;
    let partial = encoder.accepted().shape == Shape::Partial;
    let (types, gvk) = if partial {
        let one = GroupVersionKind::new("meta.k8s.io", "v1", "PartialObjectMetadata");
        let types = types_of(&one)
            .ok_or_else(|| ApiError::not_acceptable("PartialObjectMetadata has no protobuf form"))?;
        (types, GroupVersionKind::new("meta.k8s.io", "v1", "PartialObjectMetadataList"))
    } else {
        let gvk = GroupVersionKind { kind: info.list_kind.clone(), ..info.gvk.clone() };
        (info.types.clone(), gvk)
    };
    let mut raw = Vec::with_capacity(values.len());
    for value in values {
        let encoded = if partial {
            knarr_schema::proto::encode_raw(&types, &encoder.partial(value))
        } else {
            knarr_schema::proto::encode_raw(&types, value)
        };
        raw.push(encoded.map_err(ApiError::internal)?);
    }
    let meta = Value::Object(list_meta(encoder, page));
    knarr_schema::proto::encode_list(&gvk, &meta, raw.iter().map(Vec::as_slice))
        .map(Bytes::from)
        .map_err(ApiError::internal)
}
