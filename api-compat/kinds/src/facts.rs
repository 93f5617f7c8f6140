//! The builder with which each kind file states its facts.

use std::sync::Arc;

use knarr_machinery::types::{Type, TypeRef};
use knarr_machinery::{GroupResource, GroupVersionKind};

use crate::kind::{Column, Kind, KindInfo, Scope, Storage, Subresource, Verb};
use crate::ruleset::RuleSet;

/// All verbs of an ordinary resource, in discovery's order.
pub(crate) const ALL_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// Verbs of `status`, `scale` and their like.
pub(crate) const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];

/// Verbs of the proxy subresources.
pub(crate) const PROXY: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];

/// A column as kind files write it: name, type, priority, description.
pub(crate) type Col = (&'static str, &'static str, i32, &'static str);

/// The name column.
pub(crate) const NAME: Col = ("Name", "string", 0, "Name of the object, unique in its scope.");
/// The age column.
pub(crate) const AGE: Col = ("Age", "string", 0, "Time since the object was created.");
/// The creation column of upstream's default table.
pub(crate) const CREATED_AT: Col = ("Created At", "date", 0, "Time at which the object was created.");
/// Container names of a template.
pub(crate) const CONTAINERS: Col = ("Containers", "string", 1, "Container names in the template.");
/// Images of a template.
pub(crate) const IMAGES: Col = ("Images", "string", 1, "Images used by the containers in the template.");
/// Label selector.
pub(crate) const SELECTOR: Col = ("Selector", "string", 1, "Label query over the pods concerned.");

/// Facts under construction. The scope is the cluster until [`Facts::namespaced`].
pub(crate) struct Facts(KindInfo);

fn definition(group: &str, version: &str, kind: &str) -> String {
    match group {
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => {
            format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}")
        }
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        _ => {
            let package = group.split('.').next().unwrap_or(group);
            format!("io.k8s.api.{package}.{version}.{kind}")
        }
    }
}

impl Facts {
    /// An ordinary stored resource with all verbs, stored in its own place and version.
    pub(crate) fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        let definition = definition(group, version, kind);
        let types = knarr_schema::builtin_type(&definition)
            .unwrap_or(TypeRef { set: Arc::default(), root: Type::Any });
        Self(KindInfo {
            gvk: GroupVersionKind::new(group, version, kind),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            scope: Scope::Cluster,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: ALL_VERBS.to_vec(),
            subresources: Vec::new(),
            storage: Some(Storage { resource: GroupResource::new(group, plural), version: version.into() }),
            types,
            definition: definition.into(),
            has_generation: false,
            columns: columns(&[NAME, CREATED_AT]),
            selectable_fields: Vec::new(),
            custom: false,
        })
    }

    /// Lives in namespaces.
    pub(crate) fn namespaced(mut self) -> Self {
        self.0.scope = Scope::Namespaced;
        self
    }

    /// Short names.
    pub(crate) fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = names.iter().map(|n| (*n).into()).collect();
        self
    }

    /// Categories.
    pub(crate) fn categories(mut self, names: &[&'static str]) -> Self {
        self.0.categories = names.iter().map(|n| (*n).into()).collect();
        self
    }

    /// Other verbs than all of them.
    pub(crate) fn verbs(mut self, verbs: &[Verb]) -> Self {
        self.0.verbs = verbs.to_vec();
        self
    }

    /// A subresource whose document is of another kind.
    pub(crate) fn sub(
        mut self,
        name: &'static str,
        gvk: (&'static str, &'static str, &'static str),
        verbs: &[Verb],
    ) -> Self {
        self.0.subresources.push(Subresource {
            name: name.into(),
            gvk: GroupVersionKind::new(gvk.0, gvk.1, gvk.2),
            verbs: verbs.to_vec(),
        });
        self.0.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// A subresource whose document is the object itself.
    pub(crate) fn sub_self(mut self, name: &'static str, verbs: &[Verb]) -> Self {
        let gvk = self.0.gvk.clone();
        self.0.subresources.push(Subresource { name: name.into(), gvk, verbs: verbs.to_vec() });
        self.0.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// The `status` subresource.
    pub(crate) fn status(self) -> Self {
        self.sub_self("status", GET_PATCH_UPDATE)
    }

    /// The `scale` subresource.
    pub(crate) fn scale(self) -> Self {
        self.sub("scale", ("autoscaling", "v1", "Scale"), GET_PATCH_UPDATE)
    }

    /// `metadata.generation` is counted.
    pub(crate) fn generation(mut self) -> Self {
        self.0.has_generation = true;
        self
    }

    /// Printer columns.
    pub(crate) fn columns(mut self, cols: &[Col]) -> Self {
        self.0.columns = columns(cols);
        self
    }

    /// Field selectors.
    pub(crate) fn selectable(mut self, names: &[&'static str]) -> Self {
        self.0.selectable_fields = names.iter().map(|n| (*n).into()).collect();
        self
    }

    /// Stored under another resource or version.
    pub(crate) fn stored_as(
        mut self,
        group: &'static str,
        plural: &'static str,
        version: &'static str,
    ) -> Self {
        self.0.storage =
            Some(Storage { resource: GroupResource::new(group, plural), version: version.into() });
        self
    }

    /// Nothing is stored; these verbs are all it takes.
    pub(crate) fn unstored(mut self, verbs: &[Verb]) -> Self {
        self.0.storage = None;
        self.verbs(verbs)
    }

    /// Joins the facts with their rules.
    pub(crate) fn build(self, rules: &'static RuleSet) -> Kind {
        Kind { info: Arc::new(self.0), rules: Arc::new(rules) }
    }
}

fn columns(cols: &[Col]) -> Vec<Column> {
    cols.iter()
        .map(|(name, kind, priority, description)| Column {
            name: (*name).into(),
            kind: (*kind).into(),
            format: if *name == "Name" && *priority == 0 { "name" } else { "" }.into(),
            description: (*description).into(),
            priority: *priority,
        })
        .collect()
}
