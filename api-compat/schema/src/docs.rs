//! The documented OpenAPI schemas, compressed in the program.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::value::RawValue;

/// The embedded documentation cannot be read (a broken build).
#[derive(Debug, thiserror::Error)]
pub enum DocsError {
    /// The compressed stream is damaged.
    #[error("embedded OpenAPI schemas: {0}")]
    Compression(String),
    /// It does not hold the JSON expected.
    #[error("embedded OpenAPI schemas: {0}")]
    Json(#[from] serde_json::Error),
}

static PACKED: &[u8] = include_bytes!("../data/openapi.json.zst");

/// The component schemas of all built-in definitions by definition name, decompressed anew at each call: keep what is
/// made of them, not them (1.7 MB).
///
/// References are `#/components/schemas/<name>`, with `description` and `default` beside them: version 2 documents want
/// that, version 3 documents want such a reference inside `allOf`. `x-kubernetes-v2-schema`, where present, holds what
/// a version 2 document says instead of `oneOf`. `x-kubernetes-group-version-kind` names every kind of upstream's
/// scheme that has the definition, so it may name versions that are not served.
///
/// # Errors
/// The embedded data are damaged.
pub fn openapi_schemas() -> Result<BTreeMap<String, Box<RawValue>>, DocsError> {
    let mut packed = PACKED;
    let mut text = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(&mut packed)
        .map_err(|e| DocsError::Compression(e.to_string()))?
        .read_to_end(&mut text)
        .map_err(|e| DocsError::Compression(e.to_string()))?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_served_kind_is_described() {
        let start = std::time::Instant::now();
        let all = openapi_schemas().unwrap();
        eprintln!("{} schemas in {:?}", all.len(), start.elapsed());
        let pod: Value = serde_json::from_str(all["io.k8s.api.core.v1.Pod"].get()).unwrap();
        assert!(pod["description"].as_str().unwrap().contains("Pod"));
        assert_eq!(pod["properties"]["spec"]["default"], serde_json::json!({}));
        let ports: Value = serde_json::from_str(all["io.k8s.api.core.v1.ServiceSpec"].get()).unwrap();
        assert_eq!(
            ports["properties"]["ports"]["x-kubernetes-list-map-keys"],
            serde_json::json!(["port", "protocol"])
        );
        // Everything that is refered to is there.
        for (name, schema) in &all {
            for part in schema.get().split("#/components/schemas/").skip(1) {
                let target = part.split('"').next().unwrap();
                assert!(all.contains_key(target), "{name} refers to {target}");
            }
        }
    }
}
