//! What a check needs to know of the pod around the field that it looks at.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::value::{int, list, text};

/// Volumes without errors, by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// A pod spec under validation.
pub(super) struct Scene<'a> {
    /// The spec with its defaults.
    pub spec: &'a Value,
    /// The spec that is replaced; what was wrong there already may stay in some fields.
    pub old: Option<&'a Value>,
    /// Name of the pod, when the spec is a pod's and not a template's.
    pub pod: Option<&'a str>,
    /// Volumes that containers may mount.
    pub volumes: Volumes<'a>,
    /// Names of the resource claims.
    pub claims: BTreeSet<&'a str>,
    /// Seconds that the pod has to end.
    pub grace: Option<i64>,
    /// Whether the pod is in the user namespace of the host.
    pub host_users: bool,
}

impl<'a> Scene<'a> {
    /// The scene of a spec, before its volumes are known.
    pub(super) fn new(spec: &'a Value, old: Option<&'a Value>, pod: Option<&'a str>) -> Self {
        Self {
            spec,
            old,
            pod,
            volumes: Volumes::new(),
            claims: list(spec, "/resourceClaims")
                .iter()
                .map(|c| text(c, "/name"))
                .filter(|n| !n.is_empty())
                .collect(),
            grace: int(spec, "/terminationGracePeriodSeconds"),
            host_users: spec.get("hostUsers").and_then(Value::as_bool) != Some(false),
        }
    }

    /// Whether the old spec has this string in the list at `pointer`, under `key` of its items if that is given.
    pub(super) fn had(&self, pointer: &str, key: &str, value: &str) -> bool {
        self.old.is_some_and(|old| {
            list(old, pointer).iter().any(|v| if key.is_empty() { v == value } else { text(v, key) == value })
        })
    }
}

/// All containers of a spec with the name of their list and their index, in upstream's order of visits.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |key| {
        spec.get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
            .map(move |(i, c)| (key, i, c))
    })
}

/// The field, unless it is absent or null.
pub(super) fn given<'a>(obj: &'a Value, key: &str) -> Option<&'a Value> {
    obj.get(key).filter(|v| !v.is_null())
}
