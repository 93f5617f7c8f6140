//! Which resources the server has, for controllers that act on all of them.

use std::collections::HashMap;

use kube::Client;
use kube::discovery::ApiResource;

use crate::error::{During, Error};

/// One resource in its preferred version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServedResource {
    /// Names for requests.
    pub api: ApiResource,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl ServedResource {
    /// Whether all these verbs are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|x| x == v))
    }

    /// `pods` or `deployments.apps`.
    pub fn name(&self) -> String {
        if self.api.group.is_empty() {
            self.api.plural.clone()
        } else {
            format!("{}.{}", self.api.plural, self.api.group)
        }
    }
}

/// All resources of the server.
#[derive(Debug, Default)]
pub struct Served {
    /// One entry a resource, in its preferred version.
    pub resources: Vec<ServedResource>,
    /// Every version's kinds: (apiVersion, kind) to the resource in that version.
    pub kinds: HashMap<(String, String), ServedResource>,
    /// Group versions that could not be discovered.
    pub failed: Vec<String>,
}

/// Asks the server what it serves.
///
/// # Errors
/// The server did not answer.
pub async fn discover(client: &Client) -> Result<Served, Error> {
    let core =
        client.list_core_api_versions_aggregated().await.during("discover", "resources", "", "/api")?;
    let groups = client.list_api_groups_aggregated().await.during("discover", "resources", "", "/apis")?;
    let mut served = Served::default();
    for group in core.items.into_iter().chain(groups.items) {
        let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
        let mut seen = Vec::new();
        for version in group.versions {
            let number = version.version.unwrap_or_default();
            let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
            if version.freshness.as_deref() == Some("Stale") {
                served.failed.push(api_version);
                continue;
            }
            for resource in version.resources {
                let Some(plural) = resource.resource else { continue };
                let kind = resource.response_kind.and_then(|k| k.kind).unwrap_or_default();
                let entry = ServedResource {
                    api: ApiResource {
                        group: name.clone(),
                        version: number.clone(),
                        api_version: api_version.clone(),
                        kind: kind.clone(),
                        plural: plural.clone(),
                    },
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                };
                served.kinds.insert((api_version.clone(), kind), entry.clone());
                if !seen.contains(&plural) {
                    seen.push(plural);
                    served.resources.push(entry);
                }
            }
        }
    }
    Ok(served)
}
