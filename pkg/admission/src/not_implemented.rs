//! NotImplemented: ours, not upstream's. A field that this server stores but no part of it obeys yet is refused by
//! name on create, so that nobody relies on it. An entry goes when its feature comes.

use async_trait::async_trait;
use knarr_machinery::{ApiError, GroupKind};
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::Plugin;
use crate::request::{Operation, Request};

/// Group, resource, kind, and the fields as JSON pointers.
const FIELDS: &[(&str, &str, &str, &[&str])] = &[(
    "apps",
    "statefulsets",
    "StatefulSet",
    &["/spec/persistentVolumeClaimRetentionPolicy/whenDeleted=Delete"],
)];

/// The plugin.
pub(crate) struct NotImplemented;

/// Fields of the table that the document sets. `path=value` means only that value is not obeyed.
fn refused(fields: &[&str], object: &Value) -> Vec<FieldError> {
    fields
        .iter()
        .filter_map(|field| {
            let (pointer, value) = field.split_once('=').map_or((*field, None), |(p, v)| (p, Some(v)));
            let found = object.pointer(pointer).filter(|v| !v.is_null())?;
            value.is_none_or(|wanted| found == wanted).then(|| {
                let path = Path::new(&pointer[1..].replace('/', "."));
                FieldError::forbidden(&path, "not supported by this server yet")
            })
        })
        .collect()
}

#[async_trait]
impl Plugin for NotImplemented {
    fn name(&self) -> &'static str {
        "NotImplemented"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let Some(object) = request.object.as_ref().filter(|_| request.subresource.is_none()) else {
            return Ok(());
        };
        for (group, resource, kind, fields) in FIELDS {
            if request.is(group, resource) {
                let errors = refused(fields, object);
                if !errors.is_empty() {
                    return Err(ApiError::invalid(&GroupKind::new(*group, *kind), request.name, &errors));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_nobody_obeys_are_named() {
        let gone = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}});
        let texts: Vec<String> = refused(FIELDS[0].3, &gone).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Forbidden: not supported by this server yet"
            ]
        );
        let retain = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain"}}});
        assert!(refused(FIELDS[0].3, &retain).is_empty());
    }
}
