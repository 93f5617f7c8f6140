//! Content negotiation: which encoding and shape of a document the client takes.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};
use knarr_machinery::ApiError;

use crate::info::Query;

/// `application/vnd.kubernetes.protobuf`
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// `application/json`
pub const JSON: &str = "application/json";
/// `application/yaml`
pub const YAML: &str = "application/yaml";

/// An encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Compact JSON.
    Json,
    /// Indented JSON.
    Pretty,
    /// YAML.
    Yaml,
    /// Kubernetes protobuf.
    Protobuf,
}

impl Format {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::Pretty => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What is told of an object in a Table row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// PartialObjectMetadata.
    Metadata,
    /// The object.
    Object,
}

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The object as it is.
    Object,
    /// `meta.k8s.io` Table.
    Table(IncludeObject),
    /// `meta.k8s.io/v1` PartialObjectMetadata (or its list).
    Partial,
}

/// The outcome of negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// Encoding.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// Whether Table and PartialObjectMetadata are told as v1beta1.
    pub beta: bool,
}

impl Accepted {
    /// Plain JSON.
    pub const JSON: Self = Self { format: Format::Json, shape: Shape::Object, beta: false };

    /// `apiVersion` of Table and PartialObjectMetadata.
    pub fn meta_version(self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
}

/// What the endpoint can do.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Protobuf is known for the kind.
    pub protobuf: bool,
    /// Table and PartialObjectMetadata are possible.
    pub transforms: bool,
}

/// Chooses by the Accept header.
///
/// # Errors
/// 406 when nothing fits, 400 for a bad `includeObject`.
pub fn accept(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Accepted, ApiError> {
    let text = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut clauses: Vec<Clause<'_>> = text.split(',').filter_map(Clause::parse).collect();
    // Stable: equal weights keep the client's order.
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    if clauses.is_empty() && text.trim().is_empty() {
        clauses.push(Clause { media: "*/*", ..Clause::default() });
    }
    for clause in &clauses {
        if let Some(mut accepted) = clause.offer(offer) {
            if let Shape::Table(include) = &mut accepted.shape {
                *include = include_object(query)?;
            }
            if accepted.format == Format::Json && (clause.pretty || pretty(headers, query)) {
                accepted.format = Format::Pretty;
            }
            return Ok(accepted);
        }
    }
    // Upstream names all three, whatever the kind can tell.
    Err(ApiError::not_acceptable(format!(
        "only the following media types are accepted: {JSON}, {YAML}, {PROTOBUF}"
    )))
}

/// How an error is told.
pub fn of_errors(headers: &HeaderMap, query: &Query) -> Accepted {
    accept(headers, query, Offer { protobuf: true, transforms: false })
        // A client whose terms cannot be met is told so in indented JSON, as upstream does.
        .unwrap_or(Accepted { format: Format::Pretty, ..Accepted::JSON })
}

fn include_object(query: &Query) -> Result<IncludeObject, ApiError> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// `?pretty`, or a browser-like client that did not say.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    query.boolean("pretty").unwrap_or_else(|| {
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| agent.starts_with(p))
    })
}

#[derive(Debug, Default)]
struct Clause<'a> {
    media: &'a str,
    transform: &'a str,
    group: &'a str,
    version: &'a str,
    weight: f32,
    pretty: bool,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|m| !m.is_empty())?;
        let mut clause = Self { media, weight: 1.0, ..Self::default() };
        for part in parts {
            match part.split_once('=') {
                Some(("as", v)) => clause.transform = v,
                Some(("g", v)) => clause.group = v,
                Some(("v", v)) => clause.version = v,
                Some(("pretty", v)) => clause.pretty = v == "1",
                Some(("q", v)) => clause.weight = v.parse().unwrap_or(1.0),
                _ => {}
            }
        }
        Some(clause)
    }

    fn offer(&self, offer: Offer) -> Option<Accepted> {
        let format = match self.media {
            JSON | "*/*" | "application/*" => Format::Json,
            YAML => Format::Yaml,
            PROTOBUF if offer.protobuf => Format::Protobuf,
            // Metadata has a protobuf form whatever the kind.
            PROTOBUF if offer.transforms && self.transform.starts_with("PartialObjectMetadata") => {
                Format::Protobuf
            }
            _ => return None,
        };
        let beta = self.version == "v1beta1";
        let known = offer.transforms && self.group == "meta.k8s.io" && (beta || self.version == "v1");
        let shape = match self.transform {
            "" => Shape::Object,
            // Rows hold any JSON, which protobuf cannot tell.
            "Table" if known && format != Format::Protobuf => Shape::Table(IncludeObject::Metadata),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => Shape::Partial,
            _ => return None,
        };
        Some(Accepted { format, shape, beta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let q = Query::default();
        let check = |accept_text: &str, protobuf: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept_text.parse().unwrap());
            accept(&headers, &q, Offer { protobuf, transforms: true }).map(|a| (a.format, a.shape))
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(check(kubectl, true).unwrap(), (Format::Json, Shape::Table(IncludeObject::Metadata)));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(check(go, true).unwrap(), (Format::Protobuf, Shape::Object));
        assert_eq!(check(go, false).unwrap(), (Format::Json, Shape::Object));
        assert_eq!(check("text/html, */*;q=0.1", true).unwrap(), (Format::Json, Shape::Object));
        assert_eq!(check("text/html", true).unwrap_err().code, 406);
        assert_eq!(check("application/yaml;q=0.5, application/json;q=0.4", true).unwrap().0, Format::Yaml);
    }
}
