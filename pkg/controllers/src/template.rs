//! Pods and hashes made from pod templates. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

use crate::error::Error;

/// Label that tells the pods of different templates apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// A pod from a template, named by the server from the owner's name.
pub fn pod_from(template: &PodTemplateSpec, namespace: &str, owner_name: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(name_prefix(owner_name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The prefix of generated pod names; a name too long to be extended is used as it is.
pub fn name_prefix(owner_name: &str) -> String {
    let prefix = format!("{owner_name}-");
    if prefix.len() <= 253 { prefix } else { owner_name.to_owned() }
}

/// A stable short hash of a document and a collision count, in letters that never form words.
///
/// # Errors
/// The document has no JSON form.
pub fn hash<T: Serialize>(document: &T, collisions: Option<i32>) -> Result<String, Error> {
    // Through Value, whose maps are sorted, so that the order of keys has no influence.
    let json = serde_json::to_value(document)
        .and_then(|value| serde_json::to_vec(&value))
        .map_err(|e| Error::Config(format!("hash of a template: {e}")))?;
    let mut state: u32 = 0x811c_9dc5;
    let count = collisions.map(i32::to_le_bytes);
    for byte in json.iter().chain(count.iter().flatten()) {
        state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    Ok(safe_encode(&state.to_string()))
}

fn safe_encode(text: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|b| char::from(LETTERS[usize::from(b) % LETTERS.len()])).collect()
}

/// Whether two templates are the same but for the hash label.
pub fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
        let mut template = template.clone();
        if let Some(meta) = template.metadata.as_mut() {
            if let Some(labels) = meta.labels.as_mut() {
                labels.remove(POD_TEMPLATE_HASH);
            }
            meta.labels = meta.labels.take().filter(|l| !l.is_empty());
            meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
        }
        template
    }
    // The server stores both in one canonical form, so plain equality suffices.
    bare(a) == bare(b)
}

/// A copy of the template with one more label.
pub fn with_label(template: &PodTemplateSpec, key: &str, value: &str) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_with(ObjectMeta::default);
    meta.labels.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value.to_owned());
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hashes_are_stable_and_follow_collisions() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let first = hash(&template, None).unwrap();
        assert_eq!(first, hash(&template, None).unwrap());
        assert_ne!(first, hash(&template, Some(1)).unwrap());
        let labelled = with_label(&template, POD_TEMPLATE_HASH, &first);
        assert_ne!(hash(&labelled, None).unwrap(), first);
        assert!(same(&template, &labelled));
        let mut other = template.clone();
        other.spec.as_mut().unwrap().containers[0].image = Some("j".into());
        assert!(!same(&template, &other));
    }
}
