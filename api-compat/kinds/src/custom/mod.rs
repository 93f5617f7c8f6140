//! Custom resources: a CustomResourceDefinition becomes entries of the kind table like any other.
//!
//! Entry points: [`Definition`] makes one [`Kind`] of each served version; [`status`] decides about names and
//! establishment; `definition` (used by the kind CustomResourceDefinition) tells what is wrong with a definition.

pub(crate) mod cel;
pub mod conversion;
pub(crate) mod definition;
mod embedded;
pub(crate) mod formats;
mod jsonpath;
mod lists;
mod prune;
mod rules;
pub(crate) mod schema;
pub mod status;
mod structural;
mod types;
mod values;
pub(crate) mod warnings;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use knarr_machinery::{GroupResource, GroupVersionKind, Str};
use serde_json::Value;

use self::jsonpath::JsonPath;
use self::rules::{Cell, Converted, CustomRules};
use self::schema::Schema;
use crate::facts::{ALL_VERBS, GET_PATCH_UPDATE};
use crate::kind::{Column, Conversion, Kind, KindInfo, ScalePaths, Scope, Storage, Subresource, Verb};
use crate::value::{flag, is_empty, list, text};

const NAME_COLUMN: &str = "Name of the object, unique in its scope.";
const AGE_COLUMN: &str = "Time at which the object was created.";

/// What a definition says, compiled: one entry for each served version.
pub struct Definition {
    served: Vec<(KindInfo, CustomRules)>,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.served.iter().map(|(info, _)| &info.gvk)).finish()
    }
}

impl Definition {
    /// Compiles a definition.
    ///
    /// # Errors
    /// A definition that no validated write can have left.
    pub fn compile(crd: &Value) -> Result<Self, String> {
        let versions = list(crd, "/spec/versions");
        let stored = versions.iter().find(|v| flag(v, "/storage")).ok_or("no storage version")?;
        let stored_schema = parse(stored);
        let conversion = conversion(crd).map(|c| {
            let schemas = versions.iter().map(|v| (api_version(crd, v), parse(v))).collect();
            Arc::new(Converted { conversion: c, schemas })
        });
        let (info, mut rules) = one(crd, stored, stored, &stored_schema, None);
        rules.conversion = conversion.clone();
        let stored_kind = Kind { info: Arc::new(info.clone()), rules: Arc::new(rules.clone()) };
        let mut served = Vec::new();
        for version in versions.iter().filter(|v| flag(v, "/served")) {
            served.push(if flag(version, "/storage") {
                (info.clone(), rules.clone())
            } else {
                let (info, rules) = one(crd, version, stored, &stored_schema, Some(stored_kind.clone()));
                (info, CustomRules { conversion: conversion.clone(), ..rules })
            });
        }
        Ok(Self { served })
    }

    /// The entries for the kind table. A terminating definition takes no new objects.
    pub fn kinds(&self, terminating: bool) -> Vec<Kind> {
        let writes = [Verb::Create, Verb::Patch, Verb::Update];
        let entry = |(info, rules): &(KindInfo, CustomRules)| {
            let mut info = info.clone();
            info.verbs.retain(|v| !terminating || !writes.contains(v));
            let rules = CustomRules { terminating, ..rules.clone() };
            Kind { info: Arc::new(info), rules: Arc::new(rules) }
        };
        self.served.iter().map(entry).collect()
    }
}

fn api_version(crd: &Value, version: &Value) -> String {
    format!("{}/{}", text(crd, "/spec/group"), text(version, "/name"))
}

/// The webhook of a definition whose versions differ in more than their name.
fn conversion(crd: &Value) -> Option<Conversion> {
    if text(crd, "/spec/conversion/strategy") != "Webhook" {
        return None;
    }
    let review = list(crd, "/spec/conversion/webhook/conversionReviewVersions");
    Some(Conversion {
        definition: text(crd, "/metadata/name").to_string(),
        client: crd.pointer("/spec/conversion/webhook/clientConfig").cloned().unwrap_or_default(),
        review_versions: review.iter().filter_map(Value::as_str).map(str::to_string).collect(),
    })
}

fn parse(version: &Value) -> Arc<Schema> {
    let mut schema = Schema::parse(version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null));
    // Without a schema nothing is known, and everything is kept.
    schema.preserve_unknown |= version.pointer("/schema/openAPIV3Schema").is_none();
    Arc::new(schema)
}

fn strings(value: &Value, pointer: &str) -> Vec<Str> {
    list(value, pointer).iter().filter_map(|v| v.as_str().map(|s| s.to_string().into())).collect()
}

/// `com.example.v1.Foo` of `example.com`.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn one(
    crd: &Value,
    version: &Value,
    stored: &Value,
    stored_schema: &Arc<Schema>,
    stored_kind: Option<Kind>,
) -> (KindInfo, CustomRules) {
    let (group, name) = (text(crd, "/spec/group"), text(version, "/name"));
    let accepted = crd.pointer("/status/acceptedNames").cloned().unwrap_or_default();
    let owned = |key: &str| -> Str { text(&accepted, key).to_string().into() };
    let schema = if stored_kind.is_some() { parse(version) } else { stored_schema.clone() };
    let gvk =
        GroupVersionKind::new(group.to_string(), name.to_string(), text(&accepted, "/kind").to_string());
    let definition = definition_name(group, name, &gvk.kind);
    let (columns, cells) = columns(version);
    let selectable = selectable(version);
    let storage_version = text(stored, "/name").to_string();
    let has_status = version.pointer("/subresources/status").is_some_and(|v| !v.is_null());
    let scale = scale_paths(version);
    let mut subresources = Vec::new();
    let sub = |name: &'static str, gvk: GroupVersionKind| Subresource {
        name: name.into(),
        gvk,
        verbs: GET_PATCH_UPDATE.to_vec(),
    };
    if scale.is_some() {
        subresources.push(sub("scale", GroupVersionKind::new("autoscaling", "v1", "Scale")));
    }
    if has_status {
        subresources.push(sub("status", gvk.clone()));
    }
    let info = KindInfo {
        list_kind: owned("/listKind"),
        plural: text(crd, "/spec/names/plural").to_string().into(),
        singular: owned("/singular"),
        scope: if text(crd, "/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        short_names: strings(&accepted, "/shortNames"),
        categories: strings(&accepted, "/categories"),
        verbs: ALL_VERBS.to_vec(),
        subresources,
        storage: Some(Storage {
            resource: GroupResource::new(group.to_string(), text(crd, "/spec/names/plural").to_string()),
            version: storage_version.clone().into(),
        }),
        types: types::of(&schema, &definition),
        definition: definition.into(),
        has_generation: true,
        columns,
        selectable_fields: selectable.iter().map(|(n, _)| n.clone()).collect(),
        custom: true,
        gvk,
    };
    let rules = CustomRules {
        cel: cel::CelRules::new(&schema).map(Arc::new),
        schema,
        published: version.pointer("/schema/openAPIV3Schema").cloned().map(Arc::new),
        metadata: types::metadata_types(),
        api_version: api_version(crd, version),
        stored_version: format!("{group}/{storage_version}"),
        stored_schema: stored_schema.clone(),
        stored: stored_kind,
        has_status,
        scale,
        cells,
        selectable,
        terminating: false,
        conversion: None,
        deprecation: deprecation(crd, version),
    };
    (info, rules)
}

fn columns(version: &Value) -> (Vec<Column>, Vec<Cell>) {
    let column = |name: &str, kind: &str, format: &str, description: &str, priority: i64| Column {
        name: name.to_string().into(),
        kind: kind.to_string().into(),
        format: format.to_string().into(),
        description: description.to_string().into(),
        priority: i32::try_from(priority).unwrap_or(i32::MAX),
    };
    let mut columns = vec![column("Name", "string", "name", NAME_COLUMN, 0)];
    let mut cells = Vec::new();
    let given = list(version, "/additionalPrinterColumns");
    if given.is_empty() {
        columns.push(column("Age", "date", "", AGE_COLUMN, 0));
        cells.extend(
            JsonPath::parse(".metadata.creationTimestamp").map(|path| Cell { path, kind: "date".into() }),
        );
        return (columns, cells);
    }
    for c in given {
        let path = text(c, "/jsonPath");
        // As upstream, the columns from the first unreadable path on are left out.
        let Ok(parsed) = JsonPath::parse(path) else { break };
        let described = match text(c, "/description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            text => text.to_string(),
        };
        let priority = c.get("priority").and_then(Value::as_i64).unwrap_or(0);
        columns.push(column(text(c, "/name"), text(c, "/type"), text(c, "/format"), &described, priority));
        cells.push(Cell { path: parsed, kind: text(c, "/type").to_string() });
    }
    (columns, cells)
}

fn selectable(version: &Value) -> Vec<(Str, JsonPath)> {
    let one = |f: &Value| {
        let path = text(f, "/jsonPath");
        let name: Str = path.trim_start_matches('.').to_string().into();
        JsonPath::parse(path).ok().map(|p| (name, p))
    };
    list(version, "/selectableFields").iter().filter_map(one).collect()
}

fn scale_paths(version: &Value) -> Option<ScalePaths> {
    let scale = version.pointer("/subresources/scale").filter(|s| !is_empty(Some(s)))?;
    let path = |key: &str| -> Str { text(scale, key).to_string().into() };
    Some(ScalePaths {
        spec_replicas: path("/specReplicasPath"),
        status_replicas: path("/statusReplicasPath"),
        selector: (!text(scale, "/labelSelectorPath").is_empty()).then(|| path("/labelSelectorPath")),
    })
}

/// What every answer about a deprecated version warns of.
fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    if !flag(version, "/deprecated") {
        return None;
    }
    if let Some(given) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(given.to_string());
    }
    let (group, kind, name) =
        (text(crd, "/spec/group"), text(crd, "/spec/names/kind"), text(version, "/name"));
    let mut better: Vec<&str> = list(crd, "/spec/versions")
        .iter()
        .filter(|v| flag(v, "/served") && !flag(v, "/deprecated"))
        .map(|v| text(v, "/name"))
        .filter(|v| knarr_machinery::version::compare(name, v).is_lt())
        .collect();
    better.sort_by(|a, b| knarr_machinery::version::compare(b, a));
    let more = better.first().map(|v| format!("; use {group}/{v} {kind}")).unwrap_or_default();
    Some(format!("{group}/{name} {kind} is deprecated{more}"))
}
