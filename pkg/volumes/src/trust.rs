//! Trust anchors of ClusterTrustBundles, as one file of a projected volume.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
};

use k8s_openapi::{
    api::{certificates::v1::ClusterTrustBundle, core::v1::ClusterTrustBundleProjection},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use knarr_machinery::labels::Selector;
use pem::{EncodeConfig, LineEnding, Pem};

use crate::source::Source;

/// Longest label selector, as a document, that is followed.
const SELECTOR_LIMIT_BYTES: usize = 100 * 1024;

/// The anchors that a projection selects, as PEM; empty when there are none and none are needed.
pub(crate) async fn anchors(
    source: &dyn Source,
    projection: &ClusterTrustBundleProjection,
) -> Result<Vec<u8>, String> {
    let optional = projection.optional == Some(true);
    let bundles = match &projection.name {
        Some(name) => match source.trust_bundle(name).await? {
            Some(bundle) => vec![bundle],
            None if optional => Vec::new(),
            None => {
                return Err(format!(
                    "while getting ClusterTrustBundle: clustertrustbundles.certificates.k8s.io {name:?} not found"
                ));
            }
        },
        None => {
            let signer = projection.signer_name.as_deref().unwrap_or_default();
            let selector = selector(projection.label_selector.as_ref())?;
            let mut bundles = source.trust_bundles(signer).await?;
            bundles.retain(|b| selector.matches(&b.metadata.labels.clone().unwrap_or_default()));
            if bundles.is_empty() && !optional {
                return Err(
                    "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned()
                );
            }
            bundles
        }
    };
    normalized(&bundles)
}

/// No selector selects nothing, an empty one everything.
fn selector(selector: Option<&LabelSelector>) -> Result<Selector, String> {
    let Some(selector) = selector else { return Ok(Selector::nothing()) };
    let document =
        serde_json::to_value(selector).map_err(|e| format!("while parsing label selector: {e}"))?;
    let length = document.to_string().len();
    if length > SELECTOR_LIMIT_BYTES {
        return Err(format!("label selector length ({length}) is larger than {SELECTOR_LIMIT_BYTES}"));
    }
    Selector::from_label_selector(&document).map_err(|e| format!("while parsing label selector: {e}"))
}

/// Each anchor once, without headers or text between. The order is the same for the life of this process and
/// another in the next, so that nobody comes to rely on it.
fn normalized(bundles: &[Arc<ClusterTrustBundle>]) -> Result<Vec<u8>, String> {
    static ORDER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let mut anchors = BTreeSet::new();
    for bundle in bundles {
        let name = bundle.metadata.name.as_deref().unwrap_or_default();
        let blocks = pem::parse_many(&bundle.spec.trust_bundle)
            .map_err(|e| format!("while normalizing trust anchors: ClusterTrustBundle {name:?}: {e}"))?;
        anchors.extend(blocks.into_iter().map(Pem::into_contents));
    }
    let mut anchors: Vec<Vec<u8>> = anchors.into_iter().collect();
    anchors.sort_by_cached_key(|anchor| ORDER.hash_one(anchor));
    Ok(anchors.into_iter().map(certificate).collect::<String>().into_bytes())
}

/// A certificate as PEM, as upstream writes it.
pub(crate) fn certificate(der: Vec<u8>) -> String {
    pem::encode_config(&Pem::new("CERTIFICATE", der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::Known;
    use serde_json::json;

    fn bundle(name: &str, signer: Option<&str>, alive: &str, anchors: &[&str]) -> ClusterTrustBundle {
        let text: String =
            anchors.iter().map(|a| format!("junk\n{}", certificate(a.as_bytes().to_vec()))).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"alive": alive}},
            "spec": {"signerName": signer, "trustBundle": text},
        }))
        .unwrap()
    }

    fn known() -> Known {
        Known::with_bundles(vec![
            bundle("one", None, "true", &["A"]),
            bundle("s:x", Some("s/n"), "true", &["B", "C"]),
            bundle("s:y", Some("s/n"), "false", &["C", "D"]),
            bundle("t:x", Some("t/n"), "true", &["E"]),
        ])
    }

    async fn check(projection: serde_json::Value, want: Result<&[&str], &str>) {
        let projection = serde_json::from_value(projection).unwrap();
        let got = anchors(&known(), &projection).await;
        match want {
            Ok(want) => {
                let text = String::from_utf8(got.unwrap()).unwrap();
                assert!(!text.contains("junk") && !text.contains('\r'), "{text}");
                let mut found: Vec<String> = pem::parse_many(&text)
                    .unwrap()
                    .into_iter()
                    .map(|p| String::from_utf8(p.into_contents()).unwrap())
                    .collect();
                found.sort();
                assert_eq!(found, want, "{projection:?}");
            }
            Err(part) => {
                let error = got.unwrap_err();
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn selection() {
        check(json!({"name": "one", "path": "p"}), Ok(&["A"])).await;
        check(json!({"name": "none", "path": "p", "optional": true}), Ok(&[])).await;
        check(json!({"name": "none", "path": "p"}), Err("\"none\" not found")).await;
        let by_signer = |selector: serde_json::Value, optional: bool| json!({"signerName": "s/n", "labelSelector": selector, "path": "p", "optional": optional});
        check(by_signer(json!({}), false), Ok(&["B", "C", "D"])).await;
        check(by_signer(json!({"matchLabels": {"alive": "false"}}), false), Ok(&["C", "D"])).await;
        check(by_signer(json!({"matchLabels": {"alive": "no"}}), false), Err("matched zero")).await;
        check(by_signer(json!({"matchLabels": {"alive": "no"}}), true), Ok(&[])).await;
        check(by_signer(json!(null), true), Ok(&[])).await;
        check(by_signer(json!(null), false), Err("matched zero")).await;
    }

    #[tokio::test]
    async fn the_order_stays() {
        let all =
            serde_json::from_value(json!({"signerName": "s/n", "labelSelector": {}, "path": "p"})).unwrap();
        assert_eq!(anchors(&known(), &all).await, anchors(&known(), &all).await);
    }
}
