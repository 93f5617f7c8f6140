//! API groups and their versions in the order that discovery shows.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use knarr_kinds::kind::{Kind, KindInfo};
pub use knarr_machinery::version::compare as compare_versions;

/// A group with its served versions.
#[derive(Debug)]
pub struct Group<'a> {
    /// Name, "" for core.
    pub name: &'a str,
    /// Versions, the preferred one first.
    pub versions: Vec<Version<'a>>,
}

/// A version with its kinds.
#[derive(Debug)]
pub struct Version<'a> {
    /// Name.
    pub name: &'a str,
    /// Kinds, sorted by plural name.
    pub kinds: Vec<&'a KindInfo>,
}

/// The priorities of an APIService: higher comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    /// `groupPriorityMinimum`.
    pub group: i32,
    /// `versionPriority`.
    pub version: i32,
}

/// Group, its priority, and the priorities of its versions.
type GroupRow = (&'static str, i32, &'static [(&'static str, i32)]);

/// Priorities of the built-in groups.
const PRIORITIES: &[GroupRow] = &[
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15), ("v1beta2", 9), ("v1beta1", 1)]),
    ("events.k8s.io", 17750, &[("v1", 15), ("v1beta1", 5)]),
    ("authentication.k8s.io", 17700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v2", 30), ("v1", 15), ("v2beta1", 9), ("v2beta2", 1)]),
    ("batch", 17400, &[("v1", 15), ("v1beta1", 9)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("policy", 17100, &[("v1", 15), ("v1beta1", 9)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("discovery.k8s.io", 16200, &[("v1", 15), ("v1beta1", 12)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21), ("v1beta3", 18), ("v1beta2", 15), ("v1beta1", 12)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("resource.k8s.io", 15900, &[("v1", 20), ("v1beta2", 15), ("v1beta1", 12), ("v1alpha3", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1", 20), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("metrics.k8s.io", 100, &[("v1beta1", 100)]),
];

/// What a CRD's versions get.
const CUSTOM: Priority = Priority { group: 1000, version: 100 };

/// The priority of a group version.
pub fn priority(group: &str, version: &str) -> Priority {
    // The aggregator's own group stands before all others.
    if group == "apiregistration.k8s.io" {
        return Priority { group: 20000, version: 10 };
    }
    let Some((_, group, versions)) = PRIORITIES.iter().find(|(g, ..)| *g == group) else {
        return CUSTOM;
    };
    let version = versions.iter().find(|(v, _)| *v == version).map_or(0, |(_, p)| *p);
    Priority { group: *group, version }
}

/// Groups in discovery's order, core first.
pub fn groups(kinds: &[Kind]) -> Vec<Group<'_>> {
    let mut by_name: BTreeMap<&str, BTreeMap<&str, Vec<&KindInfo>>> = BTreeMap::new();
    for kind in kinds {
        let gvk = &kind.info.gvk;
        by_name.entry(&gvk.group).or_default().entry(&gvk.version).or_default().push(&kind.info);
    }
    let mut groups: Vec<Group<'_>> = by_name
        .into_iter()
        .map(|(name, versions)| {
            let mut versions: Vec<Version<'_>> = versions
                .into_iter()
                .map(|(name, mut kinds)| {
                    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
                    Version { name, kinds }
                })
                .collect();
            versions.sort_by(|a, b| {
                let p = |v: &Version<'_>| Reverse(priority(name, v.name).version);
                p(a).cmp(&p(b)).then_with(|| compare_versions(b.name, a.name))
            });
            Group { name, versions }
        })
        .collect();
    let top = |g: &Group<'_>| g.versions.iter().map(|v| priority(g.name, v.name).group).max();
    groups.sort_by_key(|g| (!g.name.is_empty(), Reverse(top(g)), g.name.to_owned()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_order() {
        let mut names =
            ["foo10", "v1", "v11alpha2", "v10", "v3beta1", "foo1", "v2", "v11beta2", "v12alpha1", "v10beta3"];
        names.sort_by(|a, b| compare_versions(b, a));
        let want =
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        assert_eq!(names, want);
    }
}
