use std::collections::BTreeMap;

use knarr_machinery::types::Type;
use serde_json::json;

use super::*;
use crate::kind::Scope;
use crate::testing::NOW;

#[test]
fn is_sorted_and_unique() {
    let keys: Vec<_> = builtins()
        .iter()
        .map(|k| (k.info.gvk.group.to_string(), k.info.gvk.version.to_string(), k.info.plural.to_string()))
        .collect();
    let mut sorted = keys.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(keys, sorted);
}

#[test]
fn every_kind_has_its_types() {
    for k in builtins() {
        assert!(!matches!(k.info.types.root, Type::Any), "{} has no types", k.info.definition);
    }
}

#[test]
fn rows_fit_columns() {
    let obj = json!({"metadata": {"name": "n", "creationTimestamp": NOW}});
    for k in builtins() {
        assert_eq!(k.rules.row(&obj, NOW).len(), k.info.columns.len(), "{}", k.info.gvk);
    }
}

#[test]
fn fields_fit_selectable_fields() {
    for k in builtins() {
        let mut given: Vec<_> = k.rules.fields(&json!({})).into_iter().map(|(n, _)| n).collect();
        let mut stated = k.info.selectable_fields.clone();
        given.sort();
        stated.sort();
        assert_eq!(given, stated, "{}", k.info.gvk);
    }
}

/// No rule may fail on a document that lacks everything.
#[test]
fn rules_bear_empty_documents() {
    let user = knarr_machinery::UserInfo::component("tester", &[]);
    for k in builtins() {
        let subs = k.info.subresources.iter().map(|s| Some(s.name.as_ref()));
        for sub in subs.chain([None]) {
            for doc in [
                json!({}),
                json!({"spec": null, "metadata": null, "status": null}),
                json!({"spec": {}, "metadata": {}}),
            ] {
                let ctx = crate::testing::ctx(&user, sub);
                let mut obj = doc.clone();
                k.rules.default(&mut obj);
                let mut old = obj.clone();
                k.rules.prepare_create(&ctx, &mut old);
                k.rules.validate(&ctx, &old);
                k.rules.prepare_update(&ctx, &mut obj, &old);
                k.rules.validate_update(&ctx, &obj, &old);
                k.rules.delete_plan(&obj, None);
                k.rules.from_storage(k.rules.to_storage(obj).unwrap()).unwrap();
            }
        }
    }
}

#[test]
fn defaults_are_idempotent() {
    for k in builtins() {
        let mut once = json!({"metadata": {"name": "n"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}, "containers": [{"name": "c"}]}});
        k.rules.default(&mut once);
        let mut twice = once.clone();
        k.rules.default(&mut twice);
        assert_eq!(once, twice, "{}", k.info.gvk);
    }
}

#[test]
fn counts_by_group() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for k in builtins() {
        *counts.entry(k.info.gvk.group_version().to_string()).or_default() += 1;
    }
    let expected = [
        ("admissionregistration.k8s.io/v1", 6),
        ("apiextensions.k8s.io/v1", 1),
        ("apiregistration.k8s.io/v1", 1),
        ("apps/v1", 5),
        ("authentication.k8s.io/v1", 2),
        ("authorization.k8s.io/v1", 4),
        ("autoscaling/v1", 1),
        ("autoscaling/v2", 1),
        ("batch/v1", 2),
        ("certificates.k8s.io/v1", 3),
        ("coordination.k8s.io/v1", 1),
        ("discovery.k8s.io/v1", 1),
        ("events.k8s.io/v1", 1),
        ("flowcontrol.apiserver.k8s.io/v1", 2),
        ("networking.k8s.io/v1", 5),
        ("node.k8s.io/v1", 1),
        ("policy/v1", 1),
        ("rbac.authorization.k8s.io/v1", 4),
        ("resource.k8s.io/v1", 5),
        ("scheduling.k8s.io/v1", 1),
        ("storage.k8s.io/v1", 6),
        ("storagemigration.k8s.io/v1", 1),
        ("v1", 17),
    ];
    let expected: BTreeMap<String, usize> = expected.iter().map(|(k, v)| ((*k).to_string(), *v)).collect();
    assert_eq!(counts, expected);
}

#[test]
fn find_by_resource() {
    let pods = find(&GroupVersionResource::new("", "v1", "pods")).unwrap();
    assert_eq!(pods.info.scope, Scope::Namespaced);
    assert!(find(&GroupVersionResource::new("", "v2", "pods")).is_none());
}
