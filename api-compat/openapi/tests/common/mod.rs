//! The kinds of `stock_discovery.txt`, for tests.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::sync::Arc;

use knarr_kinds::kind::{Kind, KindInfo, Rules, Scope, Storage, Subresource, Verb};
use knarr_machinery::{GroupResource, GroupVersion, GroupVersionKind, Str};
use serde_json::Value;

pub const STOCK: &str = include_str!("../stock_discovery.txt");

/// One line of the file.
pub struct Line {
    pub gv: GroupVersion,
    pub name: String,
    pub kind: GroupVersionKind,
    pub scope: Scope,
    pub verbs: Vec<Verb>,
    pub stored: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub singular: String,
}

const ALL: [Verb; 8] = [
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

fn verbs(text: &str) -> Vec<Verb> {
    match text {
        "ALL" => ALL.to_vec(),
        "GPU" => vec![Verb::Get, Verb::Patch, Verb::Update],
        list => list.split(',').map(|v| *ALL.iter().find(|a| a.as_str() == v).unwrap()).collect(),
    }
}

pub fn lines() -> Vec<Line> {
    STOCK.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(line).collect()
}

fn line(text: &str) -> Line {
    let words: Vec<&str> = text.split(' ').collect();
    let gv = GroupVersion::parse(words[0]).unwrap();
    let extra = |key: &str| -> Vec<String> {
        let found = words[6..].iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        found.map(|l| l.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    let kind = match words[2].rsplit_once('/') {
        Some((gv, kind)) => {
            let gv = GroupVersion::parse(gv).unwrap();
            GroupVersionKind { group: gv.group, version: gv.version, kind: kind.to_owned().into() }
        }
        None => GroupVersionKind::new(gv.group.clone(), gv.version.clone(), words[2].to_owned()),
    };
    Line {
        gv,
        name: words[1].to_owned(),
        scope: if words[3] == "N" { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs(words[4]),
        stored: words[5].to_owned(),
        short: extra("short"),
        categories: extra("cat"),
        singular: extra("singular").pop().unwrap_or_else(|| words[2].to_lowercase()),
        kind,
    }
}

struct NoRules;

impl Rules for NoRules {
    fn validate_name(&self, _: &str, _: bool) -> Vec<String> {
        Vec::new()
    }

    fn row(&self, _: &Value, _: &str) -> Vec<Value> {
        Vec::new()
    }
}

fn storage(line: &Line) -> Option<Storage> {
    let (group, version) = match line.stored.as_str() {
        "-" => return None,
        "?" => (line.gv.group.clone(), line.gv.version.clone()),
        other => match other.split_once('/') {
            Some(("core", v)) => (Str::Borrowed(""), v.to_owned().into()),
            _ => (line.gv.group.clone(), other.to_owned().into()),
        },
    };
    let resource = GroupResource { group, resource: line.name.clone().into() };
    Some(Storage { resource, version })
}

/// Kinds made from the file alone.
pub fn stock_kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for line in lines() {
        if let Some((plural, sub)) = line.name.split_once('/') {
            let parent = kinds.last_mut().unwrap();
            assert_eq!(parent.info.plural, plural);
            Arc::get_mut(&mut parent.info).unwrap().subresources.push(Subresource {
                name: sub.to_owned().into(),
                gvk: line.kind.clone(),
                verbs: line.verbs,
            });
            continue;
        }
        let owned = |l: &[String]| l.iter().map(|s| Str::Owned(s.clone())).collect();
        let info = KindInfo {
            list_kind: format!("{}List", line.kind.kind).into(),
            plural: line.name.clone().into(),
            singular: line.singular.clone().into(),
            scope: line.scope,
            short_names: owned(&line.short),
            categories: owned(&line.categories),
            subresources: Vec::new(),
            storage: storage(&line),
            types: knarr_schema::type_of(&line.kind).unwrap(),
            definition: knarr_schema::definition_name(&line.kind).unwrap().into(),
            has_generation: false,
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            custom: false,
            verbs: line.verbs,
            gvk: line.kind,
        };
        kinds.push(Kind { info: Arc::new(info), rules: Arc::new(NoRules) });
    }
    kinds
}

/// A custom kind beside the stock ones.
pub fn custom_kind() -> Kind {
    let gvk = GroupVersionKind::new("stable.example.com", "v1", "CronTab");
    let status = Subresource {
        name: "status".into(),
        gvk: gvk.clone(),
        verbs: vec![Verb::Get, Verb::Patch, Verb::Update],
    };
    let info = KindInfo {
        list_kind: "CronTabList".into(),
        plural: "crontabs".into(),
        singular: "crontab".into(),
        scope: Scope::Namespaced,
        short_names: vec!["ct".into()],
        categories: Vec::new(),
        verbs: ALL.to_vec(),
        subresources: vec![status],
        storage: Some(Storage {
            resource: GroupResource::new("stable.example.com", "crontabs"),
            version: "v1".into(),
        }),
        types: knarr_schema::builtin_type("io.k8s.api.core.v1.ConfigMap").unwrap(),
        definition: "com.example.stable.v1.CronTab".into(),
        has_generation: true,
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        custom: true,
        gvk,
    };
    Kind { info: Arc::new(info), rules: Arc::new(NoRules) }
}
