//! The continue token of paged lists, in upstream's form: base64url of `{v, rv, start}`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_machinery::ApiError;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// A decoded token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continue {
    /// Revision of the first page; -1 goes on at the newest one.
    pub revision: i64,
    /// First key of the next page, relative to the listed prefix.
    pub start: String,
}

/// Encodes a token.
pub fn encode(token: &Continue) -> String {
    let wire = Wire { v: "meta.k8s.io/v1".into(), rv: token.revision, start: token.start.clone() };
    // Strings and numbers always serialize.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
}

/// Decodes a token.
///
/// # Errors
/// 400 with upstream's texts.
pub fn decode(text: &str) -> Result<Continue, ApiError> {
    let bad = |what: String| ApiError::bad_request(format!("invalid continue token: {what}"));
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|e| bad(format!("continue key is not valid: {e}")))?;
    let wire: Wire = serde_json::from_slice(&bytes).map_err(|e| {
        let text = knarr_machinery::syntax::error(&bytes).unwrap_or_else(|| e.to_string());
        bad(format!("continue key is not valid: {text}"))
    })?;
    if wire.v != "meta.k8s.io/v1" {
        return Err(bad("continue key is not valid: server does not recognize this encoded version".into()));
    }
    if wire.rv == 0 {
        return Err(bad(
            "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"
                .into(),
        ));
    }
    if wire.start.is_empty() {
        return Err(
            bad("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)".into()),
        );
    }
    if wire.start.split('/').any(|part| part == ".." || part == ".") {
        return Err(bad("continue key is not valid: encoded start key includes relative paths".into()));
    }
    Ok(Continue { revision: wire.rv, start: wire.start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let token = Continue { revision: 7, start: "default/a\0".into() };
        assert_eq!(decode(&encode(&token)).unwrap(), token);
        for (text, code) in [("%%%", 400), ("e30", 400), ("", 400)] {
            assert_eq!(decode(text).unwrap_err().code, code, "{text}");
        }
    }
}
