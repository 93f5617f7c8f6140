//! CREATE.

use knarr_kinds::Scope;
use knarr_machinery::field::Path;
use knarr_machinery::{ApiError, meta};
use rand::Rng as _;
use serde_json::Value;

use crate::hooks::Operation;
use crate::obj;
use crate::registry::{Outcome, Registry, WriteContext, new_uid, now};

/// Letters of generated names: no vowels and no look-alikes, as upstream.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Generated names that are tried before AlreadyExists is told, as upstream.
const NAME_ATTEMPTS: usize = 8;
const MAX_GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;

impl Registry {
    /// Creates an object of the request's version.
    ///
    /// # Errors
    /// As upstream: 400 for mismatched names, 409 AlreadyExists, 422 with all field errors, what admission refuses.
    pub async fn create(&self, w: &WriteContext<'_>, mut object: Value) -> Result<Outcome, ApiError> {
        check_identity(w, &mut object)?;
        if !matches!(obj::resource_version(&object), "" | "0") {
            return Err(ApiError::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "uid", "selfLink"] {
            obj::set_meta(&mut object, field, "");
        }
        w.kind.rules.default(&mut object);
        let repeated = meta::dedup_owner_references(&mut object);
        // managedFields tell what the client sent and what was defaulted, not what admission adds.
        let object = crate::managed::update(w, None, object, &now());
        let mut outcome = self.create_prepared(w, object).await?;
        outcome.warnings.extend(repeated);
        Ok(outcome)
    }

    /// The part of a create that follows decoding: admission, preparation, validation, storage.
    pub(crate) async fn create_prepared(
        &self,
        w: &WriteContext<'_>,
        object: Value,
    ) -> Result<Outcome, ApiError> {
        let name = obj::name(&object).to_string();
        if w.kind.rules.terminating() {
            let text = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::forbidden(&w.resource(), &name, text));
        }
        let mut admission = w.admission(Operation::Create, Some(object), None);
        w.hooks.mutate(&mut admission).await?;
        let mut object = admission.object.take().unwrap_or_default();
        tidy(w, &mut object)?;
        w.kind.rules.default(&mut object);
        if name.is_empty() {
            return self.create_generated(w, object, admission.warnings).await;
        }
        self.create_named(w, object, admission.warnings).await
    }

    async fn create_generated(
        &self,
        w: &WriteContext<'_>,
        object: Value,
        warnings: Vec<String>,
    ) -> Result<Outcome, ApiError> {
        let base = obj::meta_str(&object, "generateName").to_string();
        let mut last = None;
        for _ in 0..NAME_ATTEMPTS {
            let mut named = object.clone();
            if !base.is_empty() && obj::name(&named).is_empty() {
                obj::set_meta(&mut named, "name", &generate_name(&base));
            }
            match self.create_named(w, named, warnings.clone()).await {
                Err(e) if e.reason == "AlreadyExists" && !base.is_empty() => last = Some(e),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| ApiError::internal("no free name was found")))
    }

    async fn create_named(
        &self,
        w: &WriteContext<'_>,
        mut object: Value,
        mut warnings: Vec<String>,
    ) -> Result<Outcome, ApiError> {
        let (time, uid) = (now(), new_uid());
        let ctx = w.ctx(&time, &uid);
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
            obj::set_meta(&mut object, field, "");
        }
        obj::set_meta(&mut object, "creationTimestamp", &time);
        obj::set_meta(&mut object, "uid", &new_uid());
        w.kind.rules.prepare_create(&ctx, &mut object);
        if w.kind.info.has_generation {
            obj::meta_mut(&mut object).insert("generation".into(), 1.into());
        }
        let settle = {
            let mut a = w.admission(Operation::Create, Some(object), None);
            let settle = w.hooks.allocate(&mut a).await?;
            object = a.object.take().unwrap_or_default();
            settle
        };
        let result = self.validate_and_store(w, &ctx, &mut object, &mut warnings).await;
        if let Some(settle) = settle {
            settle(result.is_ok() && !w.dry_run);
        }
        result?;
        Ok(Outcome { object, created: true, deleted: false, warnings })
    }

    async fn validate_and_store(
        &self,
        w: &WriteContext<'_>,
        ctx: &knarr_kinds::Ctx<'_>,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let name = obj::name(object).to_string();
        let namespaced = w.kind.info.scope == Scope::Namespaced;
        let check_name = |name: &str, prefix: bool| w.kind.rules.validate_name(name, prefix);
        let mut errors = meta::validate_object_meta(object, namespaced, &check_name, &Path::new("metadata"));
        errors.extend(w.kind.rules.validate(ctx, object));
        if !errors.is_empty() {
            return Err(w.invalid(&name, &errors));
        }
        warnings.extend(w.kind.rules.warnings(ctx, object, None));
        let key = self.key(w.kind, w.namespace, &name)?;
        let mut a = w.admission(Operation::Create, Some(std::mem::take(object)), None);
        a.name = &name;
        let verdict = w.hooks.validate(&mut a).await;
        warnings.append(&mut a.warnings);
        *object = a.object.take().unwrap_or_default();
        verdict?;
        if w.dry_run {
            return match self.current(w, &key, false).await? {
                Some(_) => Err(ApiError::already_exists(&w.resource(), &name)),
                None => Ok(()),
            };
        }
        let lease = if is_event(w) { self.leases().event_lease().await? } else { 0 };
        match self.put(w.kind, &key, object, 0, lease).await? {
            Some(revision) => {
                self.as_read(w, object).await?;
                obj::set_meta(object, "resourceVersion", &revision.to_string());
                Ok(())
            }
            None => Err(self.exists(w, &key, &name).await?),
        }
    }

    /// What was written as it will be read: a custom resource that is stored in another version loses what that one
    /// does not know.
    pub(crate) async fn as_read(&self, w: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
        if w.kind.info.custom && !crate::registry::is_stored_version(w.kind) {
            let stored = self.to_stored(w.kind, object).await?;
            *object = self.to_version(w.kind, stored).await?;
        }
        Ok(())
    }

    /// AlreadyExists; for an object that is on its way out a text that says so.
    async fn exists(&self, w: &WriteContext<'_>, key: &str, name: &str) -> Result<ApiError, ApiError> {
        let mut error = ApiError::already_exists(&w.resource(), name);
        if let Some(current) = self.current(w, key, true).await?
            && obj::deletion_timestamp(&current.value).is_some()
        {
            error.message = format!("object is being deleted: {}", error.message);
        }
        Ok(error)
    }
}

/// Brings what admission made back to the form that decoding gives: nulls it left behind are dropped.
pub(crate) fn tidy(w: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.iter().any(has_null),
            Value::Object(map) => map.values().any(has_null),
            _ => false,
        }
    }
    if !w.kind.info.custom && has_null(object) {
        w.kind.rules.prune(&w.kind.info.types, object)?;
    }
    Ok(())
}

pub(crate) fn is_event(w: &WriteContext<'_>) -> bool {
    w.kind.info.storage.as_ref().is_some_and(|s| s.resource.resource == "events" && !w.kind.info.custom)
}

/// The document's type, name and namespace must be the request's.
pub(crate) fn check_identity(w: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    check_type(w, object)?;
    let namespaced = w.kind.info.scope == Scope::Namespaced;
    if namespaced {
        let given = obj::namespace(object);
        if given.is_empty() {
            let namespace = w.namespace.to_string();
            obj::set_meta(object, "namespace", &namespace);
        } else if given != w.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    } else if !obj::namespace(object).is_empty() {
        obj::set_meta(object, "namespace", "");
    }
    if !w.name.is_empty() {
        let given = obj::name(object);
        if given.is_empty() {
            obj::set_meta(object, "name", w.name);
        } else if given != w.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({})",
                w.name
            )));
        }
    }
    Ok(())
}

fn check_type(w: &WriteContext<'_>, object: &mut Value) -> Result<(), ApiError> {
    let gvk = &w.kind.info.gvk;
    let api_version = gvk.group_version().to_string();
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("").to_string();
    let (given_version, given_kind) = (text("apiVersion"), text("kind"));
    let same = (given_version.is_empty() || given_version == api_version)
        && (given_kind.is_empty() || given_kind == gvk.kind);
    if !same {
        if given_version != api_version && !given_version.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
            )));
        }
        return Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: converting ({given_version}.{given_kind}) to ({api_version}.{}): unknown conversion",
            given_kind, gvk.version, gvk.kind, gvk.kind
        )));
    }
    obj::set_gvk(object, gvk);
    Ok(())
}

/// `base` and five random letters; the base is cut so that the name fits a DNS label.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_string();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_name("web-").len(), 9);
        let long = "x".repeat(200);
        assert_eq!(generate_name(&long).len(), 63);
        assert!(generate_name("a-").starts_with("a-"));
    }
}
