//! UPDATE and PATCH: one read-modify-write loop; what differs is how the new document is made.

use knarr_kinds::Scope;
use knarr_machinery::field::Path;
use knarr_machinery::{ApiError, meta};
use serde_json::Value;

use crate::create::{check_identity, is_event, tidy};
use crate::hooks::Operation;
use crate::obj;
use crate::patch::Patch;
use crate::registry::{ATTEMPTS, Current, Outcome, Registry, WriteContext, new_uid, now};

/// How the new document is made from the present one.
pub enum Change<'a> {
    /// The whole document (PUT), decoded and pruned.
    Replace(Value),
    /// A patch.
    Patch(Patch<'a>),
    /// A function of the present document, for subresources that edit (binding, scale, finalize).
    Edit(&'a (dyn Fn(&Value) -> Result<Value, ApiError> + Sync)),
}

impl Registry {
    /// Replaces an object.
    ///
    /// # Errors
    /// As upstream: 404, 409 Conflict, 422 with all field errors, what admission refuses.
    pub async fn update(&self, w: &WriteContext<'_>, mut object: Value) -> Result<Outcome, ApiError> {
        if w.kind.info.custom && obj::name(&object).is_empty() {
            let text = format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                w.name
            );
            return Err(ApiError::bad_request(text));
        }
        check_identity(w, &mut object)?;
        self.change(w, Change::Replace(object)).await
    }

    /// Runs the read-modify-write loop.
    ///
    /// # Errors
    /// As [`Registry::update`].
    pub async fn change(&self, w: &WriteContext<'_>, change: Change<'_>) -> Result<Outcome, ApiError> {
        let key = self.key(w.kind, w.namespace, w.name)?;
        for attempt in 0..ATTEMPTS {
            let Some(current) = self.current(w, &key, attempt > 0).await? else {
                return self.create_on_update(w, change).await;
            };
            if let Some(outcome) = self.try_change(w, &key, current, &change).await? {
                return Ok(outcome);
            }
        }
        Err(ApiError::modified(&w.resource(), w.name))
    }

    async fn create_on_update(&self, w: &WriteContext<'_>, change: Change<'_>) -> Result<Outcome, ApiError> {
        let missing = ApiError::not_found(&w.resource(), w.name);
        if w.subresource.is_some() {
            return Err(missing);
        }
        match change {
            Change::Replace(object) if w.kind.rules.create_on_update() => {
                if !obj::resource_version(&object).is_empty() {
                    return Err(missing);
                }
                self.create(w, object).await
            }
            Change::Patch(Patch::Apply { document, .. }) => {
                let mut object = document.clone();
                if !obj::uid(&object).is_empty() {
                    return Err(ApiError::conflict(
                        &w.resource(),
                        w.name,
                        &format!(
                            "uid mismatch: the provided object specified uid {}, and no existing object was found",
                            obj::uid(&object)
                        ),
                    ));
                }
                obj::set_meta(&mut object, "resourceVersion", "");
                crate::patch::check_applied(w, &mut object)?;
                let object = crate::managed::apply(w, None, &object, false, &now())?;
                let mut object = object;
                if w.kind.info.scope == Scope::Namespaced {
                    obj::set_meta(&mut object, "namespace", w.namespace);
                }
                w.kind.rules.default(&mut object);
                self.create_prepared(w, object).await
            }
            _ => Err(missing),
        }
    }

    /// One attempt; None is a conflict that the change may survive.
    async fn try_change(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        current: Current,
        change: &Change<'_>,
    ) -> Result<Option<Outcome>, ApiError> {
        let old = &current.value;
        let (time, uid) = (now(), new_uid());
        let mut warnings = Vec::new();
        let Some(mut object) = self.make(w, old, change, &time, &mut warnings)? else {
            return Err(ApiError::modified(&w.resource(), w.name));
        };
        check_versions(w, &object, old, change)?;
        let mut a = w.admission(Operation::Update, Some(object), Some(old));
        w.hooks.mutate(&mut a).await?;
        object = a.object.take().unwrap_or_default();
        warnings.append(&mut a.warnings);
        drop(a);
        tidy(w, &mut object)?;
        w.kind.rules.default(&mut object);
        let ctx = w.ctx(&time, &uid);
        w.kind.rules.prepare_update(&ctx, &mut object, old);
        keep_system_fields(&mut object, old);
        count_generation(w, &mut object, old);
        let mut a = w.admission(Operation::Update, Some(object), Some(old));
        let settle = w.hooks.allocate(&mut a).await?;
        object = a.object.take().unwrap_or_default();
        drop(a);
        let result = self.check_and_put(w, key, &ctx, &mut object, &current, &mut warnings).await;
        if let Some(settle) = settle {
            settle(matches!(result, Ok(true)) && !w.dry_run);
        }
        match result? {
            true => Ok(Some(Outcome { object, created: false, deleted: false, warnings })),
            false if matches!(change, Change::Replace(o) if !obj::resource_version(o).is_empty()) => {
                Err(ApiError::modified(&w.resource(), w.name))
            }
            false => Ok(None),
        }
    }

    fn make(
        &self,
        w: &WriteContext<'_>,
        old: &Value,
        change: &Change<'_>,
        time: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Value>, ApiError> {
        let mut object = match change {
            Change::Replace(object) => object.clone(),
            Change::Edit(edit) => edit(old)?,
            Change::Patch(patch) => {
                let patched = patch.apply(w, old, time, warnings)?;
                if let Patch::Apply { .. } = patch {
                    return Ok(Some(patched));
                }
                patched
            }
        };
        w.kind.rules.default(&mut object);
        warnings.extend(meta::dedup_owner_references(&mut object));
        Ok(Some(crate::managed::update(w, Some(old), object, time)))
    }

    /// Validates and writes; `false` is a conflict.
    async fn check_and_put(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        ctx: &knarr_kinds::Ctx<'_>,
        object: &mut Value,
        current: &Current,
        warnings: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        let old = &current.value;
        let namespaced = w.kind.info.scope == Scope::Namespaced;
        let check_name = |name: &str, prefix: bool| w.kind.rules.validate_name(name, prefix);
        let path = Path::new("metadata");
        let mut errors = meta::validate_object_meta(object, namespaced, &check_name, &path);
        let changed = meta::validate_object_meta_update(object, old, &path);
        errors.extend(changed.iter().cloned());
        dedup(&mut errors);
        // Upstream's strategies look at the metadata once more; the message tells each error once.
        errors.extend(changed);
        errors.extend(w.kind.rules.validate_update(ctx, object, old));
        if !errors.is_empty() {
            return Err(w.invalid(w.name, &errors));
        }
        warnings.extend(w.kind.rules.warnings(ctx, object, Some(old)));
        let mut a = w.admission(Operation::Update, Some(std::mem::take(object)), Some(old));
        let verdict = w.hooks.validate(&mut a).await;
        warnings.append(&mut a.warnings);
        *object = a.object.take().unwrap_or_default();
        verdict?;
        if same_but_times(object, old) {
            *object = old.clone();
            if !finished(w, object) {
                return Ok(true);
            }
        }
        if w.dry_run {
            return Ok(true);
        }
        if finished(w, object) {
            return self.remove_finished(w, key, object, current.revision).await;
        }
        let lease = match (is_event(w), current.lease) {
            (true, 0) => self.leases().event_lease().await?,
            (_, lease) => lease,
        };
        let Some(revision) = self.put(w.kind, key, object, current.revision, lease).await? else {
            return Ok(false);
        };
        self.as_read(w, object).await?;
        obj::set_meta(object, "resourceVersion", &revision.to_string());
        Ok(true)
    }

    /// The last finalizer of a deleted object is gone: so goes the object.
    async fn remove_finished(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        object: &Value,
        revision: i64,
    ) -> Result<bool, ApiError> {
        if self.remove(key, revision).await?.is_none() {
            return Ok(false);
        }
        w.hooks.deleted(w.kind, object);
        Ok(true)
    }
}

/// Whether a deleted object has nothing left to wait for.
pub(crate) fn finished(w: &WriteContext<'_>, object: &Value) -> bool {
    if obj::deletion_timestamp(object).is_none() || !obj::finalizers(object).is_empty() {
        return false;
    }
    if is_namespace(w) {
        return obj::strings(object.pointer("/spec/finalizers")).is_empty();
    }
    object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

pub(crate) fn is_namespace(w: &WriteContext<'_>) -> bool {
    w.kind.info.gvk.group.is_empty() && w.kind.info.plural == "namespaces"
}

fn dedup(errors: &mut Vec<knarr_machinery::FieldError>) {
    let mut seen: Vec<String> = Vec::new();
    errors.retain(|e| {
        let text = e.to_string();
        let fresh = !seen.contains(&text);
        seen.push(text);
        fresh
    });
}

fn check_versions(
    w: &WriteContext<'_>,
    object: &Value,
    old: &Value,
    change: &Change<'_>,
) -> Result<(), ApiError> {
    let given = obj::resource_version(object);
    if given.is_empty() {
        let whole = matches!(
            change,
            Change::Replace(_) | Change::Patch(Patch::Json(_) | Patch::Merge(..) | Patch::Strategic(..))
        );
        if whole && !w.kind.rules.unconditional_update() {
            let error = knarr_machinery::FieldError::invalid(
                &Path::new("metadata").child("resourceVersion"),
                0,
                "must be specified for an update",
            );
            let resource = w.resource();
            let named = knarr_machinery::GroupKind::new(resource.group, resource.resource);
            return Err(ApiError::invalid(&named, w.name, &[error]));
        }
    } else if given.parse::<u64>().is_err() {
        return Err(ApiError::unexplained(format!("strconv.ParseUint: parsing \"{given}\": invalid syntax")));
    } else if given != obj::resource_version(old) && given != "0" {
        return Err(ApiError::modified(&w.resource(), w.name));
    }
    if matches!(change, Change::Replace(_)) { check_uid(w, obj::uid(object), old) } else { Ok(()) }
}

/// A UID that is given must be the object's.
pub(crate) fn check_uid(w: &WriteContext<'_>, given: &str, old: &Value) -> Result<(), ApiError> {
    let uid = obj::uid(old);
    if given.is_empty() || given == uid {
        return Ok(());
    }
    let text = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
    Err(ApiError::conflict(&w.resource(), w.name, &text))
}

/// Clients cannot change what the system sets.
fn keep_system_fields(object: &mut Value, old: &Value) {
    for field in ["creationTimestamp", "resourceVersion", "selfLink", "generateName"] {
        obj::copy_meta(object, old, field);
    }
    // Left out they are as they were; another value is refused.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if object.pointer(&format!("/metadata/{field}")).is_none_or(Value::is_null) {
            obj::copy_meta(object, old, field);
        }
    }
}

fn count_generation(w: &WriteContext<'_>, object: &mut Value, old: &Value) {
    if !w.kind.info.has_generation {
        return;
    }
    let custom = w.kind.info.custom;
    let status_only = custom && w.subresource == Some("status");
    // Without a status subresource the status of a custom resource is a field like any other.
    let whole_status = custom && w.kind.info.subresource("status").is_none();
    // A binding sets the node's name, which does not count as a change of the spec.
    let differs = !status_only
        && w.subresource != Some("binding")
        && (spec_differs(object, old) || (whole_status && object.get("status") != old.get("status")));
    let generation = obj::generation(old) + i64::from(differs);
    obj::meta_mut(object).insert("generation".into(), generation.into());
}

fn spec_differs(a: &Value, b: &Value) -> bool {
    fn rest(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
        v.as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
    }
    !(rest(a).all(|(k, v)| b.get(k) == Some(v)) && rest(b).all(|(k, _)| a.get(k).is_some()))
}

/// Whether two documents differ in the times of managedFields at most: such a write is none.
fn same_but_times(object: &Value, old: &Value) -> bool {
    fn split(v: &Value) -> (Value, Vec<Value>) {
        let mut v = v.clone();
        let mut managed = match obj::meta_mut(&mut v).remove("managedFields") {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        for entry in &mut managed {
            obj::map_mut(entry).remove("time");
        }
        (v, managed)
    }
    // Cheap first: the parts that usually differ.
    if object.get("spec") != old.get("spec") || object.get("status") != old.get("status") {
        return false;
    }
    split(object) == split(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tells_spec_changes() {
        let a = json!({"metadata":{"x":1},"spec":{"a":1},"status":{}});
        assert!(!spec_differs(&a, &json!({"metadata":{},"spec":{"a":1}})));
        assert!(spec_differs(&a, &json!({"spec":{"a":2}})));
        assert!(spec_differs(&a, &json!({})));
        assert!(spec_differs(&json!({}), &a));
    }

    #[test]
    fn managed_times_are_no_change() {
        let a = json!({"metadata":{"managedFields":[{"manager":"a","time":"1"}]}});
        let b = json!({"metadata":{"managedFields":[{"manager":"a","time":"2"}]}});
        assert!(same_but_times(&a, &b));
        assert!(!same_but_times(&a, &json!({"metadata":{"managedFields":[{"manager":"b"}]}})));
    }
}
