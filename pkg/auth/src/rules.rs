//! RBAC rules as pure values: matching, covering, and the text of rights.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::attributes::{Attributes, ResourceAttributes};

/// One policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub groups: Vec<String>,
    /// Resources, also `*/scale`.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub names: Vec<String>,
    /// URLs, also with a trailing `*`.
    pub urls: Vec<String>,
}

impl From<&PolicyRule> for Rule {
    fn from(r: &PolicyRule) -> Self {
        Self {
            verbs: r.verbs.clone(),
            groups: r.api_groups.clone().unwrap_or_default(),
            resources: r.resources.clone().unwrap_or_default(),
            names: r.resource_names.clone().unwrap_or_default(),
            urls: r.non_resource_urls.clone().unwrap_or_default(),
        }
    }
}

fn any_or(list: &[String], item: &str) -> bool {
    list.iter().any(|x| x == "*" || x == item)
}

fn resource_matches(list: &[String], combined: &str, subresource: &str) -> bool {
    list.iter().any(|r| {
        r == "*"
            || r == combined
            || (!subresource.is_empty() && r.strip_prefix("*/").is_some_and(|s| s == subresource))
    })
}

fn url_matches(list: &[String], url: &str) -> bool {
    list.iter()
        .any(|r| r == "*" || r == url || (r.ends_with('*') && url.starts_with(r.trim_end_matches('*'))))
}

impl Rule {
    /// Whether the rule allows a request.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !any_or(&self.verbs, &a.verb) {
            return false;
        }
        match &a.resource {
            Some(r) => self.allows_resource(r),
            None => url_matches(&self.urls, &a.path),
        }
    }

    fn allows_resource(&self, r: &ResourceAttributes) -> bool {
        any_or(&self.groups, &r.group)
            && resource_matches(&self.resources, &r.combined(), &r.subresource)
            && (self.names.is_empty() || self.names.contains(&r.name))
    }

    /// Whether the rule includes all of another rule that is broken down to single rights.
    fn covers(&self, other: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| theirs.iter().all(|t| any_or(mine, t));
        let resources = other.resources.iter().all(|r| {
            let sub = r.split_once('/').map_or("", |(_, s)| s);
            resource_matches(&self.resources, r, sub)
        });
        let names = self.names.is_empty()
            || (!other.names.is_empty() && other.names.iter().all(|n| self.names.contains(n)));
        all(&self.verbs, &other.verbs)
            && all(&self.groups, &other.groups)
            && resources
            && names
            && other.urls.iter().all(|u| url_matches(&self.urls, u))
    }

    /// The single rights of a rule.
    fn parts(&self) -> Vec<Self> {
        let mut out = Vec::new();
        let one = |s: &String| vec![s.clone()];
        for verb in &self.verbs {
            for group in &self.groups {
                for resource in &self.resources {
                    let right = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        out.push(right);
                    } else {
                        out.extend(self.names.iter().map(|n| Self { names: one(n), ..right.clone() }));
                    }
                }
            }
            out.extend(self.urls.iter().map(|u| Self { verbs: one(verb), urls: one(u), ..Self::default() }));
        }
        out
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn describe(&self) -> String {
        let quoted = |l: &[String]| l.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ");
        let fields = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let fields: Vec<String> = fields
            .iter()
            .filter(|(_, l)| !l.is_empty())
            .map(|(n, l)| format!("{n}:[{}]", quoted(l)))
            .collect();
        format!("{{{}}}", fields.join(", "))
    }
}

/// The rights of `wanted` that `owned` does not include, verbs of one resource joined.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for right in wanted.iter().flat_map(Rule::parts).filter(|r| !owned.iter().any(|o| o.covers(r))) {
        let same = |o: &&mut Rule| {
            o.urls.is_empty()
                && right.urls.is_empty()
                && (&o.groups, &o.resources, &o.names) == (&right.groups, &right.resources, &right.names)
        };
        match out.iter_mut().find(same) {
            Some(o) => o.verbs.extend(right.verbs),
            None => out.push(right),
        }
    }
    out
}

/// The lines that describe rights, sorted, each once.
pub fn describe_all(rules: &[Rule]) -> String {
    let lines: BTreeSet<String> = rules.iter().map(Rule::describe).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_machinery::UserInfo;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        let l = |s: &str| {
            s.split_whitespace().map(|x| if x == "core" { String::new() } else { x.into() }).collect()
        };
        Rule { verbs: l(verbs), groups: l(groups), resources: l(resources), names: l(names), urls: l(urls) }
    }

    fn ask(verb: &str, group: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        let resource = ResourceAttributes {
            group: group.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            ..Default::default()
        };
        Attributes {
            user: UserInfo::default(),
            verb: verb.into(),
            resource: Some(resource),
            path: String::new(),
        }
    }

    #[test]
    fn matching() {
        for (r, a, want) in [
            (rule("get", "core", "pods", "", ""), ask("get", "", "pods", "", "x"), true),
            (rule("get", "core", "pods", "", ""), ask("get", "", "pods", "log", "x"), false),
            (rule("get", "core", "pods/log", "", ""), ask("get", "", "pods", "log", "x"), true),
            (rule("get", "*", "*/scale", "", ""), ask("get", "apps", "deployments", "scale", "x"), true),
            (rule("get", "*", "*/scale", "", ""), ask("get", "apps", "deployments", "", "x"), false),
            (rule("*", "*", "*", "", ""), ask("frob", "x.y", "z", "w", ""), true),
            (rule("get", "core", "pods", "a b", ""), ask("get", "", "pods", "", "b"), true),
            (rule("get", "core", "pods", "a b", ""), ask("get", "", "pods", "", ""), false),
            (rule("list", "core", "pods", "", ""), ask("get", "", "pods", "", "b"), false),
        ] {
            assert_eq!(r.allows(&a), want, "{r:?} {a:?}");
        }
        let path = |p: &str| Attributes { verb: "get".into(), path: p.into(), ..Default::default() };
        let r = rule("get", "", "", "", "/api /api/*");
        assert!(r.allows(&path("/api")) && r.allows(&path("/api/v1")) && !r.allows(&path("/apis")));
    }

    #[test]
    fn covering() {
        let owned = [rule("get list", "core", "pods", "", ""), rule("get", "", "", "", "/a*")];
        assert!(missing(&owned, &[rule("get", "core", "pods", "x", "")]).is_empty());
        assert!(missing(&owned, &[rule("get", "", "", "", "/ab")]).is_empty());
        let gone = missing(&owned, &[rule("get delete create", "core", "pods secrets", "", "")]);
        assert_eq!(
            describe_all(&gone),
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\" \"create\"]}"
        );
        assert!(missing(&[rule("*", "*", "*", "", "")], &[rule("get", "x", "y/z", "", "")]).is_empty());
        assert_eq!(
            missing(&[rule("get", "core", "pods", "a", "")], &[rule("get", "core", "pods", "", "")]).len(),
            1
        );
    }
}
