//! [`CustomRules`]: the behaviour of one version of a custom resource, driven by its schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_machinery::decode::Finding;
use knarr_machinery::field::ErrorType;
use knarr_machinery::types::TypeRef;
use knarr_machinery::{ApiError, FieldError, Path, Str, names, time};
use serde_json::{Map, Value};

use crate::custom::cel::CelRules;
use crate::custom::jsonpath::JsonPath;
use crate::custom::schema::Schema;
use crate::custom::{embedded, lists, prune, values};
use crate::kind::{Conversion, Ctx, Kind, Rules, ScalePaths, Warnings};
use crate::ruleset::keep;
use crate::value::{list, name, since, text};

/// A printer column with its path.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub path: JsonPath,
    pub kind: String,
}

/// The rules of one version.
#[derive(Clone)]
pub(super) struct CustomRules {
    pub schema: Arc<Schema>,
    /// The schema as written, for OpenAPI.
    pub published: Option<Arc<Value>>,
    pub metadata: TypeRef,
    pub api_version: String,
    /// `apiVersion` and schema of the stored form.
    pub stored_version: String,
    pub stored_schema: Arc<Schema>,
    /// The stored kind, when it is another version.
    pub stored: Option<Kind>,
    pub has_status: bool,
    pub scale: Option<ScalePaths>,
    pub cells: Vec<Cell>,
    pub selectable: Vec<(Str, JsonPath)>,
    pub terminating: bool,
    pub deprecation: Option<String>,
    pub cel: Option<Arc<CelRules>>,
    /// The webhook between the versions, if there is one.
    pub conversion: Option<Arc<Converted>>,
}

/// What a kind with a conversion webhook knows besides.
pub(super) struct Converted {
    pub conversion: Conversion,
    /// The schemas of all versions by `apiVersion`: stored documents may be of any.
    pub schemas: BTreeMap<String, Arc<Schema>>,
}

impl CustomRules {
    fn coerce(&self, obj: &mut Value, schema: &Schema) -> Result<Vec<String>, ApiError> {
        prune::integral_numbers(obj);
        let Some(map) = obj.as_object_mut() else { return Ok(Vec::new()) };
        let mut unknown = prune::coerce_metadata(&self.metadata, map, "").map_err(ApiError::bad_request)?;
        unknown.extend(prune::prune(obj, schema));
        prune::drop_nulls(obj, Some(schema));
        let mut inner = Vec::new();
        prune::coerce_embedded(&self.metadata, obj, &plain_root(schema), &Path::new(""), &mut inner)
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        inner.sort();
        unknown.extend(inner);
        Ok(unknown)
    }

    fn scale_errors(&self, obj: &Value, paths: &[&str]) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for path in paths {
            let at = Path::new(path);
            match nested(obj, path) {
                Err(e) => errors.push(FieldError::invalid(&at, 0, e)),
                Ok(None) => {}
                Ok(Some(v)) => match v.as_i64() {
                    None => {
                        let text = format!(
                            "{path} accessor error: {} is of the type {}, expected int64",
                            plain(v),
                            go_type(v)
                        );
                        errors.push(FieldError::invalid(&at, 0, text));
                    }
                    Some(n) if n < 0 => {
                        errors.push(FieldError::invalid(&at, n, "should be a non-negative integer"))
                    }
                    Some(n) if n > i64::from(i32::MAX) => {
                        let text = format!("should be less than or equal to {}", i32::MAX);
                        errors.push(FieldError::invalid(&at, n, text));
                    }
                    Some(_) => {}
                },
            }
        }
        errors
    }

    fn selector_error(&self, obj: &Value) -> Option<FieldError> {
        let path = self.scale.as_ref()?.selector.as_deref()?;
        let text = match nested(obj, path) {
            Ok(Some(v)) if !v.is_string() => {
                format!("{path} accessor error: {} is of the type {}, expected string", plain(v), go_type(v))
            }
            Err(e) => e,
            _ => return None,
        };
        Some(FieldError::invalid(&Path::new(path), "", text))
    }

    /// Rules in CEL; they are left out when earlier errors make them meaningless.
    fn check_rules(&self, obj: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        let Some(cel) = &self.cel else { return };
        let blocking = errors.iter().any(|e| {
            use ErrorType::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
            matches!(e.kind, NotSupported | Required | TooLong | TooMany | TypeInvalid)
        });
        if blocking {
            let text = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid(&Path::new(""), Value::Null, text));
        } else {
            errors.extend(cel.check(&self.schema, obj, old));
        }
    }
}

/// The root is a resource too, but its metadata is coerced apart.
fn plain_root(schema: &Schema) -> std::borrow::Cow<'_, Schema> {
    if schema.embedded {
        std::borrow::Cow::Owned(Schema { embedded: false, ..schema.clone() })
    } else {
        std::borrow::Cow::Borrowed(schema)
    }
}

/// A value as Go's `%v` prints leaves.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The value at a dotted path; an error when a part of the way is no map.
fn nested<'a>(obj: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let mut at = obj;
    let mut way = String::new();
    for part in path.trim_start_matches('.').split('.') {
        let Some(map) = at.as_object() else {
            return Err(format!(
                "{way} accessor error: {at} is of the type {}, expected map[string]interface{{}}",
                go_type(at)
            ));
        };
        way = format!("{way}.{part}");
        match map.get(part) {
            Some(v) => at = v,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

impl Rules for CustomRules {
    fn prune(&self, _types: &TypeRef, obj: &mut Value) -> Result<Vec<Finding>, ApiError> {
        let unknown = self.coerce(obj, &self.schema)?;
        Ok(unknown.into_iter().map(|p| Finding { message: format!("unknown field \"{p}\"") }).collect())
    }

    fn default(&self, obj: &mut Value) {
        prune::default(obj, &self.schema);
    }

    fn prepare_create(&self, _ctx: &Ctx<'_>, obj: &mut Value) {
        if self.has_status
            && let Some(map) = obj.as_object_mut()
        {
            map.remove("status");
        }
    }

    fn prepare_update(&self, ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
        if ctx.subresource == Some("status") {
            let status = obj.get("status").cloned();
            let managed = obj.pointer("/metadata/managedFields").cloned();
            let version = obj.pointer("/metadata/resourceVersion").cloned();
            *obj = old.clone();
            for (key, value) in [("managedFields", managed), ("resourceVersion", version)] {
                match value {
                    Some(v) => obj["metadata"][key] = v,
                    None => {
                        obj["metadata"].as_object_mut().and_then(|m| m.remove(key));
                    }
                }
            }
            let parts =
                status.map_or_else(|| Value::Object(Map::new()), |s| serde_json::json!({"status": s}));
            keep(obj, &parts, "status");
        } else if self.has_status {
            keep(obj, old, "status");
        }
    }

    fn validate(&self, _ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
        let root = Path::new("");
        let mut errors = values::validate(&self.schema, obj, &root);
        if let Some(scale) = &self.scale {
            errors.extend(self.scale_errors(obj, &[&scale.spec_replicas, &scale.status_replicas]));
            errors.extend(self.selector_error(obj));
        }
        errors.extend(embedded::validate(&plain_root(&self.schema), obj, &root));
        errors.extend(lists::validate(&self.schema, obj, &root));
        self.check_rules(obj, None, &mut errors);
        errors
    }

    fn validate_update(&self, ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
        let root = Path::new("");
        let mut errors = Vec::new();
        let status_only = ctx.subresource == Some("status");
        if status_only {
            if let (Some(schema), Some(status)) = (self.schema.properties.get("status"), obj.get("status")) {
                let before = old.get("status").unwrap_or(&Value::Null);
                errors.extend(values::validate_update(schema, status, before, &Path::new("status")));
            }
        } else {
            errors.extend(values::validate_update(&self.schema, obj, old, &root));
        }
        if let Some(scale) = &self.scale {
            if !status_only {
                errors.extend(self.scale_errors(obj, &[&scale.spec_replicas]));
            }
            errors.extend(self.scale_errors(obj, &[&scale.status_replicas]));
            errors.extend(self.selector_error(obj));
        }
        if !status_only {
            errors.extend(embedded::validate(&plain_root(&self.schema), obj, &root));
        }
        if lists::validate(&self.schema, old, &root).is_empty() {
            errors.extend(lists::validate(&self.schema, obj, &root));
        }
        self.check_rules(obj, Some(old), &mut errors);
        errors
    }

    fn warnings(&self, _ctx: &Ctx<'_>, obj: &Value, old: Option<&Value>) -> Warnings {
        let known = old.map(|o| list(o, "/metadata/finalizers")).unwrap_or_default();
        let mut added: Vec<&str> = list(obj, "/metadata/finalizers")
            .iter()
            .filter(|f| !known.contains(f))
            .filter_map(Value::as_str)
            .collect();
        added.sort_unstable();
        added.dedup();
        let mut out: Warnings = added.into_iter().flat_map(finalizer_warnings).collect();
        if let (Some(cel), Some(old)) = (&self.cel, old) {
            let spared = cel.tolerated(&self.schema, obj, old);
            out.splice(0..0, spared.iter().map(ToString::to_string));
        }
        out
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::name_is_dns_subdomain(name, prefix)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value, now: &str) -> Vec<Value> {
        let mut cells = vec![name(obj)];
        cells.extend(self.cells.iter().map(|c| cell(c, obj, now)));
        cells
    }

    fn fields(&self, obj: &Value) -> Vec<(Str, String)> {
        self.selectable
            .iter()
            .map(|(name, path)| {
                let value = match path.find(obj).first() {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(s)) => s.clone(),
                    Some(other) => other.to_string(),
                };
                (name.clone(), value)
            })
            .collect()
    }

    fn from_storage(&self, mut obj: Value) -> Result<Value, ApiError> {
        if let Some(converted) = &self.conversion {
            let of = text(&obj, "/apiVersion");
            let schema = converted.schemas.get(of).unwrap_or(&self.stored_schema).clone();
            self.coerce(&mut obj, &schema)?;
            prune::default(&mut obj, &schema);
            return Ok(obj);
        }
        if self.api_version == self.stored_version {
            // The storage version may have been another one when this was written.
            if text(&obj, "/apiVersion") != self.api_version {
                obj["apiVersion"] = self.api_version.as_str().into();
            }
            self.coerce(&mut obj, &self.schema)?;
            prune::default(&mut obj, &self.schema);
            return Ok(obj);
        }
        // As upstream, defaults of the stored version are filled; what is read in another one is only pruned by it.
        prune::default(&mut obj, &self.stored_schema);
        obj["apiVersion"] = self.api_version.as_str().into();
        self.coerce(&mut obj, &self.schema)?;
        Ok(obj)
    }

    fn to_storage(&self, mut obj: Value) -> Result<Value, ApiError> {
        if self.api_version != self.stored_version && self.conversion.is_none() {
            obj["apiVersion"] = self.stored_version.as_str().into();
            self.coerce(&mut obj, &self.stored_schema)?;
        }
        Ok(obj)
    }

    fn conversion(&self) -> Option<&Conversion> {
        self.conversion.as_ref().map(|c| &c.conversion)
    }

    fn converted(&self, mut obj: Value) -> Result<Value, ApiError> {
        self.coerce(&mut obj, &self.schema)?;
        Ok(obj)
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        self.scale.clone()
    }

    fn storage_kind(&self) -> Option<Kind> {
        self.stored.clone()
    }

    fn openapi(&self) -> Option<&Value> {
        self.published.as_deref()
    }

    fn reads_through(&self) -> bool {
        true
    }

    fn terminating(&self) -> bool {
        self.terminating
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }
}

fn finalizer_warnings(finalizer: &str) -> Vec<String> {
    let at = "metadata.finalizers";
    let mut found: Vec<String> = names::is_qualified_name(finalizer)
        .into_iter()
        .map(|m| format!("{at}: {finalizer:?}: {m}"))
        .collect();
    if !finalizer.contains('/') && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes") {
        let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
        found.push(format!(
            "{at}: {finalizer:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
        ));
    }
    found
}

fn cell(column: &Cell, obj: &Value, now: &str) -> Value {
    let found = column.path.find(obj);
    let Some(value) = found.first() else { return Value::Null };
    match (column.kind.as_str(), value) {
        ("string", Value::String(s)) => s.as_str().into(),
        ("string", Value::Null) => "<no value>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => {
            n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*value).clone(),
        ("date", Value::String(s)) => match time::parse(s) {
            Some(_) => since(s, now).into(),
            None => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
