//! [`RuleSet`]: the rules of a built-in kind as a struct of functions, so that a kind file states only what differs.

use knarr_machinery::{ApiError, FieldError, Str, names};
use serde_json::Value;

use crate::kind::{Ctx, DeletePlan, Rules, ScalePaths, Warnings};
use crate::value::{age, name};

/// Checks the new document against the old one.
pub(crate) type CheckUpdate = fn(&Ctx<'_>, &Value, &Value) -> Vec<FieldError>;

/// What is special about a kind. Take [`PLAIN`] and change fields.
pub(crate) struct RuleSet {
    /// Name check.
    pub name: fn(&str, bool) -> Vec<String>,
    /// Defaults.
    pub default: fn(&mut Value),
    /// The empty status of a new object, when the kind has one: it makes the generic parting of spec and status apply.
    pub status: Option<fn() -> Value>,
    /// Runs after the generic part of `prepare_create`.
    pub create: fn(&Ctx<'_>, &mut Value),
    /// Runs after the generic part of `prepare_update`.
    pub update: fn(&Ctx<'_>, &mut Value, &Value),
    /// Errors of a new object.
    pub validate: fn(&Ctx<'_>, &Value) -> Vec<FieldError>,
    /// Errors of an update; `None` means as for a new object.
    pub validate_update: Option<CheckUpdate>,
    /// Warnings.
    pub warnings: fn(&Ctx<'_>, &Value, Option<&Value>) -> Warnings,
    /// Table row.
    pub row: fn(&Value, &str) -> Vec<Value>,
    /// Selectable fields.
    pub fields: fn(&Value) -> Vec<(Str, String)>,
    /// Delete.
    pub delete: fn(&Value, Option<i64>) -> DeletePlan,
    /// From storage.
    pub from_storage: fn(Value) -> Result<Value, ApiError>,
    /// To storage.
    pub to_storage: fn(Value) -> Result<Value, ApiError>,
    /// Scale paths: desired, observed, selector.
    pub scale: Option<(&'static str, &'static str, &'static str)>,
    /// What the first delete does to the object.
    pub begin_delete: fn(&mut Value, &str) -> bool,
    /// PUT may create.
    pub create_on_update: bool,
    /// Update without resourceVersion.
    pub unconditional_update: bool,
    /// Delete orphans dependents unless told otherwise.
    pub orphan: bool,
}

/// The rules of a kind that has none.
pub(crate) const PLAIN: RuleSet = RuleSet {
    name: names::name_is_dns_subdomain,
    default: |_| {},
    status: None,
    create: |_, _| {},
    update: |_, _, _| {},
    validate: |_, _| Vec::new(),
    validate_update: None,
    warnings: |_, _, _| Vec::new(),
    row: created_row,
    fields: |_| Vec::new(),
    delete: |_, _| DeletePlan::Now,
    from_storage: Ok,
    to_storage: Ok,
    scale: None,
    begin_delete: |_, _| false,
    create_on_update: false,
    unconditional_update: true,
    orphan: false,
};

static PLAIN_RULES: RuleSet = PLAIN;

/// The rules of a document that has none of its own.
pub fn plain_rules() -> std::sync::Arc<dyn Rules> {
    std::sync::Arc::new(&PLAIN_RULES)
}

/// Name and creation time: upstream's default table.
pub(crate) fn created_row(obj: &Value, _now: &str) -> Vec<Value> {
    let created = obj.pointer("/metadata/creationTimestamp").cloned().unwrap_or(Value::Null);
    vec![name(obj), created]
}

/// Name and age.
pub(crate) fn age_row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), age(obj, now)]
}

/// The empty object as a status.
pub(crate) fn empty_status() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Copies `key` of `old` into `obj`, or removes it there.
pub(crate) fn keep(obj: &mut Value, old: &Value, key: &str) {
    let Some(map) = obj.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => map.insert(key.to_string(), value.clone()),
        None => map.remove(key),
    };
}

/// On `status` everything except metadata and status stays as it was; otherwise the status does.
fn part_spec_and_status(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    if ctx.subresource != Some("status") {
        keep(obj, old, "status");
        return;
    }
    let keys =
        |v: &Value| -> Vec<String> { v.as_object().map(|m| m.keys().cloned().collect()).unwrap_or_default() };
    for key in keys(obj).into_iter().chain(keys(old)) {
        if !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind") {
            keep(obj, old, &key);
        }
    }
}

impl Rules for &'static RuleSet {
    fn default(&self, obj: &mut Value) {
        (self.default)(obj);
    }

    fn prepare_create(&self, ctx: &Ctx<'_>, obj: &mut Value) {
        if let (Some(status), Some(map)) = (self.status, obj.as_object_mut()) {
            map.insert("status".to_string(), status());
        }
        (self.create)(ctx, obj);
    }

    fn prepare_update(&self, ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
        if self.status.is_some() {
            part_spec_and_status(ctx, obj, old);
        }
        (self.update)(ctx, obj, old);
    }

    fn validate(&self, ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
        (self.validate)(ctx, obj)
    }

    fn validate_update(&self, ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
        match self.validate_update {
            Some(f) => f(ctx, obj, old),
            None if ctx.subresource == Some("status") => Vec::new(),
            None => (self.validate)(ctx, obj),
        }
    }

    fn warnings(&self, ctx: &Ctx<'_>, obj: &Value, old: Option<&Value>) -> Warnings {
        (self.warnings)(ctx, obj, old)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn delete_plan(&self, obj: &Value, requested: Option<i64>) -> DeletePlan {
        (self.delete)(obj, requested)
    }

    fn orphan_by_default(&self) -> bool {
        self.orphan
    }

    fn row(&self, obj: &Value, now: &str) -> Vec<Value> {
        (self.row)(obj, now)
    }

    fn fields(&self, obj: &Value) -> Vec<(Str, String)> {
        (self.fields)(obj)
    }

    fn from_storage(&self, obj: Value) -> Result<Value, ApiError> {
        (self.from_storage)(obj)
    }

    fn to_storage(&self, obj: Value) -> Result<Value, ApiError> {
        (self.to_storage)(obj)
    }

    fn begin_delete(&self, obj: &mut Value, now: &str) -> bool {
        (self.begin_delete)(obj, now)
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        self.scale.map(|(spec, status, selector)| ScalePaths {
            spec_replicas: spec.into(),
            status_replicas: status.into(),
            selector: (!selector.is_empty()).then(|| selector.into()),
        })
    }
}
