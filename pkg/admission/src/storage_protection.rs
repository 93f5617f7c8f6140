//! StorageObjectInUseProtection: claims, volumes and attribute classes are not deleted while in use.

use async_trait::async_trait;
use knarr_machinery::{ApiError, meta};

use crate::Plugin;
use crate::request::{Operation, Request};

const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

/// The plugin.
pub(crate) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let Some((_, _, finalizer)) = FINALIZERS.iter().find(|(g, r, _)| request.is_main(g, r)) else {
            return Ok(());
        };
        if let Some(object) = request.object.as_mut() {
            let mut all: Vec<String> = meta::finalizers(object).into_iter().map(str::to_string).collect();
            if !all.iter().any(|f| f == finalizer) {
                all.push((*finalizer).to_string());
                meta::set_field(object, "finalizers", all.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use serde_json::json;

    #[tokio::test]
    async fn finalizers() {
        let mut case = Case::new(Operation::Create, "", "PersistentVolumeClaim", "persistentvolumeclaims");
        case.object = Some(json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}));
        let mut request = case.request();
        StorageObjectInUseProtection.mutate(&mut request).await.unwrap();
        StorageObjectInUseProtection.mutate(&mut request).await.unwrap();
        assert_eq!(meta::finalizers(request.new_object()), ["x/y", "kubernetes.io/pvc-protection"]);
    }
}
