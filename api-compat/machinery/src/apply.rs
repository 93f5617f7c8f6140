//! Server-side apply and the bookkeeping of `metadata.managedFields` on every write.
//!
//! [`apply`] carries out an apply patch, [`update`] records who changed what on create, update and patch.
//! [`Request`] names what both need.

use serde_json::{Map, Value, json};

use crate::fieldset::{FieldSet, PathElement, path_text};
pub use crate::managers::{ANCIENT, UPDATE_MANAGERS_MAX};
use crate::managers::{Entry, Operation, cap_updates, decode_all, encode_all};
use crate::meta;
use crate::status::{ApiError, Cause, Details};
use crate::typed::{Comparison, Node, Walker};
use crate::types::{Type, TypeRef};

/// Manager of what an object had before the first apply.
pub const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Annotation of client-side `kubectl apply`.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A write, as far as ownership of fields is concerned.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Type of the documents.
    pub types: &'a TypeRef,
    /// apiVersion of the documents.
    pub api_version: &'a str,
    /// Field manager; "" is recorded as `unknown`.
    pub manager: &'a str,
    /// Subresource that is written.
    pub subresource: Option<&'a str>,
    /// Now, RFC 3339.
    pub now: &'a str,
    /// Paths that this endpoint ignores.
    pub reset: FieldSet,
}

fn without_managed_fields(obj: &Value) -> Value {
    let mut obj = obj.clone();
    if obj.get("metadata").is_some() {
        meta::set_field(&mut obj, "managedFields", Value::Null);
    }
    obj
}

/// Whether the client asks to forget all managers: an empty list, or one empty entry.
fn is_reset(managed: &Value) -> bool {
    match managed.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Bookkeeping fields that nobody owns.
fn strip_set() -> FieldSet {
    let mut paths: Vec<&[&str]> = vec![&["apiVersion"], &["kind"], &["metadata"]];
    paths.extend::<[&[&str]; 9]>([
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ]);
    FieldSet::of_fields(&paths)
}

/// The paths an endpoint of a built-in kind ignores: `status` outside the status subresource, everything but
/// `status` and `metadata` within it.
pub fn default_reset(types: &TypeRef, subresource: Option<&str>) -> FieldSet {
    let Type::Struct(id) = &types.root else {
        return FieldSet::default();
    };
    let root = types.set.get(*id);
    let has_struct = |n: &str| root.field(n).is_some_and(|f| matches!(f.ty, Type::Struct(_)));
    if !has_struct("status") {
        return FieldSet::default();
    }
    match subresource {
        Some("status") => {
            let others = root.fields.iter().map(|f| f.name.as_ref());
            let others: Vec<[&str; 1]> = others
                .filter(|n| !matches!(*n, "status" | "metadata" | "apiVersion" | "kind"))
                .map(|n| [n])
                .collect();
            let paths: Vec<&[&str]> = others.iter().map(<[&str; 1]>::as_slice).collect();
            FieldSet::of_fields(&paths)
        }
        _ => FieldSet::of_fields(&[&["status"]]),
    }
}

/// One conflict: the manager that owns the path, and the path.
struct Conflict {
    owner: Entry,
    path: Vec<PathElement>,
}

fn conflict_error(conflicts: &[Conflict]) -> ApiError {
    let message = if let [one] = conflicts {
        format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.owner.describe(),
            path_text(&one.path)
        )
    } else {
        let mut lines = Vec::new();
        let mut last = String::new();
        for c in conflicts {
            let owner = c.owner.describe();
            if owner != last {
                lines.push(format!("conflicts with {owner}:"));
                last = owner;
            }
            lines.push(format!("- {}", path_text(&c.path)));
        }
        format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
    };
    let causes = conflicts.iter().map(|c| Cause {
        reason: "FieldManagerConflict".to_string(),
        message: format!("conflict with {}", c.owner.describe()),
        field: path_text(&c.path),
    });
    ApiError {
        code: 409,
        reason: "Conflict".to_string(),
        message,
        details: Some(Box::new(Details { causes: causes.collect(), ..Details::default() })),
    }
}

struct Engine<'a> {
    request: &'a Request<'a>,
    walker: Walker<'a>,
    root: Node<'a>,
}

impl<'a> Engine<'a> {
    fn new(request: &'a Request<'a>) -> Self {
        let walker = Walker { set: &request.types.set };
        Self { request, walker, root: Node::Typed(&request.types.root) }
    }

    fn entry(&self, manager: &str, operation: Operation) -> Entry {
        Entry {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_string(),
            operation,
            api_version: self.request.api_version.to_string(),
            subresource: self.request.subresource.unwrap_or_default().to_string(),
            time: None,
            set: FieldSet::default(),
        }
    }

    /// A document as Go would write it.
    fn complete(&self, doc: &Value) -> Value {
        let mut doc = doc.clone();
        if !doc.is_object() {
            doc = json!({});
        }
        self.walker.with_zeros(self.root, &mut doc);
        doc
    }

    fn compare(&self, old: &Value, new: &Value) -> Comparison {
        let c = self.walker.compare(self.root, &self.complete(old), &self.complete(new));
        c.without(&self.request.reset)
    }

    /// Takes changed and removed paths from the other managers; the conflicts when that is not allowed.
    fn take(
        &self,
        change: &Comparison,
        entries: &mut Vec<Entry>,
        own: Option<&Entry>,
        force: bool,
    ) -> Vec<Conflict> {
        let changed = change.modified.union(&change.added);
        let mut conflicts = Vec::new();
        let other = |e: &Entry| own.is_none_or(|o| !o.same(e));
        for e in entries.iter().filter(|e| other(e)) {
            for path in e.set.intersection(&changed).paths() {
                conflicts.push(Conflict { owner: e.clone(), path });
            }
        }
        if !force && !conflicts.is_empty() {
            conflicts.sort_by_cached_key(|c| c.owner.describe());
            return conflicts;
        }
        for e in entries.iter_mut().filter(|e| other(e)) {
            e.set = e.set.difference(&changed).difference(&change.removed);
        }
        entries.retain(|e| !e.set.is_empty());
        Vec::new()
    }

    /// Records a change from `old` to `new` by an Update manager.
    fn record_update(&self, old: &Value, new: &Value, entries: &mut Vec<Entry>, manager: &str) {
        let change = self.compare(old, new);
        self.take(&change, entries, None, true);
        let set = change.modified.union(&change.added).difference(&change.removed);
        let set = set.recursive_difference(&self.request.reset).difference(&strip_set());
        if !set.is_empty() {
            let mut entry = self.entry(manager, Operation::Update);
            entry.set = set;
            entry.time = Some(self.request.now.to_string());
            match entries.iter_mut().find(|e| e.same(&entry)) {
                Some(e) => {
                    e.set = e.set.union(&entry.set);
                    e.time = entry.time;
                }
                None => entries.push(entry),
            }
        }
        cap_updates(entries);
    }

    /// Merges, prunes what the applier no longer wants, and hands over ownership.
    fn apply(
        &self,
        live: &Value,
        applied: &Value,
        mut entries: Vec<Entry>,
        manager: &str,
        force: bool,
    ) -> Result<(Option<Value>, Vec<Entry>), Vec<Conflict>> {
        let merged = self.walker.merge(self.root, Some(live), Some(applied)).unwrap_or(Value::Null);
        let mut entry = self.entry(manager, Operation::Apply);
        let set = self.walker.field_set(self.root, applied);
        entry.set = set.recursive_difference(&self.request.reset);
        let mut last = None;
        match entries.iter_mut().find(|e| e.same(&entry)) {
            Some(e) => {
                last = Some(e.set.clone());
                e.set = entry.set.clone();
                e.api_version.clone_from(&entry.api_version);
            }
            None => entries.push(entry.clone()),
        }
        let new = match last.filter(|l| !l.is_empty()) {
            Some(last) => self.prune(&merged, &last, &entries),
            None => merged,
        };
        let change = self.compare(live, &new);
        let conflicts = self.take(&change, &mut entries, Some(&entry), force);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let unchanged = self.complete(live) == self.complete(&new);
        if let Some(e) = entries.iter_mut().find(|e| e.same(&entry)) {
            e.set = e.set.difference(&strip_set());
            if !unchanged {
                e.time = Some(self.request.now.to_string());
            }
        }
        entries.retain(|e| !e.set.is_empty());
        Ok(((!unchanged).then_some(new), entries))
    }

    /// Removes what the applier applied last time and not now, unless another manager has it.
    fn prune(&self, merged: &Value, last: &FieldSet, entries: &[Entry]) -> Value {
        let named = |s: &FieldSet| s.with_named_fields(self.walker.set, &self.request.types.root);
        let remove =
            |v: &Value, gone: &FieldSet| self.walker.remove(self.root, v, gone).unwrap_or_else(|| json!({}));
        let owned = entries.iter().fold(FieldSet::default(), |all, e| all.union(&e.set));
        let merged_set = named(&self.walker.field_set(self.root, merged));
        let last = named(last);
        let pruned = remove(merged, &last);
        // What somebody owns comes back.
        let pruned_set = named(&self.walker.field_set(self.root, &pruned));
        let pruned = remove(merged, &merged_set.difference(&pruned_set.union(&named(&owned))));
        // What nobody owned, and went only because something around it went, comes back too.
        let pruned_set = named(&self.walker.field_set(self.root, &pruned));
        remove(merged, &merged_set.difference(&pruned_set).intersection(&last))
    }

    /// Conflicts that `kubectl apply --server-side` may override: fields that client-side apply set before.
    fn last_applied_allows(&self, live: &Value) -> FieldSet {
        let Some(text) = meta::annotation(live, LAST_APPLIED) else {
            return FieldSet::default();
        };
        let Ok(doc) = serde_json::from_str::<Value>(text) else {
            return FieldSet::default();
        };
        if meta::api_version(&doc) != self.request.api_version {
            return FieldSet::default();
        }
        let change = self.walker.compare(self.root, live, &doc);
        let set = self.walker.field_set(self.root, &doc);
        set.difference(&change.modified).difference(&change.added).difference(&change.removed)
    }
}

fn drop_nulls(v: &mut Value) {
    match v {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Carries out an apply patch with the usual paths ignored (see [`default_reset`]). `live` is None when the object
/// does not exist yet. The result has its managedFields updated.
///
/// # Errors
/// 400 for a patch of another version or with managedFields, 409 with all conflicts.
#[allow(clippy::too_many_arguments)]
pub fn apply(
    types: &TypeRef,
    api_version: &str,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: Option<&str>,
    now: &str,
) -> Result<Value, ApiError> {
    let reset = default_reset(types, subresource);
    apply_request(&Request { types, api_version, manager, subresource, now, reset }, live, applied, force)
}

/// Carries out an apply patch; see [`apply`].
///
/// # Errors
/// As [`apply`].
pub fn apply_request(
    request: &Request<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Value, ApiError> {
    check_applied(request, applied)?;
    let engine = Engine::new(request);
    let mut entries = match live {
        Some(l) => decode_all(&l["metadata"]["managedFields"])
            .map_err(|e| ApiError::new(500, "", format!("failed to decode managed fields: {e}")))?,
        None => Vec::new(),
    };
    let bare = live.map_or_else(|| json!({}), without_managed_fields);
    if entries.is_empty() && live.is_some() {
        engine.record_update(&json!({}), &bare, &mut entries, BEFORE_FIRST_APPLY);
    }
    let mut outcome = engine.apply(&bare, applied, entries.clone(), request.manager, force);
    if let Err(conflicts) = &mut outcome
        && request.manager == "kubectl"
    {
        let allowed = engine.last_applied_allows(&bare);
        conflicts.retain(|c| !allowed.has(&c.path));
        if conflicts.is_empty() {
            outcome = engine.apply(&bare, applied, entries, request.manager, true);
        }
    }
    let (new, entries) = outcome.map_err(|c| conflict_error(&c))?;
    let mut object = new.unwrap_or(bare);
    if is_typed(request.types) {
        drop_nulls(&mut object);
    }
    let annotated = meta::annotation(&object, LAST_APPLIED).is_some_and(|a| !a.is_empty());
    if request.manager == "kubectl" && annotated {
        meta::set_annotation(&mut object, LAST_APPLIED, &last_applied_text(applied));
    }
    encode_all(&mut object, entries);
    Ok(object)
}

/// Whether the types are those of Go structs, which have no nulls; a custom resource keeps them.
fn is_typed(types: &TypeRef) -> bool {
    match &types.root {
        crate::types::Type::Struct(id) => types.set.get(*id).field("metadata").is_none_or(|f| f.tag != 0),
        _ => true,
    }
}

fn check_applied(request: &Request<'_>, applied: &Value) -> Result<(), ApiError> {
    let version = meta::api_version(applied);
    if version != request.api_version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            request.api_version
        )));
    }
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let engine = Engine::new(request);
    let errors = engine.walker.check(engine.root, applied);
    if errors.is_empty() {
        return Ok(());
    }
    let text =
        if errors.len() == 1 { errors[0].clone() } else { format!("errors:\n  {}", errors.join("\n  ")) };
    let gvk = meta::gvk(applied).map_or_else(String::new, |g| g.to_string());
    // Upstream answers 500 without a reason.
    let message = format!(
        "failed to create typed patch object ({}/{}; {gvk}): {text}",
        meta::namespace(applied),
        meta::name(applied)
    );
    Err(ApiError::new(500, "", message))
}

/// The annotation of client-side apply for a document.
fn last_applied_text(applied: &Value) -> String {
    let mut doc = applied.clone();
    if let Some(a) = doc.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        a.remove(LAST_APPLIED);
    }
    format!("{doc}\n")
}

/// Records a create (`live` None), update or patch in the managedFields of `new`, with the usual paths ignored.
///
/// # Errors
/// None today; kept so that a failure of bookkeeping can be told.
pub fn update(
    types: &TypeRef,
    api_version: &str,
    live: Option<&Value>,
    new: Value,
    manager: &str,
    subresource: Option<&str>,
    now: &str,
) -> Result<Value, ApiError> {
    let reset = default_reset(types, subresource);
    Ok(update_request(&Request { types, api_version, manager, subresource, now, reset }, live, new))
}

/// Records a create, update or patch; see [`update`].
///
/// Managers that the client sends replace those of the live object, except on a subresource; an empty list or one
/// empty entry stops the bookkeeping for the object until the next apply.
pub fn update_request(request: &Request<'_>, live: Option<&Value>, mut new: Value) -> Value {
    let engine = Engine::new(request);
    let live_managed = live.map_or(&Value::Null, |l| &l["metadata"]["managedFields"]);
    let sent = new["metadata"]["managedFields"].clone();
    let from_live = || decode_all(live_managed).unwrap_or_default();
    let mut entries = if request.subresource.is_some() {
        from_live()
    } else if is_reset(&sent) {
        Vec::new()
    } else {
        match decode_all(&sent) {
            Ok(e) if !e.is_empty() => e,
            _ => from_live(),
        }
    };
    let bare_new = without_managed_fields(&new);
    let exists = live.is_some_and(|l| !meta::uid(l).is_empty());
    if !(entries.is_empty() && exists) {
        let bare_live = live.map_or_else(|| json!({}), without_managed_fields);
        engine.record_update(&bare_live, &bare_new, &mut entries, request.manager);
    }
    encode_all(&mut new, entries);
    new
}

/// When nothing but time stamps of managedFields differs, puts the old ones back, so that a write without effect
/// is seen to have none.
pub fn restore_timestamps(new: &mut Value, old: &Value) {
    let timeless = |obj: &Value| {
        let mut managed = obj["metadata"]["managedFields"].clone();
        for e in managed.as_array_mut().into_iter().flatten() {
            if let Some(e) = e.as_object_mut() {
                e.remove("time");
            }
        }
        managed
    };
    // The order of entries depends on their times.
    let sorted = |mut v: Value| {
        if let Some(a) = v.as_array_mut() {
            a.sort_by_key(ToString::to_string);
        }
        v
    };
    if sorted(timeless(new)) == sorted(timeless(old))
        && without_managed_fields(new) == without_managed_fields(old)
    {
        meta::set_field(new, "managedFields", old["metadata"]["managedFields"].clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{deployment_types, pod_types, service_types};

    const T1: &str = "2026-01-01T00:00:00Z";
    const T2: &str = "2026-01-02T00:00:00Z";

    fn deployment(spec: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
    }

    fn run(
        live: Option<&Value>,
        doc: &Value,
        manager: &str,
        force: bool,
        now: &str,
    ) -> Result<Value, ApiError> {
        apply(&deployment_types(), "apps/v1", live, doc, manager, force, None, now)
    }

    fn stored(mut v: Value) -> Value {
        v["metadata"]["uid"] = json!("1");
        v
    }

    fn managed<'a>(v: &'a Value, manager: &str) -> &'a Value {
        let all = v["metadata"]["managedFields"].as_array().unwrap();
        all.iter().find(|e| e["manager"] == manager).unwrap_or(&Value::Null)
    }

    #[test]
    fn create_then_remove_a_field() {
        let first = deployment(json!({"replicas": 2, "template": {"metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "1"}]}]}}}));
        let live = stored(run(None, &first, "m", false, T1).unwrap());
        assert_eq!(live["spec"], first["spec"]);
        assert_eq!(
            *managed(&live, "m"),
            json!({"manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {},
                        "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}}}}})
        );
        let second = deployment(json!({"template": {"metadata": {"labels": {"a": "1"}},
            "spec": {"containers": [{"name": "c", "image": "j"}]}}}));
        let next = run(Some(&live), &second, "m", false, T2).unwrap();
        assert_eq!(next["spec"], second["spec"]);
        assert_eq!(managed(&next, "m")["time"], T2);
        // The same again changes nothing, not even the time.
        let same = run(Some(&next), &second, "m", false, "2026-01-03T00:00:00Z").unwrap();
        assert_eq!(same, next);
    }

    #[test]
    fn what_others_own_stays() {
        let doc = |labels: Value| {
            let mut d = deployment(Value::Null);
            d.as_object_mut().unwrap().remove("spec");
            d["metadata"]["labels"] = labels;
            d
        };
        let live = stored(run(None, &doc(json!({"a": "1", "b": "1"})), "one", false, T1).unwrap());
        let live = run(Some(&live), &doc(json!({"b": "1", "c": "1"})), "two", false, T1).unwrap();
        let live = run(Some(&live), &doc(json!({"a": "1"})), "one", false, T2).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "1", "c": "1"}));
        let live = run(Some(&live), &doc(json!({"b": "1"})), "two", false, T2).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "1", "b": "1"}));
        assert_eq!(managed(&live, "two")["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:b": {}}}}));
    }

    #[test]
    fn conflicts() {
        let live = stored(run(None, &deployment(json!({"replicas": 1})), "one", false, T1).unwrap());
        let e = run(Some(&live), &deployment(json!({"replicas": 2})), "two", false, T2).unwrap_err();
        assert_eq!((e.code, e.reason.as_str()), (409, "Conflict"));
        assert_eq!(e.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
        let causes = e.details.unwrap().causes;
        assert_eq!(causes[0].reason, "FieldManagerConflict");
        assert_eq!(causes[0].message, "conflict with \"one\"");
        assert_eq!(causes[0].field, ".spec.replicas");
        let forced = run(Some(&live), &deployment(json!({"replicas": 2})), "two", true, T2).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        assert_eq!(*managed(&forced, "one"), Value::Null);
        // Agreement is no conflict: both own it.
        let both = run(Some(&live), &deployment(json!({"replicas": 1})), "two", false, T2).unwrap();
        assert!(!managed(&both, "one").is_null() && !managed(&both, "two").is_null());
    }

    #[test]
    fn several_conflicts_with_updates() {
        let doc = deployment(
            json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
        );
        let live = update(&deployment_types(), "apps/v1", None, doc, "kubectl-create", None, T1).unwrap();
        let mut live = stored(live);
        live["spec"]["replicas"] = json!(3);
        let old = {
            let mut o = live.clone();
            o["spec"]["replicas"] = json!(1);
            o
        };
        let live =
            update(&deployment_types(), "apps/v1", Some(&old), live, "scaler", Some("scale"), T2).unwrap();
        let want = deployment(
            json!({"replicas": 5, "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}),
        );
        let e = run(Some(&live), &want, "me", false, T2).unwrap_err();
        assert_eq!(
            e.message,
            "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- .spec.template.spec.containers[name=\"c\"].image\nconflicts with \"scaler\" with subresource \"scale\" using apps/v1:\n- .spec.replicas"
        );
    }

    #[test]
    fn update_ownership_as_upstream_writes_it() {
        let doc = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"run": "p"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}],
                "restartPolicy": "Always"}, "status": {"phase": "Pending"}});
        let live = stored(update(&pod_types(), "v1", None, doc, "kubectl-run", None, T1).unwrap());
        assert_eq!(
            managed(&live, "kubectl-run")["fieldsV1"],
            json!({"f:metadata": {"f:labels": {".": {}, "f:run": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                        "k:{\"containerPort\":80,\"protocol\":\"UDP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    "f:resources": {}}}, "f:restartPolicy": {}}})
        );
        // The status subresource is recorded on its own, and only when something changed.
        let mut next = live.clone();
        next["status"]["phase"] = json!("Running");
        let next = update(&pod_types(), "v1", Some(&live), next, "kubelet", Some("status"), T2).unwrap();
        assert_eq!(managed(&next, "kubelet")["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
        assert_eq!(managed(&next, "kubelet")["subresource"], "status");
        let again =
            update(&pod_types(), "v1", Some(&next), next.clone(), "other", Some("status"), T2).unwrap();
        assert_eq!(again, next);
    }

    #[test]
    fn service_ports_by_port_and_protocol() {
        let svc = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
        let go = |live: Option<&Value>, doc: &Value, m: &str| {
            apply(&service_types(), "v1", live, doc, m, false, None, T1)
        };
        let live = go(
            None,
            &svc(json!([{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "name": "t"}])),
            "m",
        );
        let live = stored(live.unwrap());
        let more = svc(json!([{"port": 53, "protocol": "UDP", "nodePort": 30053}]));
        let live = go(Some(&live), &more, "n").unwrap();
        assert_eq!(
            live["spec"]["ports"],
            json!([{"port": 53, "protocol": "UDP", "name": "u", "nodePort": 30053}, {"port": 53, "name": "t"}])
        );
        let e = go(Some(&live), &svc(json!([{"port": 1, "name": "a"}, {"port": 1, "name": "b"}])), "x")
            .unwrap_err();
        assert_eq!(
            e.message,
            "failed to create typed patch object (/s; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]"
        );
        let e = go(Some(&live), &svc(json!([{"name": "a"}])), "x").unwrap_err();
        assert!(e.message.contains("omits key field \"port\""), "{}", e.message);
    }

    #[test]
    fn before_first_apply() {
        let live = stored(deployment(json!({"replicas": 1})));
        let e = run(Some(&live), &deployment(json!({"replicas": 2})), "m", false, T1).unwrap_err();
        assert_eq!(
            e.message,
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
        );
    }

    #[test]
    fn kubectl_takes_over_from_client_side_apply() {
        let mut live = deployment(json!({"replicas": 1}));
        let text = live.to_string();
        live["metadata"]["annotations"] = json!({LAST_APPLIED: text});
        let live = update(&deployment_types(), "apps/v1", None, live, "kubectl-client-side-apply", None, T1)
            .unwrap();
        let live = stored(live);
        let doc = deployment(json!({"replicas": 2}));
        assert_eq!(run(Some(&live), &doc, "other", false, T2).unwrap_err().code, 409);
        let next = run(Some(&live), &doc, "kubectl", false, T2).unwrap();
        assert_eq!(next["spec"]["replicas"], 2);
        assert!(meta::annotation(&next, LAST_APPLIED).unwrap().contains("\"replicas\":2"));
    }

    #[test]
    fn atomic_values_sets_and_order() {
        let pod =
            |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        let go = |live: Option<&Value>, doc: &Value, m: &str| {
            apply(&pod_types(), "v1", live, doc, m, false, None, T1)
        };
        let live = go(
            None,
            &pod(
                json!({"nodeSelector": {"a": "1"}, "containers": [{"name": "a", "args": ["1"]}, {"name": "b"}]}),
            ),
            "m",
        );
        let live = stored(live.unwrap());
        let fields = &managed(&live, "m")["fieldsV1"]["f:spec"];
        assert_eq!(fields["f:nodeSelector"], json!({}));
        assert_eq!(fields["f:containers"]["k:{\"name\":\"a\"}"]["f:args"], json!({}));
        let e = go(Some(&live), &pod(json!({"nodeSelector": {"b": "1"}})), "n").unwrap_err();
        assert!(e.message.ends_with(": .spec.nodeSelector"), "{}", e.message);
        let next = go(Some(&live), &pod(json!({"containers": [{"name": "x"}, {"name": "b"}]})), "n").unwrap();
        let names: Vec<&str> = next["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "x", "b"]);
        let mut doc = pod(json!({}));
        doc["metadata"]["finalizers"] = json!(["f/1"]);
        let next = go(Some(&next), &doc, "f").unwrap();
        assert_eq!(
            managed(&next, "f")["fieldsV1"],
            json!({"f:metadata": {"f:finalizers": {"v:\"f/1\"": {}}}, "f:spec": {}})
        );
        // Removing the last item removes the list.
        let gone = go(Some(&next), &pod(json!({})), "f").unwrap();
        assert!(gone["metadata"].get("finalizers").is_none());
    }

    #[test]
    fn bad_requests() {
        let mut doc = deployment(json!({}));
        doc["metadata"]["managedFields"] = json!([]);
        assert_eq!(
            run(None, &doc, "m", false, T1).unwrap_err().message,
            "metadata.managedFields must be nil"
        );
        let mut doc = deployment(json!({}));
        doc["apiVersion"] = json!("apps/v1beta1");
        assert_eq!(
            run(None, &doc, "m", false, T1).unwrap_err().message,
            "Incorrect version specified in apply patch. Specified patch version: apps/v1beta1, expected: apps/v1"
        );
        let e = run(None, &deployment(json!({"foo": 1})), "m", false, T1).unwrap_err();
        assert_eq!(
            e.message,
            "failed to create typed patch object (n/d; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
        );
    }

    #[test]
    fn old_update_managers_are_merged() {
        let mut live = deployment(json!({"replicas": 1}));
        live = stored(update(&deployment_types(), "apps/v1", None, live, "m00", None, T1).unwrap());
        for i in 0..12 {
            let mut new = live.clone();
            meta::set_label(&mut new, &format!("l{i}"), "x");
            let now = format!("2026-02-{:02}T00:00:00Z", i + 1);
            live = update(&deployment_types(), "apps/v1", Some(&live), new, &format!("m{i:02}"), None, &now)
                .unwrap();
            if i == 0 {
                assert!(!managed(&live, "m00").is_null());
            }
        }
        let all = live["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(all.len(), UPDATE_MANAGERS_MAX);
        let ancient = managed(&live, ANCIENT);
        assert_eq!(ancient["time"], "2026-02-03T00:00:00Z");
        assert_eq!(
            ancient["fieldsV1"],
            json!({"f:metadata": {"f:labels": {".": {}, "f:l0": {}, "f:l1": {}, "f:l2": {}}}, "f:spec": {"f:replicas": {}}})
        );
    }

    #[test]
    fn clients_can_reset_managers() {
        let live = stored(run(None, &deployment(json!({"replicas": 1})), "m", false, T1).unwrap());
        let mut new = live.clone();
        new["metadata"]["managedFields"] = json!([{}]);
        new["spec"]["replicas"] = json!(2);
        let out = update(&deployment_types(), "apps/v1", Some(&live), new, "x", None, T2).unwrap();
        assert!(out["metadata"].get("managedFields").is_none());
        // A client that does not know the field does not delete it.
        let mut new = live.clone();
        new["metadata"].as_object_mut().unwrap().remove("managedFields");
        let mut out = update(&deployment_types(), "apps/v1", Some(&live), new, "x", None, T2).unwrap();
        assert_eq!(out["metadata"]["managedFields"], live["metadata"]["managedFields"]);
        out["metadata"]["managedFields"][0]["time"] = json!(T2);
        restore_timestamps(&mut out, &live);
        assert_eq!(out, live);
    }
}
