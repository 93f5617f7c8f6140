//! Label selectors of typed objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use knarr_machinery::labels::Selector;

/// A selector document; none selects nothing, and so does one that is malformed (the API server refuses those).
pub fn selector_of(selector: Option<&LabelSelector>) -> Selector {
    let Some(selector) = selector else { return Selector::nothing() };
    serde_json::to_value(selector)
        .map_err(|e| e.to_string())
        .and_then(|value| Selector::from_label_selector(&value))
        .unwrap_or_else(|_| Selector::nothing())
}
