//! Discovery, version and OpenAPI paths: crate `openapi` derives the documents, here they are kept and served.

use std::collections::HashMap;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use knarr_auth::Permit;
use knarr_kinds::KindInfo;
use knarr_machinery::{ApiError, GroupVersion};
use knarr_openapi::discovery::{self, Encoding, Form, Root};
use knarr_openapi::{Catalog, OPENAPI_V2_PROTOBUF};
use knarr_registry::{KindTable, Kinds};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::encode::bytes_of;
use crate::negotiate::{self, Format, Offer};
use crate::respond;
use crate::server::{Call, Inner};

/// A document as it goes out.
#[derive(Debug, Clone)]
struct Kept {
    media: String,
    body: Bytes,
    etag: String,
}

/// The documents of the present kinds, each made on first use.
#[derive(Debug)]
pub struct Documents {
    kinds: Arc<Kinds>,
    kept: Mutex<(u64, HashMap<String, Kept>)>,
}

impl Documents {
    /// Documents of a set of kinds.
    pub fn new(kinds: Arc<Kinds>) -> Self {
        Self { kinds, kept: Mutex::default() }
    }

    fn get(
        &self,
        key: &str,
        make: impl FnOnce(&KindTable) -> Result<(String, Bytes), ApiError>,
    ) -> Result<Kept, ApiError> {
        let table = self.kinds.load();
        {
            let mut kept = self.kept.lock();
            if kept.0 != table.generation {
                *kept = (table.generation, HashMap::new());
            }
            if let Some(known) = kept.1.get(key) {
                return Ok(known.clone());
            }
        }
        let (media, body) = make(&table)?;
        let etag = knarr_openapi::etag(&knarr_openapi::content_hash(&body));
        let made = Kept { media, body, etag };
        let mut kept = self.kept.lock();
        if kept.0 == table.generation {
            kept.1.insert(key.to_string(), made.clone());
        }
        Ok(made)
    }
}

/// Answers requests that name no resource.
///
/// # Errors
/// 404 for unknown paths, 406, 405.
pub(crate) fn serve(server: &Arc<Inner>, call: &Call, _: &Permit) -> Result<Response, ApiError> {
    if call.info.verb != "get" && call.info.verb != "head" {
        return Err(ApiError::method_not_allowed());
    }
    let headers = &call.parts.headers;
    let path = call.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => {
            let format =
                negotiate::accept(headers, &call.query, Offer { protobuf: false, transforms: false })?.format;
            let format = if format == Format::Yaml { format } else { Format::Pretty };
            respond::document(200, &version(&server.config.git_version), format)
        }
        [""] => respond::document(200, &root(server), Format::Pretty),
        ["openapi", "v2"] => openapi_v2(server, headers),
        ["openapi", "v3"] => {
            let index = server.documents.get("openapi/v3", |table| {
                let index = catalog(table, &server.config.git_version, |c| c.v3_index());
                Ok(("application/json".into(), Bytes::from(index.to_string())))
            })?;
            let mut response = send(&index, headers);
            response.headers_mut().remove(VARY);
            Ok(response)
        }
        ["openapi", "v3", rest @ ..] => openapi_v3(server, call, rest),
        ["api" | "apis", ..] => discover(server, headers, &parts),
        _ => Err(ApiError::path_not_found()),
    }
}

fn discover(server: &Arc<Inner>, headers: &HeaderMap, parts: &[&str]) -> Result<Response, ApiError> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok());
    let (mut form, encoding) = discovery::negotiate(accept).ok_or_else(|| {
        ApiError::not_acceptable(
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
    })?;
    if parts.len() > 1 {
        form = Form::Legacy;
    }
    let address = format!("{}:{}", server.config.advertise_address, server.config.port);
    let key = format!("{form:?} {encoding:?} {}", parts.join("/"));
    let kept = server.documents.get(&key, |table| {
        let kinds = table.all();
        let document = match (form, parts) {
            (Form::V2 | Form::V2Beta1, ["api"]) => Some(discovery::aggregated(kinds, Root::Core, form)),
            (Form::V2 | Form::V2Beta1, _) => Some(discovery::aggregated(kinds, Root::Named, form)),
            (_, ["api"]) => Some(discovery::api_versions(kinds, &[("0.0.0.0/0", &address)])),
            (_, ["apis"]) => Some(discovery::api_group_list(kinds)),
            (_, ["api", version]) => {
                discovery::api_resource_list(kinds, &GroupVersion::new("", (*version).to_string()))
            }
            (_, ["apis", group]) => discovery::api_group(kinds, group),
            (_, ["apis", group, version]) => discovery::api_resource_list(
                kinds,
                &GroupVersion::new((*group).to_string(), (*version).to_string()),
            ),
            _ => None,
        };
        let document = document.ok_or_else(ApiError::path_not_found)?;
        let format = match encoding {
            Encoding::Json => Format::Json,
            Encoding::Yaml => Format::Yaml,
            Encoding::Protobuf => Format::Protobuf,
        };
        match bytes_of(&document, format) {
            Ok(body) if format == Format::Json => {
                Ok((discovery::content_type(form, encoding), respond::line(body)))
            }
            Ok(body) => Ok((discovery::content_type(form, encoding), body)),
            // Aggregated discovery has no protobuf form here: JSON is what every client reads.
            Err(_) => Ok((
                discovery::content_type(form, Encoding::Json),
                respond::line(bytes_of(&document, Format::Json)?),
            )),
        }
    })?;
    if parts.len() > 1 {
        // The documents of one group or version carry no tag.
        return Ok(respond::compress(respond::bytes(200, &kept.media, Bytes::new()), kept.body, headers));
    }
    let mut response = send(&kept, headers);
    if form == Form::V2 {
        // Whoever keeps it asks with its tag.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    }
    Ok(response)
}

/// The answer to a client that takes none of the forms of an OpenAPI document.
fn not_acceptable(headers: &HeaderMap, offered: &[&str]) -> Option<Response> {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let takes = |media: &str| {
        media.is_empty()
            || matches!(media, "*/*" | "application/*" | "application/json")
            || offered.iter().any(|o| media.starts_with(o))
    };
    if accept.split(',').any(|clause| takes(clause.split(';').next().unwrap_or("").trim())) {
        return None;
    }
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = http::StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn send(kept: &Kept, headers: &HeaderMap) -> Response {
    let same = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(kept.etag.as_str());
    let mut response = if same {
        respond::bytes(304, &kept.media, Bytes::new())
    } else {
        respond::compress(respond::bytes(200, &kept.media, Bytes::new()), kept.body.clone(), headers)
    };
    if let Ok(etag) = HeaderValue::from_str(&kept.etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    response
}

fn catalog<T>(table: &KindTable, version: &str, run: impl FnOnce(&Catalog<'_>) -> T) -> T {
    let schema = |info: &KindInfo| table.find_kind(&info.gvk).and_then(|k| k.rules.openapi().cloned());
    // Types of aggregated APIs are described by those who serve them.
    run(&Catalog { kinds: table.own(), version, custom_schema: &schema })
}

fn openapi_v2(server: &Arc<Inner>, headers: &HeaderMap) -> Result<Response, ApiError> {
    if let Some(mut refusal) = not_acceptable(headers, &["application/com.github."]) {
        refusal.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        refusal.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        return Ok(refusal);
    }
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let protobuf = accept.split(',').any(|clause| {
        let media = clause.split(';').next().unwrap_or("").trim();
        media.starts_with("application/com.github.") && media.ends_with("+protobuf")
    });
    let key = if protobuf { "openapi/v2.pb" } else { "openapi/v2" };
    let kept = server.documents.get(key, |table| {
        let document =
            catalog(table, &server.config.git_version, |c| c.v2_document()).map_err(ApiError::internal)?;
        if protobuf {
            let media = OPENAPI_V2_PROTOBUF.to_string();
            return Ok((media, Bytes::from(knarr_openapi::v2_protobuf(&document))));
        }
        Ok(("application/json".into(), bytes_of(&document, Format::Json)?))
    })?;
    let mut response = send(&kept, headers);
    // Whether it is compressed or not, it depends on both.
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn openapi_v3(server: &Arc<Inner>, call: &Call, rest: &[&str]) -> Result<Response, ApiError> {
    let gv = match rest {
        ["api", version] => GroupVersion::new("", (*version).to_string()),
        ["apis", group, version] => GroupVersion::new((*group).to_string(), (*version).to_string()),
        _ => return Err(ApiError::path_not_found()),
    };
    if let Some(refusal) = not_acceptable(&call.parts.headers, &["application/com.github."]) {
        return Ok(refusal);
    }
    let table = server.registry.kinds().load();
    let version = &server.config.git_version;
    let hash = catalog(&table, version, |c| c.v3_hash(&gv)).ok_or_else(ApiError::path_not_found)?;
    let asked = call.query.text("hash");
    if !asked.is_empty() && asked != hash {
        let mut response = respond::bytes(301, "text/plain", Bytes::new());
        let location = format!("{}?hash={hash}", call.info.path);
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(LOCATION, location);
        }
        return Ok(response);
    }
    let kept = server.documents.get(&format!("openapi/v3/{gv}"), |table| {
        let document = catalog(table, version, |c| c.v3_document(&gv)).map_err(ApiError::internal)?;
        let document = document.ok_or_else(ApiError::path_not_found)?;
        Ok(("application/json".into(), bytes_of(&document, Format::Json)?))
    })?;
    let mut response = send(&kept, &call.parts.headers);
    if asked == hash {
        // The content of this URL never changes.
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(EXPIRES, HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT"));
    }
    Ok(response)
}

fn root(server: &Arc<Inner>) -> Value {
    let table = server.registry.kinds().load();
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/healthz/ping",
        "/livez",
        "/livez/ping",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/readyz/ping",
        "/version",
    ]
    .map(String::from)
    .to_vec();
    for kind in table.all() {
        let gvk = &kind.info.gvk;
        if gvk.group.is_empty() {
            paths.push(format!("/api/{}", gvk.version));
        } else {
            paths.push(format!("/apis/{}", gvk.group));
            paths.push(format!("/apis/{}/{}", gvk.group, gvk.version));
        }
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

fn version(git: &str) -> Value {
    json!({
        "major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": git, "gitCommit": option_env!("KNARR_COMMIT").unwrap_or("unknown"), "gitTreeState": "clean",
        "buildDate": option_env!("KNARR_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", arch()),
    })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
