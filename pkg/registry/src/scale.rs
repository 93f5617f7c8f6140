//! The `scale` subresource: an `autoscaling/v1 Scale` read from and written to the paths that a kind names.

use knarr_kinds::Kind;
use knarr_kinds::kind::ScalePaths;
use knarr_machinery::field::{FieldError, Path};
use knarr_machinery::labels::Selector;
use knarr_machinery::{ApiError, GroupKind};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::obj;
use crate::patch::Patch;
use crate::registry::{Outcome, Registry, WriteContext};
use crate::update::{Change, check_uid};

impl Registry {
    /// The scale of an object.
    ///
    /// # Errors
    /// 404 for a missing object or a kind without scale.
    pub async fn get_scale(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let paths = paths(kind)?;
        let object = self.get_value(kind, namespace, name).await?;
        check_replicas(kind, &paths, &object)?;
        Ok(to_scale(&paths, &object))
    }

    /// Sets replicas from a Scale document.
    ///
    /// # Errors
    /// As an update.
    pub async fn update_scale(&self, w: &WriteContext<'_>, scale: Value) -> Result<Outcome, ApiError> {
        self.change_scale(w, &|_| Ok(scale.clone())).await
    }

    /// Patches the Scale document.
    ///
    /// # Errors
    /// As a patch.
    pub async fn patch_scale(
        &self,
        w: &WriteContext<'_>,
        scale_kind: &Kind,
        patch: Patch<'_>,
    ) -> Result<Outcome, ApiError> {
        let inner = WriteContext { kind: scale_kind, subresource: None, ..*w };
        let warnings = Mutex::new(Vec::new());
        let patched = |scale: &Value| match &patch {
            Patch::Apply { document, .. } => {
                let mut merged = knarr_machinery::patch::merge_patch(scale.clone(), document);
                obj::meta_mut(&mut merged).remove("managedFields");
                Ok(merged)
            }
            other => {
                let mut told = Vec::new();
                let scale = other.apply(&inner, scale, &crate::registry::now(), &mut told);
                *warnings.lock() = told;
                scale
            }
        };
        let mut outcome = self.change_scale(w, &patched).await?;
        outcome.warnings.append(&mut warnings.lock());
        Ok(outcome)
    }

    async fn change_scale(
        &self,
        w: &WriteContext<'_>,
        make: &(dyn Fn(&Value) -> Result<Value, ApiError> + Sync),
    ) -> Result<Outcome, ApiError> {
        let paths = paths(w.kind)?;
        let edit = |old: &Value| {
            let scale = make(&to_scale(&paths, old))?;
            check_scale(w, &scale)?;
            check_uid(w, obj::uid(&scale), old)?;
            let mut object = old.clone();
            let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or_else(|| json!(0));
            obj::set_at(&mut object, &paths.spec_replicas, replicas);
            let given = obj::resource_version(&scale);
            if !given.is_empty() {
                obj::set_meta(&mut object, "resourceVersion", given);
            }
            Ok(object)
        };
        // The rules see a write to the main resource that touches replicas only; ownership is told to `scale`.
        let outcome = self.change(w, Change::Edit(&edit)).await?;
        Ok(Outcome { object: to_scale(&paths, &outcome.object), ..outcome })
    }
}

/// The scale of an object, where its kind has one.
pub fn scale_of(kind: &Kind, object: &Value) -> Option<Value> {
    Some(to_scale(&kind.rules.scale_paths()?, object))
}

/// Takes the replicas of a scale into the object.
pub fn take_scale(kind: &Kind, object: &mut Value, scale: &Value) {
    if let (Some(paths), Some(replicas)) = (kind.rules.scale_paths(), scale.pointer("/spec/replicas")) {
        obj::set_at(object, &paths.spec_replicas, replicas.clone());
    }
}

fn paths(kind: &Kind) -> Result<ScalePaths, ApiError> {
    kind.rules.scale_paths().ok_or_else(ApiError::path_not_found)
}

/// A custom resource without the field cannot be scaled.
fn check_replicas(kind: &Kind, paths: &ScalePaths, object: &Value) -> Result<(), ApiError> {
    if kind.info.custom && obj::at(object, &paths.spec_replicas).is_none() {
        let text = format!("the spec replicas field \"{}\" does not exist", paths.spec_replicas);
        return Err(ApiError::internal(text));
    }
    Ok(())
}

fn check_scale(w: &WriteContext<'_>, scale: &Value) -> Result<(), ApiError> {
    let kind = GroupKind::new("autoscaling", "Scale");
    let name = obj::name(scale);
    if !name.is_empty() && name != w.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            w.name
        )));
    }
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    // The rules of a custom resource tell it by its own path.
    if replicas < 0 && !w.kind.info.custom {
        let path = Path::new("spec").child("replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(&kind, w.name, &[error]));
    }
    Ok(())
}

fn to_scale(paths: &ScalePaths, object: &Value) -> Value {
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get("metadata").and_then(|m| m.get(field)) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let number = |path: &str| obj::at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if let Some(selector) = paths.selector.as_deref().and_then(|p| selector_text(object, p)) {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    let replicas = number(&paths.spec_replicas);
    if replicas != 0 {
        spec["replicas"] = replicas.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn selector_text(object: &Value, path: &str) -> Option<String> {
    match obj::at(object, path)? {
        Value::String(text) => Some(text.clone()),
        selector @ Value::Object(map) => {
            if map.contains_key("matchLabels") || map.contains_key("matchExpressions") {
                Selector::from_label_selector(selector).ok().map(|s| s.to_string())
            } else {
                let pairs: Vec<String> =
                    map.iter().filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?))).collect();
                Some(pairs.join(","))
            }
        }
        _ => None,
    }
}
