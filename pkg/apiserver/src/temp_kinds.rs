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
    fn default(&self, obj: &mut Value) {
        if obj["kind"] == "Pod" {
            let spec = obj["spec"].as_object_mut().unwrap();
            for (k, v) in [("restartPolicy", serde_json::json!("Always")), ("dnsPolicy", serde_json::json!("ClusterFirst")), ("terminationGracePeriodSeconds", serde_json::json!(30)), ("schedulerName", serde_json::json!("default-scheduler")), ("enableServiceLinks", serde_json::json!(true))] {
                spec.entry(k).or_insert(v);
            }
            for c in spec["containers"].as_array_mut().unwrap() { c.as_object_mut().unwrap().entry("imagePullPolicy").or_insert("IfNotPresent".into());
              c.as_object_mut().unwrap().entry("terminationMessagePath").or_insert("/dev/termination-log".into());
              c.as_object_mut().unwrap().entry("terminationMessagePolicy").or_insert("File".into()); }
        }
        if obj["kind"] == "Service" {
            let spec = obj["spec"].as_object_mut().unwrap();
            spec.entry("type").or_insert("ClusterIP".into());
            for c in spec["ports"].as_array_mut().unwrap() { let p = c["port"].clone(); c.as_object_mut().unwrap().entry("protocol").or_insert("TCP".into()); c.as_object_mut().unwrap().entry("targetPort").or_insert(p); }
        }
    }
    fn delete_plan(&self, obj: &Value, requested: Option<i64>) -> knarr_kinds::DeletePlan {
        if obj["kind"] != "Pod" || requested == Some(0) || obj["spec"]["nodeName"].is_null() { return knarr_kinds::DeletePlan::Now; }
        knarr_kinds::DeletePlan::Graceful(requested.unwrap_or(obj["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30)))
    }
    fn fields(&self, obj: &Value) -> Vec<(knarr_machinery::Str, String)> {
        vec![("spec.nodeName".into(), obj["spec"]["nodeName"].as_str().unwrap_or("").into()), ("status.phase".into(), obj["status"]["phase"].as_str().unwrap_or("").into())]
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
            let plural = match kind { "Endpoints" => "endpoints".to_string(), "PriorityClass" => "priorityclasses".to_string(), _ => format!("{}s", kind.to_lowercase()) };
            let gvk = GroupVersionKind::new(group, version, kind);
            let scope = if ["Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "SelfSubjectAccessReview", "SubjectAccessReview", "TokenReview"].contains(&kind) { Scope::Cluster } else { Scope::Namespaced };
            let verbs = vec![Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
            let column = |n: &'static str| Column { name: n.into(), kind: "string".into(), format: "".into(), description: "".into(), priority: 0 };
            all.push(Kind {
                info: Arc::new(KindInfo {
                    list_kind: format!("{kind}List").into(),
                    singular: kind.to_lowercase().into(),
                    scope,
                    short_names: vec![],
                    categories: vec![],
                    verbs,
                    subresources: vec![Subresource { name: "binding".into(), gvk: GroupVersionKind::new("", "v1", "Binding"), verbs: vec![Verb::Create] }, Subresource { name: "log".into(), gvk: gvk.clone(), verbs: vec![Verb::Get] }, Subresource { name: "exec".into(), gvk: gvk.clone(), verbs: vec![Verb::Get, Verb::Create] }, Subresource { name: "token".into(), gvk: GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"), verbs: vec![Verb::Create] }, Subresource { name: "status".into(), gvk: gvk.clone(), verbs: vec![Verb::Get, Verb::Patch, Verb::Update] }],
                    storage: (!kind.ends_with("Review")).then(|| Storage { resource: GroupResource::new(group, plural.clone()), version: version.into() }),
                    types,
                    definition: definition.into(),
                    has_generation: true,
                    columns: vec![column("Name"), column("Age")],
                    selectable_fields: if kind == "Pod" { vec!["spec.nodeName".into(), "status.phase".into()] } else { vec![] },
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
