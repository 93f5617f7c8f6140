//! DELETE and DELETECOLLECTION: grace, finalizers, propagation, preconditions.

use knarr_kinds::{DeletePlan, Kind};
use knarr_machinery::ApiError;
use knarr_machinery::field::{FieldError, Path};
use serde_json::{Value, json};

use crate::hooks::Operation;
use crate::list::ListOptions;
use crate::obj;
use crate::registry::{ATTEMPTS, Current, Outcome, Registry, WriteContext, now, rfc3339};
use crate::update::is_namespace;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay and lose their owner.
    Orphan,
    /// Dependents go after the owner.
    Background,
    /// The owner waits for its dependents.
    Foreground,
}

/// DeleteOptions.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Requested grace in seconds.
    pub grace_period_seconds: Option<i64>,
    /// Required UID.
    pub uid: Option<String>,
    /// Required resourceVersion.
    pub resource_version: Option<String>,
    /// Propagation.
    pub propagation: Option<Propagation>,
    /// The old form of propagation.
    pub orphan_dependents: Option<bool>,
}

impl DeleteOptions {
    /// Reads the document.
    ///
    /// # Errors
    /// 422 with all wrong fields.
    pub fn parse(options: &Value) -> Result<Self, ApiError> {
        let root = Path::new("");
        let mut errors = Vec::new();
        let propagation = match options.get("propagationPolicy").and_then(Value::as_str) {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let valid = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported_in_order(
                    &root.child("propagationPolicy"),
                    other,
                    &valid,
                ));
                None
            }
        };
        let orphan_dependents = options.get("orphanDependents").and_then(Value::as_bool);
        if propagation.is_some() && orphan_dependents.is_some() {
            errors.push(FieldError::invalid(
                &root.child("propagationPolicy"),
                options.get("propagationPolicy").cloned().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        if !errors.is_empty() {
            let kind = knarr_machinery::GroupKind::new("meta.k8s.io", "DeleteOptions");
            return Err(ApiError::invalid(&kind, "", &errors));
        }
        let precondition = |field: &str| {
            options
                .get("preconditions")
                .and_then(|p| p.get(field))
                .and_then(Value::as_str)
                .map(str::to_string)
        };
        Ok(Self {
            // Negative grace is one second, as upstream.
            grace_period_seconds: options
                .get("gracePeriodSeconds")
                .and_then(Value::as_i64)
                .map(|g| if g < 0 { 1 } else { g }),
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
            orphan_dependents,
        })
    }
}

/// What one look at an object decides.
enum Step {
    /// It is removed now.
    Remove,
    /// This form is written; it goes later.
    Mark(Value),
    /// It is already on its way: nothing changes.
    Pending,
}

impl Registry {
    /// Deletes one object.
    ///
    /// # Errors
    /// 404, 409 for preconditions, what admission refuses.
    pub async fn delete(&self, w: &WriteContext<'_>, options: &DeleteOptions) -> Result<Outcome, ApiError> {
        let key = self.key(w.kind, w.namespace, w.name)?;
        for attempt in 0..ATTEMPTS {
            let Some(current) = self.current(w, &key, attempt > 0).await? else {
                return Err(ApiError::not_found(&w.resource(), w.name));
            };
            if let Some(outcome) = self.try_delete(w, &key, current, options).await? {
                return Ok(outcome);
            }
        }
        Err(ApiError::modified(&w.resource(), w.name))
    }

    async fn try_delete(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        current: Current,
        options: &DeleteOptions,
    ) -> Result<Option<Outcome>, ApiError> {
        let old = &current.value;
        check_preconditions(w, old, options)?;
        let mut a = w.admission(Operation::Delete, None, Some(old));
        w.hooks.mutate(&mut a).await?;
        w.hooks.validate(&mut a).await?;
        let warnings = std::mem::take(&mut a.warnings);
        drop(a);
        if obj::deletion_timestamp(old).is_none() {
            let mut object = old.clone();
            if w.kind.rules.begin_delete(&mut object, &now()) {
                return self.mark(w, key, object, &current, warnings).await;
            }
        }
        match decide(w, old, options) {
            Step::Pending => {
                Ok(Some(Outcome { object: old.clone(), created: false, deleted: false, warnings }))
            }
            Step::Mark(object) => self.mark(w, key, object, &current, warnings).await,
            Step::Remove => {
                let mut object = old.clone();
                if !w.dry_run {
                    let Some(revision) = self.remove(key, current.revision).await? else { return Ok(None) };
                    obj::set_meta(&mut object, "resourceVersion", &revision.to_string());
                    w.hooks.deleted(w.kind, old);
                }
                let object = if returns_object(w.kind) { object } else { success(w, old) };
                Ok(Some(Outcome { object, created: false, deleted: true, warnings }))
            }
        }
    }

    /// Writes the form of an object that goes later; None is a conflict.
    async fn mark(
        &self,
        w: &WriteContext<'_>,
        key: &str,
        mut object: Value,
        current: &Current,
        warnings: Vec<String>,
    ) -> Result<Option<Outcome>, ApiError> {
        if !w.dry_run && object != current.value {
            let put = self.put(w.kind, key, &object, current.revision, current.lease).await?;
            let Some(revision) = put else { return Ok(None) };
            obj::set_meta(&mut object, "resourceVersion", &revision.to_string());
        }
        Ok(Some(Outcome { object, created: false, deleted: false, warnings }))
    }

    /// Deletes all objects that a list selects; returns them as they were.
    ///
    /// # Errors
    /// The first failure that is not "already gone".
    pub async fn delete_collection(
        &self,
        w: &WriteContext<'_>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(Vec<Value>, i64), ApiError> {
        let page = self.list(w.kind, w.namespace, list).await?;
        let mut gone = Vec::with_capacity(page.entries.len());
        for entry in &page.entries {
            let one = WriteContext { name: &entry.name, namespace: &entry.namespace, ..*w };
            match self.delete(&one, options).await {
                Ok(_) => gone.push(crate::registry::read(w.kind, entry)?),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok((gone, page.revision))
    }
}

fn check_preconditions(w: &WriteContext<'_>, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let gvk = &w.kind.info.gvk;
    let named = knarr_machinery::GroupResource::new(gvk.group.clone(), gvk.kind.clone());
    let conflict = |text: String| Err(ApiError::conflict(&named, w.name, &text));
    if let Some(uid) = &options.uid
        && uid != obj::uid(old)
    {
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            obj::uid(old)
        ));
    }
    if let Some(version) = &options.resource_version
        && version != obj::resource_version(old)
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            obj::resource_version(old)
        ));
    }
    Ok(())
}

fn decide(w: &WriteContext<'_>, old: &Value, options: &DeleteOptions) -> Step {
    if is_namespace(w) {
        return decide_namespace(w, old, options);
    }
    let mut object = old.clone();
    let present_grace = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let mut grace = None;
    if let Some(since) = obj::deletion_timestamp(old) {
        match (present_grace.filter(|g| *g > 0), options.grace_period_seconds) {
            // Deleting with no grace left: only finalizers hold it.
            (None, _) => {}
            (Some(present), Some(wanted)) if wanted < present => {
                let moved = since
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .and_then(|t| t.checked_sub(jiff::SignedDuration::from_secs(present - wanted)).ok());
                let stamp = moved.map_or_else(now, rfc3339);
                set_deletion(&mut object, &stamp, wanted);
                grace = Some(wanted);
            }
            _ => return Step::Pending,
        }
    } else if let DeletePlan::Graceful(seconds) = w.kind.rules.delete_plan(old, options.grace_period_seconds)
    {
        let stamp = jiff::Timestamp::now()
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .map_or_else(|_| now(), rfc3339);
        set_deletion(&mut object, &stamp, seconds);
        raise_generation(&mut object);
        grace = Some(seconds);
    }
    let finalizers = wanted_finalizers(w.kind, old, options);
    obj::set_finalizers(&mut object, &finalizers);
    match (grace, finalizers.is_empty()) {
        (Some(seconds), true) if seconds > 0 => Step::Mark(object),
        (Some(_), false) => Step::Mark(object),
        (_, true) => Step::Remove,
        (None, false) => {
            if obj::deletion_timestamp(old).is_none() {
                raise_generation(&mut object);
                set_deletion(&mut object, &now(), 0);
            } else {
                obj::meta_mut(&mut object).insert("deletionGracePeriodSeconds".into(), 0.into());
            }
            Step::Mark(object)
        }
    }
}

/// A namespace is marked first, and goes when its `spec.finalizers` are empty.
fn decide_namespace(w: &WriteContext<'_>, old: &Value, options: &DeleteOptions) -> Step {
    if obj::deletion_timestamp(old).is_none() {
        let mut object = old.clone();
        obj::set_meta(&mut object, "deletionTimestamp", &now());
        obj::set_at(&mut object, "status.phase", json!("Terminating"));
        obj::set_finalizers(&mut object, &wanted_finalizers(w.kind, old, options));
        return Step::Mark(object);
    }
    let held = !obj::strings(old.pointer("/spec/finalizers")).is_empty() || !obj::finalizers(old).is_empty();
    if held { Step::Pending } else { Step::Remove }
}

fn set_deletion(object: &mut Value, stamp: &str, grace: i64) {
    obj::set_meta(object, "deletionTimestamp", stamp);
    obj::meta_mut(object).insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn raise_generation(object: &mut Value) {
    let generation = obj::generation(object);
    if generation > 0 {
        obj::meta_mut(object).insert("generation".into(), (generation + 1).into());
    }
}

fn wanted_finalizers(kind: &Kind, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let present = obj::finalizers(old);
    if kind.info.plural == "events" {
        return present;
    }
    let has = |f: &str| present.iter().position(|p| p == f);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        // A finalizer that is set overrides the kind's default; the first one wins.
        (None, None) => match (has(ORPHAN), has(FOREGROUND)) {
            (Some(o), Some(f)) => (o < f, f < o),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (None, None) => (kind.rules.orphan_by_default(), false),
        },
    };
    if orphan == has(ORPHAN).is_some() && foreground == has(FOREGROUND).is_some() {
        return present;
    }
    let mut wanted: Vec<String> = present.into_iter().filter(|f| f != ORPHAN && f != FOREGROUND).collect();
    if orphan {
        wanted.push(ORPHAN.into());
    }
    if foreground {
        wanted.push(FOREGROUND.into());
    }
    wanted
}

/// Kinds whose delete answers with the object (upstream's `ReturnDeletedObject`); the others answer with a Status.
fn returns_object(kind: &Kind) -> bool {
    const CORE: &[&str] = &[
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
    ];
    const STORAGE: &[&str] = &["csidrivers", "csinodes", "storageclasses", "volumeattachments"];
    let plural: &str = &kind.info.plural;
    match &*kind.info.gvk.group {
        "" => CORE.contains(&plural),
        "storage.k8s.io" => STORAGE.contains(&plural),
        _ => false,
    }
}

fn success(w: &WriteContext<'_>, old: &Value) -> Value {
    let mut details = json!({"name": w.name, "kind": w.kind.info.plural});
    if !w.kind.info.gvk.group.is_empty() {
        details["group"] = w.kind.info.gvk.group.to_string().into();
    }
    if !obj::uid(old).is_empty() {
        details["uid"] = obj::uid(old).into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
