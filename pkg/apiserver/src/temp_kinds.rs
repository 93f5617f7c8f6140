//! Stand-in for `knarr_kinds::builtins()` until it is merged.
use std::sync::{Arc, OnceLock};

use knarr_kinds::kind::{KindInfo, Storage};
use knarr_kinds::{Column, Kind, Rules, Scope, Subresource, Verb};
use knarr_machinery::{GroupResource, GroupVersionKind};
use serde_json::Value;

struct Plain;
impl Rules for Plain {
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if name.contains(':') {
            return Vec::new();
        }
        let name = if prefix { name.trim_end_matches('-') } else { name };
        knarr_machinery::names::is_dns1123_subdomain(name)
    }
    fn row(&self, obj: &Value, _: &str) -> Vec<Value> {
        vec![knarr_registry::obj::name(obj).into(), "1s".into()]
    }
}

/// Kinds guessed from the schema.
pub fn builtins() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let mut all = Vec::new();
        for (group, version, kind, definition) in knarr_schema::kinds() {
            let Some(types) = knarr_schema::builtin_type(definition) else { continue };
            if kind.ends_with("List") || kind.ends_with("Options") || group == "meta.k8s.io" {
                continue;
            }
            let plural = match kind {
                "Endpoints" => "endpoints".to_string(),
                "PriorityClass" => "priorityclasses".to_string(),
                _ => format!("{}s", kind.to_lowercase()),
            };
            let gvk = GroupVersionKind::new(group, version, kind);
            let scope = if [
                "Namespace",
                "Node",
                "ClusterRole",
                "ClusterRoleBinding",
                "PriorityClass",
                "SelfSubjectAccessReview",
                "SubjectAccessReview",
                "TokenReview",
            ]
            .contains(&kind)
            {
                Scope::Cluster
            } else {
                Scope::Namespaced
            };
            let verbs = vec![
                Verb::Create,
                Verb::Delete,
                Verb::DeleteCollection,
                Verb::Get,
                Verb::List,
                Verb::Patch,
                Verb::Update,
                Verb::Watch,
            ];
            let column = |n: &'static str| Column {
                name: n.into(),
                kind: "string".into(),
                format: "".into(),
                description: "".into(),
                priority: 0,
            };
            let mut subresources = vec![Subresource { name: "status".into(), gvk: gvk.clone(), verbs: vec![Verb::Get, Verb::Patch, Verb::Update] }];
            for name in ["log", "exec", "attach", "portforward", "proxy", "eviction", "binding"] {
                subresources.push(Subresource { name: name.into(), gvk: GroupVersionKind::new("", "v1", "X"), verbs: vec![Verb::Get, Verb::Create] });
            }
            all.push(Kind {
                info: Arc::new(KindInfo {
                    list_kind: format!("{kind}List").into(),
                    singular: kind.to_lowercase().into(),
                    scope,
                    short_names: vec![],
                    categories: vec![],
                    verbs,
                    subresources,
                    storage: (!kind.ends_with("Review")).then(|| Storage {
                        resource: GroupResource::new(group, plural.clone()),
                        version: version.into(),
                    }),
                    types,
                    definition: definition.into(),
                    has_generation: true,
                    columns: vec![column("Name"), column("Age")],
                    selectable_fields: vec![],
                    custom: false,
                    plural: plural.into(),
                    gvk,
                }),
                rules: Arc::new(Plain),
            });
        }
        all
    })
}
